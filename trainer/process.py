"""Processes by pid and start time, since a pid alone is reused. Asks the operating system."""

from collections.abc import Mapping
from typing import Any

import psutil

_SAME_SECONDS = 1.0
"""Two readings of one start time differ by this much at most (the clock is set meanwhile)."""


def identify(pid: int) -> dict[str, Any] | None:
    """The process as it is written down: {"pid", "create_time"}; None when it is gone."""
    try:
        return {"pid": pid, "create_time": psutil.Process(pid).create_time()}
    except psutil.Error:
        return None


def find(identity: Mapping[str, Any] | None) -> psutil.Process | None:
    """The process that was written down, while it runs; None when it ended or its pid is another's.

    Args:
        identity: what `identify` returned, also as read back from disk.
    """
    if not identity:
        return None
    try:
        process = psutil.Process(int(identity["pid"]))
        same = abs(process.create_time() - float(identity["create_time"])) < _SAME_SECONDS
        # A zombie has ended; only its parent has not looked yet.
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None


def is_alive(identity: Mapping[str, Any] | None) -> bool:
    """Whether the process that was written down still runs."""
    return find(identity) is not None
