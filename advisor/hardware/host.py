"""The host: processor, RAM, disk. Reads /proc, the cgroup tree, psutil and (macOS) sysctl."""

import ctypes
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import psutil

from advisor.hardware.machine import Cpu

_ROOT = Path("/")

_FLAGS = (
    *("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "sve", "sve2", "i8mm", "bf16"),
)
"""Flags of /proc/cpuinfo that decide how fast matrices are multiplied."""

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

_UNLIMITED_BYTES = 2**60
"""cgroup v1 writes "no limit" as the largest page-aligned number."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the cgroups of this process leave it; None where they set no limit."""

    cores: float | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ram:
    """Memory of the host."""

    total_bytes: int | None = None
    free_bytes: int | None = None
    limit_source: Literal["physical", "cgroup"] | None = None


def read_cpu(limits: Limits, root: Path = _ROOT) -> Cpu:
    """The processor.

    Args:
        limits: of this process, see `cgroup_limits`.
        root: where proc/ is; another directory in tests.
    """
    cores = usable_cores(limits)
    if sys.platform == "darwin":
        bf16 = _sysctl("hw.optional.arm.FEAT_BF16")
        return Cpu(
            model=_sysctl_text("machdep.cpu.brand_string"),
            usable_cores=cores,
            bf16_native=None if bf16 is None else bool(int.from_bytes(bf16, sys.byteorder)),
        )
    fields = _cpu_fields(root / "proc/cpuinfo")
    flags = (fields.get("flags") or fields.get("features") or "").split()
    return Cpu(
        model=fields.get("model name"),
        usable_cores=cores,
        bf16_native=bool(_BF16_FLAGS.intersection(flags)) if flags else None,
        flags=tuple(flag for flag in _FLAGS if flag in flags),
    )


def usable_cores(limits: Limits) -> int:
    """Cores this process may use: its affinity, and its cgroups' quota rounded down; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = allowed if limits.cores is None else math.floor(limits.cores)
    return max(min(allowed, quota), 1)


def read_ram(limits: Limits) -> Ram:
    """RAM of the host or of the container, whichever is less.

    Raises:
        OSError, psutil.Error: the system's figures cannot be read.
    """
    memory = psutil.virtual_memory()
    limited = limits.memory_bytes is not None and limits.memory_bytes < memory.total
    free = memory.available
    if limits.memory_free_bytes is not None:
        free = min(free, limits.memory_free_bytes)
    return Ram(
        total_bytes=limits.memory_bytes if limited else memory.total,
        free_bytes=free,
        limit_source="cgroup" if limited else "physical",
    )


def disk_free_bytes(path: Path) -> int:
    """Free bytes where `path` is or would be created.

    Raises:
        OSError: the disk cannot be read.
    """
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def cgroup_limits(root: Path = _ROOT) -> Limits:
    """Limits of all cgroups this process is in, from its own up to the mount.

    Free memory of a cgroup is its limit less what it uses; page cache that the kernel gives back
    under pressure (inactive_file) does not count as used.

    Args:
        root: where proc/ and the mount points are; another directory in tests.
    """
    cores = [_quota(d) for d in _cgroup_dirs(root, "cpu")]
    memory = [found for d in _cgroup_dirs(root, "memory") if (found := _memory(d)) is not None]
    return Limits(
        cores=min((c for c in cores if c is not None), default=None),
        memory_bytes=min((limit for limit, _ in memory), default=None),
        memory_free_bytes=min((free for _, free in memory if free is not None), default=None),
    )


def out_of_memory_kills(root: Path = _ROOT) -> int | None:
    """Processes the kernel has killed for want of memory, in this cgroup or else on this host.

    None where it does not count them (macOS). Only the difference of two readings says something.
    """
    for directory in _cgroup_dirs(root, "memory"):
        for name in ("memory.events", "memory.oom_control"):
            if (count := _field(directory / name, "oom_kill")) is not None:
                return count
    return _field(root / "proc/vmstat", "oom_kill")


def _field(path: Path, name: str) -> int | None:
    """A number of a file with a name and a number on each line."""
    found = re.search(rf"^{name} (\d+)$", _read(path) or "", re.MULTILINE)
    return int(found[1]) if found else None


def _quota(directory: Path) -> float | None:
    """Cores of one cgroup: cpu.max ("200000 100000") or v1's pair of files."""
    quota, _, period = (_read(directory / "cpu.max") or "").partition(" ")
    if not quota:
        quota = _read(directory / "cpu.cfs_quota_us") or ""
        period = _read(directory / "cpu.cfs_period_us") or ""
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None  # "max" and -1 are no limit
    return int(quota) / int(period)


def _memory(directory: Path) -> tuple[int, int | None] | None:
    """Limit and free bytes of one cgroup, v2 or v1; None without a limit."""
    for limit_file, used_file, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _read(directory / limit_file)
        if limit is None or not limit.isdecimal() or int(limit) >= _UNLIMITED_BYTES:
            continue
        used = _read(directory / used_file)
        if used is None or not used.isdecimal():
            return int(limit), None
        stat = _read(directory / "memory.stat") or ""
        cache = re.search(rf"^{cache_key} (\d+)$", stat, re.MULTILINE)
        reclaimable = int(cache[1]) if cache else 0
        return int(limit), max(int(limit) - max(int(used) - reclaimable, 0), 0)
    return None


def _cgroup_dirs(root: Path, controller: str) -> list[Path]:
    """Directories of this process' cgroup and its parents, where the controller is."""
    paths = {}
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), path))
    version, path = (1, paths[controller]) if controller in paths else (2, paths.get(""))
    if path is None:
        return []
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = [*right.split(" "), "", ""][:3]
        is_ours = (
            kind == "cgroup2"
            if version == 2
            else kind == "cgroup" and controller in options.split(",")
        )
        if is_ours:
            mounted, point = left.split(" ")[3:5]
            return _upwards(root / point.lstrip("/"), _below(mounted, path))
    return []


def _below(mounted: str, path: str) -> PurePosixPath:
    """Where a cgroup is under its mount; "." when the mount shows another part of the tree."""
    try:
        below = PurePosixPath(path).relative_to(mounted)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in below.parts else below


def _upwards(mount: Path, below: PurePosixPath) -> list[Path]:
    return [mount / part for part in (below, *below.parents)]


def _cpu_fields(path: Path) -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in (_read(path) or "").splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _sysctl(name: str) -> bytes | None:
    """A value of macOS' sysctl; None where it is not known."""
    try:
        sysctl = ctypes.CDLL(None).sysctlbyname
    except (OSError, AttributeError):
        return None
    size = ctypes.c_size_t(0)
    if sysctl(name.encode(), None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    buffer = ctypes.create_string_buffer(size.value)
    if sysctl(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return buffer.raw[: size.value]


def _sysctl_text(name: str) -> str | None:
    value = _sysctl(name)
    return None if value is None else value.rstrip(b"\0").decode(errors="replace")
