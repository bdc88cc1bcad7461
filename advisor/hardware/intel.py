"""Intel GPUs, from sysfs and, where it is installed, xpu-smi. Never raises for a driver.

xpu-smi is asked as a program: Level Zero loads the GPU's driver into the process that calls it.
"""

import json
import re
from pathlib import Path
from typing import Any

from advisor.errors import note
from advisor.hardware.machine import Gpu
from advisor.hardware.surroundings import number
from advisor.hardware.vendors import Found, Run, run
from advisor.units import MIB

_ROOT = Path("/")
_VENDOR = 0x8086
_DRIVERS = ("i915", "xe")
_INTEGRATED = "0000:00:02.0"
"""PCI address of the GPU inside Intel's processors."""


def probe(root: Path = _ROOT, ask: Run = run) -> Found:
    """All Intel GPUs that a driver holds.

    Args:
        root: where sys/ is; another directory in tests.
        ask: runs a program.
    """
    cards = _cards(root)
    if not cards:
        return Found()
    listed = {
        str(entry.get("pci_bdf_address", "")).lower(): entry
        for entry in _entries(ask(["xpu-smi", "discovery", "-j"]), "device_list")
        if entry.get("device_function_type") != "virtual"
    }
    gpus = tuple(
        _describe(card, listed.get(card.resolve().name.lower(), {}), ask) for card in cards
    )
    unknown = any(gpu.memory_kind == "dedicated" and gpu.free_bytes is None for gpu in gpus)
    return Found(gpus=gpus, notes=(note("intel.not_probed"),) if unknown else ())


def _cards(root: Path) -> list[Path]:
    found = []
    for card in (root / "sys/class/drm").glob("card[0-9]*"):
        device = card / "device"
        driver = (device / "driver").resolve().name
        is_card = re.fullmatch(r"card\d+", card.name) is not None
        if is_card and number(device / "vendor") == _VENDOR and driver in _DRIVERS:
            found.append(device)
    return sorted(found, key=lambda device: int(device.parent.name[4:]))


def _describe(device: Path, entry: dict[str, Any], ask: Run) -> Gpu:
    integrated = device.resolve().name == _INTEGRATED
    total = _number(entry.get("memory_physical_size_byte")) or _memory(device)
    used = None
    if total is not None and "device_id" in entry:
        used = _used(ask(["xpu-smi", "stats", "-d", str(entry["device_id"]), "-j"]))
    name = re.sub(r"\((R|TM)\)", "", str(entry.get("device_name", "")))
    return Gpu(
        name=" ".join(name.split()) or f"Intel GPU {number(device / 'device') or 0:04x}",
        uuid=entry.get("uuid"),
        total_bytes=None if integrated else total,
        used_bytes=used,
        free_bytes=None if total is None or used is None else total - used,
        processes=None,
        vendor="intel",
        memory_kind="shared" if integrated else "dedicated",
        source="measured",
    )


def _memory(device: Path) -> int | None:
    """Bytes of local memory that the driver publishes: xe for each tile, i915 in one file."""
    tiles = [number(path) for path in device.glob("tile*/physical_vram_size_bytes")]
    known = [size for size in tiles if size]
    if known:
        return sum(known)
    return number(device.parent / "lmem_total_bytes") or number(device / "lmem_total_bytes")


def _used(printed: str | None) -> int | None:
    """Bytes in use: xpu-smi prints MiB, of the device or else of its tiles."""
    sizes = _memory_used(_entries(printed, "device_level"))
    if not sizes:
        tiles = _entries(printed, "tile_level")
        lists = [_entries(json.dumps(tile), "data_list") for tile in tiles]
        sizes = _memory_used([entry for listed in lists for entry in listed])
    return round(sum(sizes) * MIB) if sizes else None


def _memory_used(entries: list[dict[str, Any]]) -> list[float]:
    found = [e.get("value") for e in entries if e.get("metrics_type") == "XPUM_STATS_MEMORY_USED"]
    return [value for value in found if isinstance(value, int | float)]


def _entries(printed: str | None, key: str) -> list[dict[str, Any]]:
    try:
        document = json.loads(printed or "")
    except ValueError:
        return []
    listed = document.get(key) if isinstance(document, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if listed else []


def _number(value: Any) -> int | None:
    text = str(value)  # xpu-smi writes numbers as text in some versions
    return int(text) if text.isdecimal() else None
