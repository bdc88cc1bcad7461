"""Who a process on a GPU is: its name and its owner. Asks psutil."""

from pathlib import Path

import psutil

from advisor.hardware.machine import GpuProcess

_HOST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of include/linux/proc_ns.h: outside of it a driver's pids are not ours."""


def in_host_pid_namespace() -> bool:
    """Whether pids that a driver reports mean the same processes here."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _HOST_PID_NAMESPACE
    except OSError:
        return False


def owned(pid: int, used_bytes: int | None, *, name: str | None = None) -> GpuProcess:
    """A process of the driver's list; name and user where they can be told."""
    user = None
    if in_host_pid_namespace():
        try:
            process = psutil.Process(pid)
            name = process.name()
            user = process.username()
        except psutil.Error:
            pass
    known = name if name and name != "N/A" else None
    return GpuProcess(pid=pid, name=known, user=user, used_bytes=used_bytes)
