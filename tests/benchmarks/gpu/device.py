"""The device and what the driver says of it: memory by process, names, versions.

Runs nvidia-smi where pynvml is not installed.
"""

import importlib.metadata
import os
import shutil
import subprocess
import time
from typing import Any

MIB = 2**20


def software() -> dict[str, Any]:
    """Versions of what a measurement depends on; None where not installed or not known."""
    import torch

    names = ("torch", "transformers", "peft", "accelerate")
    return {name: _version(name) for name in names} | {
        "cuda": torch.version.cuda,
        "driver": driver_version(),
        "allocator_settings": os.environ.get("PYTORCH_CUDA_ALLOC_CONF"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver_version() -> str | None:
    """Version of the NVIDIA driver."""
    nvml = _nvml()
    if nvml:
        return _text(nvml.nvmlSystemGetDriverVersion())
    lines = _smi("--query-gpu=driver_version")
    return lines[0] if lines else None


def process_bytes() -> int | None:
    """Device memory of this process, by its id; None where that cannot be told."""
    nvml = _nvml()
    if nvml:
        try:
            found = nvml.nvmlDeviceGetComputeRunningProcesses(_handle(nvml))
        except nvml.NVMLError:
            return None
        return next((p.usedGpuMemory for p in found if p.pid == os.getpid()), None)
    for line in _smi("--query-compute-apps=pid,used_memory"):
        pid, used = line.split(",")
        if pid.strip() == str(os.getpid()) and used.strip().isdigit():
            return int(used) * MIB
    return None


def device_used_bytes() -> int | None:
    """Memory in use on the device by all processes and the driver."""
    nvml = _nvml()
    if nvml:
        try:
            return int(nvml.nvmlDeviceGetMemoryInfo(_handle(nvml)).used)
        except nvml.NVMLError:
            return None
    lines = _smi("--query-gpu=memory.used")
    return int(lines[0]) * MIB if lines and lines[0].isdigit() else None


def clocks() -> dict[str, Any]:
    """Clock, power and temperature now; empty where the driver does not tell."""
    names = "clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    lines = _smi(f"--query-gpu={names}")
    return dict(zip(names.split(","), lines[0].split(", "), strict=False)) if lines else {}


def synchronize(device: str) -> None:
    """Wait for the device."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call: Any, device: str, *, at_least: float = 0.1, most: int = 200) -> float:
    """Mean seconds of a call once warm, over calls that fill `at_least` (a CPU: a tenth of it)."""
    at_least = at_least if device == "cuda" else at_least / 10
    call()
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    once = time.perf_counter() - started
    times = max(1, min(most, int(at_least / max(once, 1e-7))))
    started = time.perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return (time.perf_counter() - started) / times


def _nvml() -> Any:
    """Pynvml, started; None where it or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _first_visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"


def _handle(nvml: Any) -> Any:
    name = _first_visible()
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)


def _smi(query: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    command = [program, query, "--format=csv,noheader,nounits"]
    if "--query-gpu" in query:
        command.append(f"--id={_first_visible()}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
