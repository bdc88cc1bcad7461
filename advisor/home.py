"""Where this program keeps its files.

Reads TRAINING_ADVISOR_HOME; creates the directories it returns.
"""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """TRAINING_ADVISOR_HOME, or the platform's user data directory."""
    configured = os.environ.get("TRAINING_ADVISOR_HOME")
    path = (
        Path(configured).expanduser()
        if configured
        else Path(platformdirs.user_data_dir("training-advisor"))
    )
    path = path.absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def cache_dir() -> Path:
    """Profiles, descriptions and measurements that can be made again."""
    path = home() / "cache"
    path.mkdir(exist_ok=True)
    return path


def runs_dir() -> Path:
    """Run directories, for their owner alone: arguments, texts in logs, weights."""
    path = home() / "runs"
    path.mkdir(mode=0o700, exist_ok=True)
    return path
