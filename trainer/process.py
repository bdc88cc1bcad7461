"""Processes by pid and start time, since a pid alone is reused. Asks the operating system."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_SAME_SECONDS = 1.0
"""Two readings of one start time differ by this much at most."""


def identify(pid: int) -> dict[str, Any] | None:
    """The process as it is written down; None when it is gone.

    {"pid", "create_time", "since_boot"}: the last one is None where the system does not tell.
    """
    try:
        created = psutil.Process(pid).create_time()
    except psutil.Error:
        return None
    return {"pid": pid, "create_time": created, "since_boot": _since_boot(pid)}


def _since_boot(pid: int) -> str | None:
    """Boot and clock ticks after it: what setting the clock does not change, as it does the time.

    Linux alone; see proc(5), field 22 of stat.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return f"{boot} {int(stat.rpartition(b')')[2].split()[19])}"
    except (OSError, ValueError, IndexError):
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
        known, found = identity.get("since_boot"), _since_boot(process.pid)
        if known is not None and found is not None:
            same = known == found
        else:
            same = abs(process.create_time() - float(identity["create_time"])) < _SAME_SECONDS
        # A zombie has ended; only its parent has not looked yet.
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None


def is_alive(identity: Mapping[str, Any] | None) -> bool:
    """Whether the process that was written down still runs."""
    return find(identity) is not None
