"""Probe this machine. Asks the GPUs' drivers, /proc, the cgroups and the disk."""

import os
import platform
import re
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from advisor import home
from advisor.errors import note
from advisor.hardware import (
    amd,
    apple,
    catalogue,
    host,
    intel,
    nvidia,
    surroundings,
    torch_build,
)
from advisor.hardware.machine import Cpu, Gpu, Machine

_SHARED_MEMORY = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0), (12, 1)})
"""Compute capabilities of chips whose GPU uses the host's RAM (Jetson, DGX Spark); NVML has no
figure there."""


def probe_machine(runs_dir: Path | None = None) -> Machine:
    """What this process can train on, as it is now.

    Args:
        runs_dir: where runs are written, for the free disk space; by default the configured one.

    Returns:
        The machine; what could not be probed is None and has a sentence in `notes`.
    """
    notes: list[str] = []
    limits = host.cgroup_limits()
    cpu = host.read_cpu(limits)
    if cpu.model is None:
        notes.append(note("probe.no_model"))
    ram = _ram(limits, notes)
    wsl, container = surroundings.is_wsl(), surroundings.is_container()
    found = _nvidia(notes, wsl=wsl, container=container)
    gpus = tuple(_complete(gpu, ram) for gpu in (*found.gpus, *_others(ram, notes)))
    wheel = torch_build.read_wheel()
    if wheel is None:
        notes.append(note("probe.no_torch"))
    return Machine(
        name=_name(gpus, cpu),
        gpus=gpus,
        cpu=cpu,
        ram_total_bytes=ram.total_bytes,
        ram_free_bytes=ram.free_bytes,
        ram_limit_source=ram.limit_source,
        disk_free_bytes=_disk(runs_dir, notes),
        driver_version=found.driver_version,
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        torch=None
        if wheel is None
        else torch_build.torch_build(
            wheel, gpus, driver_version=found.driver_version, driver_cuda=found.cuda_version
        ),
        platform=platform.platform(),
        python_version=platform.python_version(),
        is_wsl=wsl,
        is_container=container,
        notes=tuple(notes),
    )


def _nvidia(notes: list[str], *, wsl: bool, container: bool | None) -> nvidia.Nvidia:
    if sys.platform == "darwin":
        return nvidia.Nvidia()
    found = nvidia.probe()
    notes.extend(found.notes)
    if not found.gpus and (hint := surroundings.without_nvml(container=container)):
        notes.append(hint)
    if found.gpus and wsl:
        notes.append(note("probe.wsl"))
    return found


def _others(ram: host.Ram, notes: list[str]) -> tuple[Gpu, ...]:
    """GPUs of other vendors: shown, but nothing is planned for them."""
    gpus: list[Gpu] = []
    for found in (amd.probe(), intel.probe(), apple.probe(ram)):
        gpus.extend(found.gpus)
        notes.extend(found.notes)
    notes.extend(note("probe.not_planned_for", name=gpu.name) for gpu in gpus)
    return tuple(gpus)


def _complete(gpu: Gpu, ram: host.Ram) -> Gpu:
    """Add the data sheet and, where GPU and host share memory, the host's figures.

    A unified pool is never larger or freer than RAM, whatever the driver says.
    """
    if gpu.vendor == "nvidia" and gpu.compute_capability in _SHARED_MEMORY:
        total = _least(gpu.total_bytes, ram.total_bytes)
        free = _least(gpu.free_bytes, ram.free_bytes)
        gpu = replace(gpu, memory_kind="unified", total_bytes=total, free_bytes=free)
    return catalogue.with_data_sheet(gpu)


def _least(first: int | None, second: int | None) -> int | None:
    return min((n for n in (first, second) if n is not None), default=None)


def _ram(limits: host.Limits, notes: list[str]) -> host.Ram:
    try:
        return host.read_ram(limits)
    except (OSError, psutil.Error) as error:
        notes.append(note("probe.no_ram", error=error))
        return host.Ram()


def _disk(runs_dir: Path | None, notes: list[str]) -> int | None:
    try:
        return host.disk_free_bytes(runs_dir or home.runs_dir())
    except OSError as error:
        notes.append(note("probe.no_disk", error=error))
        return None


def _name(gpus: tuple[Gpu, ...], cpu: Cpu) -> str:
    """A headline: the GPUs that CUDA shows, or else the processor."""
    visible = tuple(gpu for gpu in gpus if gpu.index is not None)
    if visible:
        return catalogue.headline(visible)
    model = re.sub(r"\((R|TM)\)|\bCPU\b|@.*", " ", cpu.model or platform.machine() or "CPU")
    cores = "1 core" if cpu.usable_cores == 1 else f"{cpu.usable_cores} cores"
    return f"{' '.join(model.split())}, {cores}"
