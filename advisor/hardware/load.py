"""How much of the processors others use: what makes a measurement of time worthless."""

import os
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, kw_only=True)
class Busy:
    """A program that uses the processors."""

    pid: int
    name: str
    processors: float
    """How many it kept busy."""


class Foreign:
    """Processor time that others take from now on.

    Others are all programs but this process, and what the host of a virtual machine takes away.
    """

    def __init__(self) -> None:
        """Start counting."""
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        everybody = psutil.cpu_times()
        # On Linux user leaves out what runs with a lower priority.
        others = sum(getattr(everybody, name, 0.0) for name in ("nice", "steal"))
        used = everybody.user + everybody.system + others
        return time.perf_counter(), used - time.process_time()

    def processors(self) -> float:
        """Their average number so far."""
        clock, used = (b - a for a, b in zip(self._began, self._now(), strict=True))
        return max(used / clock, 0.0) if clock > 0 else 0.0


def busiest(seconds: float = 1.0, least: float = 0.1) -> tuple[Busy, ...]:
    """Other programs that keep at least `least` processors busy during so many seconds."""
    before = _used()
    time.sleep(seconds)
    after = _used()
    found = [
        Busy(pid=pid, name=name, processors=(used - before[pid][1]) / seconds)
        for pid, (name, used) in after.items()
        if pid in before and pid != os.getpid()
    ]
    found = [b for b in found if b.processors >= least]
    return tuple(sorted(found, key=lambda b: -b.processors))


def _used() -> dict[int, tuple[str, float]]:
    result = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            result[process.pid] = process.info["name"] or "?", times.user + times.system
    return result
