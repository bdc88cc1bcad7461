"""What the training process takes. Asks the kernel, torch and the NVIDIA driver."""

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from advisor.hardware import nvidia

if TYPE_CHECKING:
    import torch


class MemoryMeter:
    """Peaks since the process began, in bytes, under the names of `MemoryEstimate`.

    On a CPU `process_bytes` is the peak RSS. On a GPU it is what the driver counts for this process
    (nvml); in containers the driver often does not say, and then it is the reserved peak plus the
    predicted context (reserved+context), or unknown.
    """

    def __init__(self, device: "torch.device", *, context_bytes: int | None = None) -> None:
        self._device = device
        self._context_bytes = context_bytes
        self._process = psutil.Process()
        self._handle: Any = None
        self._driver_peak: int | None = None
        self._host_peak = 0
        self._session = contextlib.ExitStack()
        if device.type == "cuda" and self._session.enter_context(nvidia.session()) is None:
            self._handle = _handle_of(device)

    def read(self) -> dict[str, Any]:
        """The memory event's values."""
        # The kernel's own high-water mark may fall by some pages when memory is given back.
        self._host_peak = max(self._host_peak, peak_rss_bytes())
        host = {"rss_bytes": self._process.memory_info().rss, "peak_rss_bytes": self._host_peak}
        if self._device.type != "cuda":
            return {"process_bytes": host["peak_rss_bytes"], "process_source": "rss", **host}
        import torch

        allocated = torch.cuda.max_memory_allocated(self._device)
        reserved = torch.cuda.max_memory_reserved(self._device)
        used = self._driver_bytes()
        # A pid of another namespace that happens to be ours would hold less than we reserved.
        if used is not None and used >= torch.cuda.memory_reserved(self._device):
            self._driver_peak = max(used, self._driver_peak or 0)
        process_bytes = self._driver_peak
        source: str | None = "nvml"
        if process_bytes is None:
            source = None
            if self._context_bytes is not None:
                process_bytes, source = reserved + self._context_bytes, "reserved+context"
        return {
            "allocated_bytes": allocated,
            "reserved_bytes": reserved,
            "process_bytes": process_bytes,
            "process_source": source,
            **host,
        }

    def is_on_cpu(self) -> bool:
        """Whether the run's tensors live in host memory."""
        return self._device.type == "cpu"

    def close(self) -> None:
        """Leave the driver."""
        self._session.close()

    def _driver_bytes(self) -> int | None:
        if self._handle is None:
            return None
        processes = nvidia.query("nvmlDeviceGetComputeRunningProcesses", self._handle) or []
        return next((p.usedGpuMemory for p in processes if p.pid == os.getpid()), None)


def peak_rss_bytes() -> int:
    """High-water mark of this process' resident memory.

    VmHWM, since ru_maxrss of Linux also counts the parent as it was when this process was forked.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _handle_of(device: "torch.device") -> Any:
    import torch

    # torch leaves the driver's prefix out.
    uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
    return nvidia.query("nvmlDeviceGetHandleByUUID", f"GPU-{uuid}")
