"""The benchmarks are scripts: their tests import them as the scripts import each other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
