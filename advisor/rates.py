"""Rates: what a device and its host do with an operator, from a data sheet or a measurement.

The constants of GPUs were fitted on 126 public rows of single and eight GPUs (torch 2.x, eager
Hugging Face code on A100, L40S, T4, B200 and H100; the H100 ones from FSDP runs alone). Physical
guesses were the priors; tile efficiencies and the fills of a kernel were not fitted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from advisor.cpu_time import CpuTables
from advisor.errors import note
from advisor.hardware.machine import Gpu
from advisor.plan import TrainingPlan
from advisor.simulate.profile import KINDS
from advisor.units import MIB

STREAMING = 0.777
"""Share of a data sheet's bandwidth that a streaming kernel reaches."""


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What public runs were fitted to; tests/benchmarks/fit_times.py fits them again."""

    streaming: float = STREAMING
    reduce: float = 0.83
    """A further share, of norms and softmax."""
    copy: float = 0.633
    """Of casts, transposed copies and gathers."""
    dequantise: float = 0.54
    host: float = 1.0
    """Factor on HOST_SECONDS but for the step's."""
    step: float = 4.7e-3
    """Host seconds of the Trainer's loop, a micro-batch."""
    sustained: Mapping[str, float] = field(
        default_factory=lambda: {"A100": 0.82, "L40S": 0.73, "B200": 0.73, "H100": 0.63, "T4": 0.42}
    )
    """Share of the sheet's 16-bit rate that a large matmul sustains, by card."""
    sustained_single: Mapping[str, float] = field(default_factory=lambda: {"T4": 0.67})
    attention: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "A100": (0.59, 0.48),
            "H100": (0.36, 0.29),
            "L40S": (0.45, 0.36),
            "T4": (0.40, 0.24),
        }
    )
    """Shares of the sheet that fused attention reaches, forward and backward."""
    slower_host: Mapping[str, float] = field(default_factory=lambda: {"T4": 1.9})
    """T4s are rented with small, old processors."""


PUBLIC = Constants()
UNKNOWN_CARD: dict[str, Any] = {
    "sustained": 0.72,
    "sustained_single": 0.866,
    "attention": (0.40, 0.32),
}
"""Shares of a card that no run was fitted to."""


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
    shares: Mapping[str, float] = field(default_factory=lambda: shares_of(PUBLIC))
    """Share of the bandwidth that each kind of operator reaches."""
    tables: CpuTables | None = None
    """Of a CPU that was calibrated: what each operator costs, in place of the rates above."""

    def emulates(self, plan: TrainingPlan) -> bool:
        """Whether the plan computes in 16 bits, of which this CPU's calibration knows little."""
        in_half = plan.bf16 or plan.fp16 or plan.dtype != "float32"
        return self.tables is not None and not self.tables.half_known and in_half


_ERROR = {"A100": 0.15, "L40S": 0.2, "B200": 0.2, "H100": 0.25, "T4": 0.25}
"""Half widths that hold nine of ten public rows of a card; the H100's are sharded runs alone."""
_UNKNOWN_ERROR, _LAUNCH_ERROR = 0.4, 0.5
HOST_SECONDS = {
    "forward": 16.6e-6,
    "backward": 10.4e-6,
    "optimizer": 10.4e-6,
    "view": 4.16e-6,
    "tensor": 20.8e-6,
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


def shares_of(constants: Constants) -> dict[str, float]:
    """Share of the bandwidth by kind of operator; all others stream."""
    further = {
        "reduce": constants.reduce,
        "copy": constants.copy,
        "gather": constants.copy,
        "dequantise": constants.dequantise,
    }
    streams = dict.fromkeys(KINDS, constants.streaming)
    return streams | {kind: constants.streaming * share for kind, share in further.items()}


def gpu_rates(gpu: Gpu, constants: Constants = PUBLIC) -> Rates | None:
    """Rates of a card from its data sheet; None where the sheet is unknown."""
    sheet = gpu.peak_flops
    if not sheet.get("float32") or gpu.bandwidth_bytes_per_second is None:
        return None
    known = card_of(gpu, constants)
    peak = sheet.get("bfloat16") or sheet.get("float16") or sheet["float32"]
    forward, backward = constants.attention.get(known, UNKNOWN_CARD["attention"])
    processors, cache = _processors(gpu)
    slower = constants.slower_host.get(known, 1.0)
    host = {name: slower * constants.host * s for name, s in HOST_SECONDS.items()}
    return Rates(
        flops_per_second_half=peak * constants.sustained.get(known, UNKNOWN_CARD["sustained"]),
        flops_per_second_single=sheet["float32"]
        * constants.sustained_single.get(known, UNKNOWN_CARD["sustained_single"]),
        bytes_per_second=gpu.bandwidth_bytes_per_second,
        attention_forward=(forward * peak, forward * sheet["float32"]),
        attention_backward=(backward * peak, backward * sheet["float32"]),
        seconds_per_kernel=2.5e-6,
        host_seconds=host | {"step": slower * constants.step},
        overlaps=True,
        relative_error=_ERROR.get(known, _UNKNOWN_ERROR),
        launch_error=_LAUNCH_ERROR,
        assumption=note("rates.scaled_sheet", name=gpu.name)
        if known
        else note("rates.sheet", name=gpu.name),
        processors=processors,
        cache_bytes=cache,
        shares=shares_of(constants),
    )


def card_of(gpu: Gpu, constants: Constants = PUBLIC) -> str:
    """The fitted card a GPU is; empty where none is."""
    words = gpu.name.replace("-", " ").split()
    return next((name for name in constants.sustained if name in words), "")


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
        assumption=note("rates.cpu"),
    )


def calibrated_rates(tables: CpuTables, measured_on: str) -> Rates:
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
        assumption=note("rates.calibrated", date=measured_on),
        tables=tables,
    )
