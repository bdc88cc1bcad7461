"""NVIDIA GPUs. Asks the driver through NVML, always by `query`, and reads the CUDA_* variables."""

import functools
import itertools
import logging
import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from advisor.errors import note
from advisor.hardware import owners
from advisor.hardware.machine import Connection, Gpu, GpuProcess, Link

logger = logging.getLogger(__name__)

_CONNECTIONS: tuple[tuple[int, Connection], ...] = (
    (pynvml.NVML_TOPOLOGY_MULTIPLE, "pcie switch"),
    (pynvml.NVML_TOPOLOGY_HOSTBRIDGE, "host bridge"),
    (pynvml.NVML_TOPOLOGY_NODE, "numa node"),
    (pynvml.NVML_TOPOLOGY_SYSTEM, "between processors"),
)
"""The highest level of nvmlDeviceGetTopologyCommonAncestor that each stands for."""


@dataclass(frozen=True, kw_only=True)
class Nvidia:
    """What the driver says."""

    gpus: tuple[Gpu, ...] = ()
    """The visible ones in CUDA's order, then the hidden ones."""
    driver_version: str | None = None
    cuda_version: tuple[int, int] | None = None
    """Newest CUDA that the driver runs."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Board:
    """A card as NVML counts them."""

    uuid: str | None = None
    devices: tuple[Gpu, ...]
    """The card itself, or its MIG instances."""
    is_mig: bool = False
    usable: bool = True
    """False: CUDA does not show it whatever the environment says."""

    def numbered(self) -> Iterator[tuple[int, Gpu]]:
        """Devices with their places."""
        return iter(enumerate(self.devices))


def query(name: str, *args: Any, unsupported: Any | None = None) -> Any | None:
    """Call an NVML function: the only place where the driver is asked anything.

    Args:
        name: e.g. "nvmlDeviceGetName".
        args: its arguments.
        unsupported: the answer where the device has no such thing.

    Returns:
        Its answer, or None when NVML refuses (no permission, not found). A refusal is logged once.
    """
    try:
        return getattr(pynvml, name)(*args)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, UnicodeDecodeError) as error:
        _log_once(name, str(error))
        code = getattr(error, "value", None)
        return unsupported if code == pynvml.NVML_ERROR_NOT_SUPPORTED else None


@functools.cache
def _log_once(name: str, reason: str) -> None:
    logger.info("%s: %s", name, reason)


@contextmanager
def session() -> Generator[str | None]:
    """Keep NVML open for the queries inside; yields None, or a sentence that says why it is not."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield _why_closed(error)
        return
    try:
        yield None
    finally:
        query("nvmlShutdown")


def _why_closed(error: Any) -> str:
    match error.value:
        case pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return note("nvidia.no_driver")
        case pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
            return note("nvidia.not_loaded")
        case pynvml.NVML_ERROR_NO_PERMISSION:
            return note("nvidia.no_permission")
        case pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            return note("nvidia.updated")
    return note("nvidia.not_probed", error=error)


