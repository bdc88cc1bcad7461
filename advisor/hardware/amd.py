"""AMD GPUs, through amdsmi where it is installed, else from sysfs. Never raises for a driver."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advisor.errors import note
from advisor.hardware.machine import Gpu, GpuProcess, MemoryKind
from advisor.hardware.owners import owned
from advisor.hardware.surroundings import number, read
from advisor.hardware.vendors import Found

_ROOT = Path("/")
_VENDOR = 0x1002
_IDS = "usr/share/libdrm/amdgpu.ids"
"""Names by device and revision id; libdrm brings the file."""


def probe(root: Path = _ROOT, load: Callable[[], Any | None] | None = None) -> Found:
    """All AMD GPUs.

    Args:
        root: where sys/ and dev/ are; another directory in tests.
        load: returns the amdsmi module or None.
    """
    cards = _cards(root)
    library = (load or _amdsmi)() if cards or (root / "dev/kfd").exists() else None
    if library is not None:
        found = _by_library(library)
        if found is not None:
            return found
    if not cards and (root / "dev/kfd").exists():
        return Found(notes=(note("amd.not_probed"),))
    gpus = tuple(_from_sysfs(card, root) for card in cards)
    return Found(gpus=gpus, notes=(note("amd.not_listed"),) if gpus else ())


def _amdsmi() -> Any | None:
    try:
        return importlib.import_module("amdsmi")
    except (ImportError, OSError, RuntimeError, KeyError, AttributeError):
        return None  # the binding loads libamd_smi.so while it is imported


def _by_library(library: Any) -> Found | None:
    """None where the library cannot be opened."""
    if _ask(library, "amdsmi_init", default=False) is False:
        return None
    try:
        handles = _ask(library, "amdsmi_get_processor_handles") or []
        gpus = tuple(_from_library(library, handle) for handle in handles)
    finally:
        _ask(library, "amdsmi_shut_down")
    unlisted = any(gpu.processes is None for gpu in gpus)
    return Found(gpus=gpus, notes=(note("amd.unlisted"),) if unlisted else ())


def _ask(library: Any, name: str, *args: Any, default: Any = None) -> Any:
    """Call an amdsmi function: the only place where the library is asked anything."""
    try:
        return getattr(library, name)(*args)
    except (library.AmdSmiException, AttributeError):
        return default


def _from_library(library: Any, handle: Any) -> Gpu:
    asic = _ask(library, "amdsmi_get_gpu_asic_info", handle) or {}
    vram = library.AmdSmiMemoryType.VRAM
    total = _whole(_ask(library, "amdsmi_get_gpu_memory_total", handle, vram))
    used = _whole(_ask(library, "amdsmi_get_gpu_memory_usage", handle, vram))
    kind = str((_ask(library, "amdsmi_get_gpu_vram_info", handle) or {}).get("vram_type", ""))
    name = str(asic.get("market_name") or "AMD GPU")
    return Gpu(
        name=name,
        uuid=_ask(library, "amdsmi_get_gpu_device_uuid", handle),
        total_bytes=total,
        used_bytes=used,
        free_bytes=None if total is None or used is None else total - used,
        processes=_processes(_ask(library, "amdsmi_get_gpu_process_list", handle)),
        vendor="amd",
        memory_kind=_memory_kind(name, kind, cores=None),
        source="measured",
    )


def _processes(listed: Any) -> tuple[GpuProcess, ...] | None:
    """Older versions list handles in the place of records: not listed."""
    if listed is None or any(not isinstance(entry, dict) for entry in listed):
        return None
    found = []
    for entry in listed:
        memory = entry.get("memory_usage") or {}
        pid = _whole(entry.get("pid"))
        if pid is not None:
            used = _whole(memory.get("vram_mem")) or _whole(entry.get("mem"))
            found.append(owned(pid, used, name=entry.get("name")))
    return tuple(sorted(found, key=lambda process: -(process.used_bytes or 0)))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None  # or "N/A"


def _cards(root: Path) -> list[Path]:
    """Device directories of AMD's cards, in the kernel's order."""
    cards = (root / "sys/class/drm").glob("card[0-9]*")
    named = [card for card in cards if re.fullmatch(r"card\d+", card.name)]
    named.sort(key=lambda card: int(card.name[4:]))
    return [card / "device" for card in named if number(card / "device/vendor") == _VENDOR]


def _from_sysfs(device: Path, root: Path) -> Gpu:
    total = number(device / "mem_info_vram_total")
    used = number(device / "mem_info_vram_used")
    name = read(device / "product_name") or _name(device, root) or "AMD GPU"
    serial = read(device / "unique_id")
    return Gpu(
        name=name,
        uuid=f"GPU-{serial}" if serial else None,
        total_bytes=total,
        used_bytes=used,
        free_bytes=None if total is None or used is None else total - used,
        processes=None,
        vendor="amd",
        memory_kind=_memory_kind(name, "", cores=_cores(device, root)),
        source="measured",
    )


def _name(device: Path, root: Path) -> str | None:
    ids = (number(device / "device"), number(device / "revision"))
    for line in read(root / _IDS).splitlines():
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == 3 and not line.startswith("#"):
            try:
                if (int(parts[0], 16), int(parts[1], 16)) == ids:
                    return parts[2]
            except ValueError:
                continue
    return None


def _cores(device: Path, root: Path) -> int | None:
    """Processor cores of the chip's node in the KFD topology: above 0 on an APU."""
    minors = [path.name.removeprefix("renderD") for path in (device / "drm").glob("renderD*")]
    for node in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        values = dict(line.split(" ", 1) for line in read(node).splitlines() if " " in line)
        if values.get("drm_render_minor") in minors and values.get("cpu_cores_count", "").isdigit():
            return int(values["cpu_cores_count"])
    return None


def _memory_kind(name: str, memory: str, *, cores: int | None) -> MemoryKind | None:
    if "MI300A" in name:
        return "unified"
    if memory.upper().startswith(("HBM", "GDDR")):
        return "dedicated"
    if memory.upper().startswith(("DDR", "LPDDR")) or cores:
        return "shared"
    return "dedicated" if re.search(r"\b(RX|Instinct|MI\d+\w*|PRO W\d+)\b", name) else None
