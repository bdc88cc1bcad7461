"""Where this process runs: WSL2, a container. Reads /proc, /sys and the environment."""

import os
from collections.abc import Mapping
from pathlib import Path

from advisor.errors import note, words

_ROOT = Path("/")
_MARKS = ("docker", "kubepods", "containerd", "libpod", "lxc", "garden")
"""Parts of a cgroup path that container engines choose."""


def is_wsl(root: Path = _ROOT) -> bool:
    """Whether the kernel is the one Windows runs (WSL2): Microsoft names itself in its release."""
    return "microsoft" in read(root / "proc/sys/kernel/osrelease").lower()


def is_container(root: Path = _ROOT, environ: Mapping[str, str] = os.environ) -> bool | None:
    """Whether a container engine started this process; None where nothing can be read."""
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return True
    if environ.get("container") or environ.get("KUBERNETES_SERVICE_HOST"):
        return True
    cgroups = read(root / "proc/1/cgroup")
    if any(mark in cgroups for mark in _MARKS):
        return True
    return False if cgroups else None


def without_nvml(root: Path = _ROOT, *, container: bool | None = None) -> str | None:
    """What to do where the driver's library is missing; None where nothing speaks for a card.

    In a container the library is mounted from outside, and only with the "utility" capability.
    """
    cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    names = [line.partition(":")[2].strip() for c in cards for line in read(c).splitlines()[:1]]
    has_device = any((root / "dev").glob("nvidia[0-9]*"))
    if names or has_device:
        known = [name for name in names if name] or [words("surroundings.some_gpu")]
        return note("surroundings.no_library", names=known)
    if container:
        return note("surroundings.container")
    return None


def read(path: Path) -> str:
    """The text of a file of /proc or /sys; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The number in a file of /sys; None where there is none."""
    try:
        return int(read(path), 0)
    except ValueError:
        return None
