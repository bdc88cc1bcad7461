"""The GPU of Apple's chips: one pool of memory with the processor. Asks sysctl, system_profiler."""

import functools
import json
import platform
import sys

from advisor.errors import note
from advisor.hardware import host
from advisor.hardware.machine import Gpu
from advisor.hardware.vendors import Found, Run, run
from advisor.units import MIB

_SHARE = 0.72
"""Of RAM that Metal recommends a process to use; the catalogue's share. It is 2/3 to 3/4."""


def probe(ram: host.Ram, ask: Run = run) -> Found:
    """The GPU of an Apple chip; none on other machines.

    Args:
        ram: the pool that GPU and processor share.
        ask: runs a program.
    """
    if sys.platform != "darwin":
        return Found()
    if platform.machine() != "arm64":
        return Found(notes=(note("apple.intel_mac"),))
    chip = (ask(["sysctl", "-n", "machdep.cpu.brand_string"]) or "").strip() or "Apple GPU"
    limit = (ask(["sysctl", "-n", "iogpu.wired_limit_mb"]) or "").strip()
    total, notes = None, ()
    if limit.isdecimal() and int(limit) > 0:
        total = int(limit) * MIB
    elif ram.total_bytes is not None:
        total = round(_SHARE * ram.total_bytes)
        notes = (note("apple.assumed", share=_SHARE),)
    known = [n for n in (total, ram.free_bytes) if n is not None]
    cores = _cores(ask)
    gpu = Gpu(
        name=f"{chip} ({cores})" if cores else chip,
        total_bytes=total,
        free_bytes=min(known) if ram.free_bytes is not None else None,
        processes=None,
        vendor="apple",
        memory_kind="unified",
        source="measured",
    )
    return Found(gpus=(gpu,), notes=notes)


@functools.cache
def _cores(ask: Run) -> str | None:
    """GPU cores; the profiler takes a second, so it is asked once."""
    try:
        document = json.loads(ask(["system_profiler", "SPDisplaysDataType", "-json"]) or "")
        entries = document.get("SPDisplaysDataType", []) if isinstance(document, dict) else []
    except ValueError:
        return None
    for entry in entries:
        cores = entry.get("sppci_cores") if isinstance(entry, dict) else None
        if isinstance(cores, str) and cores.isdecimal():
            return cores
    return None