def probe(environ: Mapping[str, str] = os.environ) -> Nvidia:
    """All NVIDIA GPUs of this machine, hidden ones included.

    Args:
        environ: where CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are read.
    """
    with session() as reason:
        if reason is not None:
            return Nvidia(notes=(reason,))
        notes: list[str] = []
        boards = _boards(notes)
        gpus = _number(boards, environ.get("CUDA_VISIBLE_DEVICES"), notes)
        unlike = len({board.devices[0].name for board in boards}) > 1
        if unlike and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            notes.append(note("nvidia.order"))
        version = query("nvmlSystemGetCudaDriverVersion")
        return Nvidia(
            gpus=gpus,
            driver_version=query("nvmlSystemGetDriverVersion"),
            cuda_version=None if version is None else (version // 1000, version % 1000 // 10),
            notes=tuple(notes),
        )


def visible_devices(variable: str | None, boards: list[Board]) -> list[tuple[int, int]]:
    """Devices a CUDA process sees, in its order, as (board, place in `board.devices`).

    Follows `_parse_visible_devices` and `_transform_uuid_to_ordinals` of torch/cuda/__init__.py
    and, for MIG, "CUDA Device Enumeration" of NVIDIA's MIG User Guide: one instance, and no other
    GPU with it.

    Args:
        variable: value of CUDA_VISIBLE_DEVICES, None when it is not set.
        boards: in NVML's order.
    """
    if variable is None:
        chosen = [(b, 0) for b in range(len(boards))]
        chosen.sort(key=lambda place: not boards[place[0]].is_mig)
    elif variable.startswith("MIG-"):
        uuids = {(b, d): gpu.uuid for b, board in enumerate(boards) for d, gpu in board.numbered()}
        chosen = _by_uuid(variable.split(","), "MIG-", uuids)
    elif variable.startswith("GPU-"):
        uuids = {(b, 0): board.uuid for b, board in enumerate(boards)}
        chosen = _by_uuid(variable.split(","), "GPU-", uuids)
    else:
        chosen = _by_index(variable.split(","), len(boards))
    chosen = [place for place in chosen if boards[place[0]].usable]
    instances = [place for place in chosen if boards[place[0]].is_mig]
    return instances[:1] or chosen


def _by_uuid(
    entries: list[str], prefix: str, uuids: dict[tuple[int, int], str | None]
) -> list[tuple[int, int]]:
    chosen: list[tuple[int, int]] = []
    for entry in entries:
        matches = [place for place, uuid in uuids.items() if uuid and uuid.startswith(entry)]
        if not entry.startswith(prefix) or len(matches) != 1:
            break
        if matches[0] in chosen:
            return []
        chosen.append(matches[0])
    return chosen


def _by_index(entries: list[str], count: int) -> list[tuple[int, int]]:
    chosen: list[int] = []
    for entry in entries:
        # As C's strtoul reads it: "1gpu" is 1.
        number = re.match(r"[+-]?[0-9]+", entry.strip())
        if number is None or int(number[0]) < 0:
            break
        if int(number[0]) in chosen:
            return []
        chosen.append(int(number[0]))
    return [(i, 0) for i in itertools.takewhile(lambda i: i < count, chosen)]


def _number(boards: list[Board], variable: str | None, notes: list[str]) -> tuple[Gpu, ...]:
    """Set the index of each visible GPU; visible ones come first."""
    order = visible_devices(variable, boards)
    devices = {(b, d): gpu for b, board in enumerate(boards) for d, gpu in board.numbered()}
    hidden = [place for place in devices if place not in order]
    if variable is not None:
        if hidden:
            names = [f"{devices[place].name} (GPU {place[0]})" for place in hidden]
            notes.append(note("nvidia.hidden", variable=variable, names=names))
        asked = [entry for entry in variable.split(",") if entry.strip() not in ("", "-1")]
        if boards and len(order) < len(asked):
            said = note("nvidia.named", variable=variable, named=len(asked), shown=len(order))
            notes.append(said)
    elif hidden and any(boards[place[0]].is_mig for place in order):
        notes.append(note("nvidia.one_instance"))
    numbered = [replace(devices[place], index=i) for i, place in enumerate(order)]
    return (*numbered, *(devices[place] for place in hidden))


def _boards(notes: list[str]) -> list[Board]:
    boards = []
    handles = [
        query("nvmlDeviceGetHandleByIndex", i) for i in range(query("nvmlDeviceGetCount") or 0)
    ]
    for i, handle in enumerate(handles):
        if handle is None:
            notes.append(note("nvidia.not_opened", number=i))
            lost = Gpu(name=f"GPU {i}", processes=None, vendor="nvidia", source="measured")
            boards.append(Board(devices=(lost,), usable=False))
            continue
        capability = query("nvmlDeviceGetCudaComputeCapability", handle)
        mode = query("nvmlDeviceGetMigMode", handle)
        is_mig = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        instances = _mig_instances(handle) if is_mig else []
        if is_mig and not instances:
            notes.append(note("nvidia.no_instance", number=i))
        uuid, link = query("nvmlDeviceGetUUID", handle), _link(handle, handles)
        described = (_describe(h, capability, i, notes) for h in instances or [handle])
        parent = uuid if instances else None
        boards.append(
            Board(
                uuid=uuid,
                devices=tuple(replace(gpu, link=link, parent_uuid=parent) for gpu in described),
                is_mig=is_mig,
                usable=not is_mig or bool(instances),
            )
        )
    return boards


def _mig_instances(handle: Any) -> list[Any]:
    count = query("nvmlDeviceGetMaxMigDeviceCount", handle) or 0
    handles = (query("nvmlDeviceGetMigDeviceHandleByIndex", handle, i) for i in range(count))
    return [h for h in handles if h is not None]


def _describe(handle: Any, capability: tuple[int, int] | None, board: int, notes: list[str]) -> Gpu:
    total, used, free = _memory(handle)
    if free is None:
        notes.append(note("nvidia.no_memory", number=board))
    processes = _processes(handle)
    if processes is None:
        notes.append(note("nvidia.no_processes", number=board))
    return Gpu(
        name=query("nvmlDeviceGetName", handle) or f"GPU {board}",
        uuid=query("nvmlDeviceGetUUID", handle),
        compute_capability=capability,
        total_bytes=total,
        used_bytes=used,
        free_bytes=free,
        processes=processes,
        vendor="nvidia",
        memory_kind=None if total is None else "dedicated",
        source="measured",
    )


def _memory(handle: Any) -> tuple[int | None, int | None, int | None]:
    """Total, used and free bytes.

    Version 2 of the query tells the driver's own reservation apart; without it the total is what
    CUDA and PyTorch report (Tesla T4: 14.56 of 15 GiB). Older drivers know version 1 only, where
    the reservation counts as used.
    """
    info = query("nvmlDeviceGetMemoryInfo", handle, pynvml.nvmlMemory_v2)
    if info is not None:
        return info.total - info.reserved, info.used, info.free
    info = query("nvmlDeviceGetMemoryInfo", handle)
    return (None, None, None) if info is None else (info.total, info.used, info.free)


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    """Processes with memory on the device, largest first; None when they cannot be listed."""
    compute = query("nvmlDeviceGetComputeRunningProcesses", handle)
    graphics = query("nvmlDeviceGetGraphicsRunningProcesses", handle)
    if compute is None and graphics is None:
        return None
    used: dict[int, int | None] = {}
    for process in [*(compute or ()), *(graphics or ())]:
        amounts = [a for a in (used.get(process.pid), process.usedGpuMemory) if a is not None]
        used[process.pid] = max(amounts, default=None)
    found = (owners.owned(pid, amount) for pid, amount in used.items())
    return tuple(sorted(found, key=lambda process: -(process.used_bytes or 0)))


def _link(handle: Any, handles: list[Any]) -> Link:
    """How a card is connected, and over what it reaches the others."""
    states = []
    for number in range(pynvml.NVML_NVLINK_MAX_LINKS):
        off = pynvml.NVML_FEATURE_DISABLED  # a card without NVLink does not support the question
        state = query("nvmlDeviceGetNvLinkState", handle, number, unsupported=off)
        if state is None:
            break  # no such link
        states.append(state == pynvml.NVML_FEATURE_ENABLED)
    peers: dict[str, Connection] = {}
    for other in handles:
        uuid = None if other is None or other is handle else query("nvmlDeviceGetUUID", other)
        connection = _connection(handle, other) if uuid else None
        if uuid and connection:
            peers[uuid] = connection
    return Link(
        pcie_generation=query("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        pcie_width=query("nvmlDeviceGetCurrPcieLinkWidth", handle),
        pcie_max_generation=query("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        pcie_max_width=query("nvmlDeviceGetMaxPcieLinkWidth", handle),
        nvlinks=sum(states) if states else None,
        peers=peers,
    )


def _connection(handle: Any, other: Any) -> Connection | None:
    status = query("nvmlDeviceGetP2PStatus", handle, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    if status == pynvml.NVML_P2P_STATUS_OK:
        return "nvlink"
    level = query("nvmlDeviceGetTopologyCommonAncestor", handle, other)
    if level is None:
        return None
    return next((name for highest, name in _CONNECTIONS if level <= highest), None)
