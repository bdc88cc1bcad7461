"""What was measured of this machine, kept under home.

Starts processes: small measurements are the worker's (calibrate.py), the calibrations of the
processor (cpu_probe.py) and of a GPU (gpu_probe.py) have processes of their own, which can be
ended.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from advisor import records
from advisor.cpu_time import CpuTables
from advisor.errors import InputError, WorkerError
from advisor.gpu_time import BELIEVED as GPU_BELIEVED
from advisor.gpu_time import GpuTables, calibrated_gpu_rates, fit_anchors, half_of
from advisor.hardware import host
from advisor.hardware.load import Foreign, busiest
from advisor.hardware.machine import Gpu
from advisor.home import cache_dir
from advisor.rates import Rates
from advisor.simulate.make import ProfileStore
from advisor.simulate.worker import Progress, Worker
from advisor.versions import installed

_REVISION = 2
"""Raised whenever calibrate.py measures another way, so that old files are made again."""
_CALIBRATION_REVISION = 2
"""The same of cpu_probe.py."""
_GPU_CALIBRATION_REVISION = 1
"""The same of gpu_probe.py."""
BUSY = 0.15
"""Processors that others may use while this machine is calibrated."""
MOST_SPREAD = 0.25
"""By how much the repeats of a step may differ, median."""
BELIEVED = (0.8, 1.3)
"""What operators may take in a real Trainer's step over their recorded time; else disturbed."""
_MOST_SECONDS = 180
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What torch takes its number of threads from; else from the processors."""
State = Literal["current", "stale", "never"]
Found = TypeVar("Found")


def measured(method: str, worker: Worker, on_progress: Progress | None) -> Any:
    """A measurement of this machine: from the cache, else made now.

    Keyed by the library versions, the processor and by how it is measured.
    """
    key = hashlib.sha256("\n".join(_made_for()).encode()).hexdigest()[:16]
    path = cache_dir() / f"{method}-{_REVISION}-{key}.json"
    if path.exists():
        return json.loads(path.read_text())
    value = worker.call(method, {}, on_progress=on_progress)
    _write(path, value)
    return value


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibrated rates of this machine's processor."""

    tables: CpuTables
    made_for: tuple[str, ...]
    """Library versions, processor, cores and threads it holds for."""
    measured_at: float
    """Seconds since the epoch."""

    def measured_on(self) -> str:
        """When, for people: UTC."""
        return _for_people(self.measured_at)


@dataclass(frozen=True, kw_only=True)
class GpuCalibration:
    """The calibrated rates of one GPU of this machine."""

    tables: GpuTables
    host: tuple[float, float]
    """Factor on the host's seconds of an operator; seconds of the Trainer's loop."""
    ratio: float
    """Time of a real step's operators over that of operators that run alone."""
    name: str
    made_for: tuple[str, ...]
    """Library versions and card it holds for."""
    measured_at: float
    """Seconds since the epoch."""

    def rates(self, gpu: Gpu) -> Rates:
        """What the card and its host do with an operator."""
        on = _for_people(self.measured_at)
        return calibrated_gpu_rates(gpu, self.tables, self.host, self.ratio, on)


