"""The browser tests share fixtures and steps of test_dashboard.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
