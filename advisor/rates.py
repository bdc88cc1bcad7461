"""Rates: what a device and its host do with an operator, from a data sheet or a measurement.

The constants of GPUs were fitted on 126 public rows of single and eight GPUs (torch 2.x, eager
Hugging Face code on A100, L40S, T4, B200 and H100; the H100 ones from FSDP runs alone). Physical
guesses were the priors; tile efficiencies and the fills of a kernel were not fitted.
"""

from dataclasses import dataclass

from advisor.cpu_time import CpuTables
from advisor.hardware.machine import Gpu
from advisor.units import MIB

STREAMING = 0.777
"""Share of a data sheet's bandwidth that a streaming kernel reaches."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device and its host do with an operator. Seconds, bytes and FLOPs."""

    flops_per_second_half: float
    """Sustained by a large 16-bit matmul."""
    flops_per_second_single: float
    bytes_per_second: float
    """Of the data sheet; device_time.py knows the share a kernel reaches."""
    attention_forward: tuple[float, float]
    """FLOP/s of fused attention on long rows, 16-bit and float32."""
    attention_backward: tuple[float, float]
    seconds_per_kernel: float
    """Shortest kernel and the gap after it."""
    host_seconds: dict[str, float]
    """Host time of one operator by phase ("forward" is also recomputation's), of a "view", of a
    "tensor" that the optimizer updates, and "step" once a micro-batch."""
    overlaps: bool
    """The device works while the host launches (a GPU); on a CPU both are the same."""
    relative_error: float
    """Half width of the range, as a share."""
    launch_error: float
    """The same where the host limits the step: it is hardly known."""
    assumption: str
    processors: int | None = None
    """Multiprocessors, over which matmuls are spread in whole waves of tiles; None: a CPU."""
    cache_bytes: float = 0
    """Last-level cache of a GPU."""
    tables: CpuTables | None = None
    """Of a CPU that was calibrated: what each operator costs, in place of the rates above."""


_SUSTAINED = {"A100": 0.82, "L40S": 0.73, "B200": 0.73, "H100": 0.63, "T4": 0.42}
_SUSTAINED_SINGLE = {"T4": 0.67}
_ATTENTION = {  # shares of the sheet, forward and backward
    "A100": (0.59, 0.48),
    "H100": (0.36, 0.29),
    "L40S": (0.45, 0.36),
    "T4": (0.40, 0.24),
}
_HOST_FACTOR = {"T4": 1.9}
"""T4s are rented with small, old processors."""
_ERROR = {"A100": 0.15, "L40S": 0.2, "B200": 0.2, "H100": 0.25, "T4": 0.25}
"""Half widths that hold nine of ten public rows of a card; the H100's are sharded runs alone."""
_UNKNOWN_ERROR, _LAUNCH_ERROR = 0.4, 0.5
HOST_SECONDS = {
    "forward": 16.6e-6,
    "backward": 10.4e-6,
    "optimizer": 10.4e-6,
    "view": 4.16e-6,
    "tensor": 20.8e-6,
    "step": 4.7e-3,
}
_SMS = {
    7.0: (64, 1.53e9, 6),
    7.5: (64, 1.59e9, 4),
    8.0: (64, 1.41e9, 40),
    8.6: (128, 1.75e9, 6),
    8.9: (128, 2.52e9, 72),
    9.0: (128, 1.92e9, 50),
    10.0: (128, 2.1e9, 126),
    12.0: (128, 2.41e9, 96),
}
"""By compute capability: float32 lanes of a multiprocessor, boost clock, MiB of L2 (data sheets).

The number of multiprocessors follows from the sheet's float32 rate, within 15 %."""


def gpu_rates(gpu: Gpu) -> Rates | None:
    """Rates of a card from its data sheet; None where the sheet is unknown."""
    sheet = gpu.peak_flops
    if not sheet.get("float32") or gpu.bandwidth_bytes_per_second is None:
        return None
    known = next((name for name in _SUSTAINED if name in gpu.name.replace("-", " ").split()), "")
    peak = sheet.get("bfloat16") or sheet.get("float16") or sheet["float32"]
    forward, backward = _ATTENTION.get(known, (0.40, 0.32))
    processors, cache = _processors(gpu)
    slower = _HOST_FACTOR.get(known, 1.0)
    return Rates(
        flops_per_second_half=peak * _SUSTAINED.get(known, 0.72),
        flops_per_second_single=sheet["float32"] * _SUSTAINED_SINGLE.get(known, 0.866),
        bytes_per_second=gpu.bandwidth_bytes_per_second,
        attention_forward=(forward * peak, forward * sheet["float32"]),
        attention_backward=(backward * peak, backward * sheet["float32"]),
        seconds_per_kernel=2.5e-6,
        host_seconds={name: slower * seconds for name, seconds in HOST_SECONDS.items()},
        overlaps=True,
        relative_error=_ERROR.get(known, _UNKNOWN_ERROR),
        launch_error=_LAUNCH_ERROR,
        assumption=f"Time: rates of the {gpu.name} data sheet"
        + (", scaled by public measurements of this card." if known else ", never measured."),
        processors=processors,
        cache_bytes=cache,
    )


def _processors(gpu: Gpu) -> tuple[int, float]:
    """Multiprocessors of a card and the bytes of its L2."""
    major, minor = gpu.compute_capability or (8, 0)
    capability = major + minor / 10
    older = [c for c in _SMS if c <= capability]
    lanes, clock, mib = _SMS[max(older, default=min(_SMS))]
    return max(round(gpu.peak_flops["float32"] / (2 * lanes * clock)), 1), mib * MIB


def cpu_rates(
    flops_per_second: dict[str, float], bytes_per_second: float, operator_seconds: float
) -> Rates:
    """Rates of a CPU that was measured."""
    half, single = flops_per_second["bfloat16"], flops_per_second["float32"]
    return Rates(
        flops_per_second_half=half,
        flops_per_second_single=single,
        bytes_per_second=bytes_per_second / STREAMING,  # measured on that kind itself
        attention_forward=(0.6 * half, 0.6 * single),
        attention_backward=(0.5 * half, 0.5 * single),
        seconds_per_kernel=0.0,
        host_seconds={
            "forward": operator_seconds,
            "backward": operator_seconds,
            "optimizer": operator_seconds,
            "view": operator_seconds / 2,
            "tensor": 0.0,
            "step": 2e-3,
        },
        overlaps=False,
        relative_error=0.45,  # the demo's run: 99 s of 71
        launch_error=0.6,
        assumption="Time: matmul, memory and operator rates measured on this CPU.",
    )


def calibrated_rates(tables: CpuTables) -> Rates:
    """Rates of a CPU whose operators were measured inside real steps."""
    host = {"optimizer": 0.0, "tensor": 0.0, **tables.host_seconds}
    return Rates(
        flops_per_second_half=1.0,  # the tables answer
        flops_per_second_single=1.0,
        bytes_per_second=1.0,
        attention_forward=(1.0, 1.0),
        attention_backward=(1.0, 1.0),
        seconds_per_kernel=0.0,
        host_seconds=host,
        overlaps=False,
        relative_error=0.2,
        launch_error=0.3,
        assumption="Time: every operator's cost was measured on this CPU.",
        tables=tables,
    )