def _for_people(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def calibration() -> Calibration | None:
    """What `calibrate` found for this machine with these libraries; None without any."""
    found = _stored()
    return found if found is not None and found.made_for == _made_for() else None


def calibration_state() -> State:
    """Whether there is one, and whether it holds for today's libraries and processors."""
    found = _stored()
    if found is None:
        return "never"
    return "current" if found.made_for == _made_for() else "stale"


def calibrate(
    on_progress: Progress | None = None, *, cancelled: Callable[[], bool] = lambda: False
) -> Calibration:
    """Measure this machine's processor, 25 s to a minute, and keep the result.

    Args:
        on_progress: told of the steps.
        cancelled: asked now and then; the measurement ends where it says so.

    Raises:
        InputError: the machine is busy; the rates known before are kept.
        WorkerError: the measurement failed or was cancelled.
    """
    foreign = Foreign()
    programs = busiest()
    if foreign.processors() > BUSY:
        raise _busy(foreign.processors(), programs)
    found = _run_probe(["advisor.simulate.cpu_probe"], {}, on_progress, cancelled)
    tables = records.decode(CpuTables, found, "calibration")
    if tables.foreign > BUSY:
        raise _busy(tables.foreign, busiest())
    if tables.spread > MOST_SPREAD or not BELIEVED[0] < tables.in_situ < BELIEVED[1]:
        spread = max(tables.spread, abs(tables.in_situ - 1))
        raise InputError("measurements.spread", spread=round(spread, 2))
    result = Calibration(tables=tables, made_for=_made_for(), measured_at=time.time())
    _write(_path(), records.encode(result))
    return result


def _busy(processors: float, programs: tuple[Any, ...]) -> InputError:
    names = [f"{b.name} ({b.pid})" for b in programs[:3]] or ["?"]
    return InputError("measurements.busy", processors=f"{processors:.1f}", names=names)


def calibrate_gpu(
    worker: Worker,
    gpu: Gpu,
    on_progress: Progress | None = None,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> GpuCalibration:
    """Measure one NVIDIA GPU of this machine, about half a minute, and keep the result.

    Args:
        worker: simulates the steps that are measured, too.
        gpu: probed on this machine.
        on_progress: told of the steps.
        cancelled: asked now and then; the measurement ends where it says so.

    Raises:
        InputError: somebody uses the card, or it cannot be measured; the rates known before are
            kept.
        WorkerError: the measurement failed or was cancelled.
    """
    if not can_calibrate(gpu):
        raise InputError("measurements.no_cuda", name=gpu.name)
    if gpu.processes:
        names = [f"{p.name or '?'} ({p.pid})" for p in gpu.processes[:3]]
        raise InputError("measurements.gpu_busy", name=gpu.name, names=names)
    arguments = ["advisor.simulate.gpu_probe", "cuda", half_of(gpu)]
    visible = {"CUDA_VISIBLE_DEVICES": str(gpu.uuid)}
    found = _run_probe(arguments, visible, on_progress, cancelled)
    tables = records.decode(GpuTables, found, "calibration")
    host, ratio = fit_anchors(gpu, tables, ProfileStore(worker).get)
    if tables.spread > MOST_SPREAD or not GPU_BELIEVED[0] < ratio < GPU_BELIEVED[1]:
        spread = max(tables.spread, abs(ratio - 1))
        raise InputError("measurements.spread", spread=round(spread, 2))
    result = GpuCalibration(
        tables=tables,
        host=host,
        ratio=ratio,
        name=gpu.name,
        made_for=_made_for_gpu(gpu),
        measured_at=time.time(),
    )
    _write(_gpu_path(gpu), records.encode(result))
    return result


def can_calibrate(gpu: Gpu) -> bool:
    """Whether the card can be measured: through CUDA, by the installed torch."""
    return gpu.vendor == "nvidia" and gpu.uuid is not None and gpu.usable_by_torch is not False


def gpu_calibration(gpu: Gpu) -> GpuCalibration | None:
    """What `calibrate` found for this card with these libraries; None without any."""
    path = _gpu_path(gpu)
    found = _read(GpuCalibration, path, path.stat().st_mtime_ns) if path.exists() else None
    return found if found is not None and found.made_for == _made_for_gpu(gpu) else None


def _gpu_path(gpu: Gpu) -> Path:
    key = hashlib.sha256(str(gpu.uuid).encode()).hexdigest()[:16]
    return cache_dir() / f"calibration-gpu-{_GPU_CALIBRATION_REVISION}-{key}.json"


def _made_for_gpu(gpu: Gpu) -> tuple[str, ...]:
    versions = (installed(name) or "" for name in ("torch", "transformers"))
    return (*versions, gpu.name, str(gpu.uuid))


def _run_probe(
    arguments: list[str],
    environment: dict[str, str],
    on_progress: Progress | None,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=os.environ | environment,
        )
        return _answer_of_probe(process, said, on_progress, cancelled)


def _answer_of_probe(
    process: subprocess.Popen[str],
    said: IO[str],
    on_progress: Progress | None,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    ended = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + _MOST_SECONDS
        while not ended.wait(0.2):
            if cancelled() or time.monotonic() > deadline:
                process.kill()
                return

    threading.Thread(target=watch, daemon=True).start()
    assert process.stdout is not None
    found: dict[str, Any] | None = None
    try:
        for line in process.stdout:
            message = json.loads(line)
            found = message.get("result", found)
            if "progress" in message and on_progress is not None:
                on_progress(*message["progress"])
        said.seek(0)
        reason = (said.read().strip().splitlines() or ["?"])[-1]
    finally:
        ended.set()
        process.kill()
        process.wait()
        process.stdout.close()
    if cancelled():
        raise WorkerError("worker.cancelled")
    if found is None:
        raise WorkerError("measurements.failed", reason=reason)
    return found


def _stored() -> Calibration | None:
    path = _path()
    return _read(Calibration, path, path.stat().st_mtime_ns) if path.exists() else None


@lru_cache(maxsize=16)
def _read(kind: type[Found], path: Path, _stamp: int) -> Found | None:
    try:
        return records.decode(kind, json.loads(path.read_text()), "calibration")
    except (OSError, ValueError, InputError):
        return None  # damaged, or of another version: as if never made


def _path() -> Path:
    return cache_dir() / f"calibration-{_CALIBRATION_REVISION}.json"


@cache
def _made_for() -> tuple[str, ...]:
    cpu = host.read_cpu(host.cgroup_limits())
    return (
        *(installed(name) or "" for name in ("torch", "transformers")),
        cpu.model or platform.machine(),
        f"{cpu.usable_cores} processors",
        *(f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ),
    )
