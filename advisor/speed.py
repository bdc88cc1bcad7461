"""TimeEstimate: how long a step and a run take, as a range that names what limits it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from advisor.hardware.machine import Gpu
from advisor.simulate.profile import BASIS, KINDS, PHASES, Profile

Regime = Literal["compute", "bandwidth", "launch"]


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Predicted time of one plan. None is unknown."""

    step_seconds: float | None
    """One optimizer step (all its micro-batches), at the data set's expected batch length."""
    step_seconds_interval: tuple[float, float] | None = None
    tokens_per_second: float | None = None
    """Unpadded tokens the model learns from in a second, all devices."""
    num_steps: int | None = None
    """Optimizer steps of the run."""
    total_seconds: float | None = None
    """Whole run: training, evaluation and saving."""
    total_seconds_interval: tuple[float, float] | None = None
    regime: Regime | None = None
    correction: float = 1.0
    """Factor on tokens a second, learned from this machine's runs; divide to undo it."""
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device and its host do with an operator. Seconds, bytes and FLOPs."""

    flops_per_second_half: float
    """Sustained by a large 16-bit matmul."""
    flops_per_second_single: float
    bytes_per_second: float
    """Sustained by a streaming kernel."""
    attention_forward: float
    """Share of the sustained matmul rate that fused attention reaches."""
    attention_backward: float
    seconds_per_kernel: float
    """Shortest kernel and the gap after it."""
    host_seconds: dict[str, float]
    """Host time of one operator by phase, of a "view", and "step" once a micro-batch."""
    overlaps: bool
    """The device works while the host launches (a GPU); on a CPU both are the same."""
    relative_error: float
    """Half width of the range, as a share."""
    assumption: str

    def update_seconds(self, cost: "StepCost", micro_batches: int) -> float:
        """One optimizer step over so many micro-batches."""
        micro = cost.forward + cost.backward + self.host_seconds["step"]
        return micro_batches * micro + cost.optimizer


# Constants fitted on 126 public single- and multi-GPU rows (torch 2.x, eager Hugging Face code);
# the held-out single-GPU rows came out within 4.6 % median, 10.6 % p90, with the full queue model.
# This simpler sum is wider, and its range says so.
_SUSTAINED = {"A100": 0.82, "L40S": 0.73, "B200": 0.73, "H100": 0.63, "T4": 0.42}
_SUSTAINED_SINGLE = {"T4": 0.67}
_ATTENTION = {"A100": (0.59, 0.48), "H100": (0.36, 0.29), "L40S": (0.45, 0.36), "T4": (0.40, 0.24)}
_KIND_BANDWIDTH = {"elementwise": 0.78, "reduce": 0.65, "copy": 0.49, "gather": 0.49}
_HOST_SECONDS = {
    "forward": 16.6e-6,
    "backward": 10.4e-6,
    "optimizer": 21e-6,
    "view": 4.2e-6,
    "step": 4.7e-3,
}


def gpu_rates(gpu: Gpu) -> Rates | None:
    """Rates of a card from its data sheet; None where the sheet is unknown."""
    sheet = gpu.peak_flops
    if not sheet.get("float32") or gpu.bandwidth_bytes_per_second is None:
        return None
    known = next((name for name in _SUSTAINED if name in gpu.name.replace("-", " ").split()), None)
    sustained = _SUSTAINED.get(known or "", 0.72)
    single = sheet["float32"] * _SUSTAINED_SINGLE.get(known or "", 0.87)
    half = (sheet.get("bfloat16") or sheet.get("float16") or sheet["float32"]) * sustained
    forward, backward = _ATTENTION.get(known or "", (0.40, 0.32))
    return Rates(
        flops_per_second_half=half,
        flops_per_second_single=single,
        bytes_per_second=gpu.bandwidth_bytes_per_second,
        attention_forward=forward / sustained,
        attention_backward=backward / sustained,
        seconds_per_kernel=2.5e-6,
        host_seconds=_HOST_SECONDS,
        overlaps=True,
        relative_error=0.25 if known else 0.4,
        assumption=f"Time: rates of the {gpu.name} data sheet"
        + (", scaled by public measurements of this card." if known else ", never measured."),
    )


def cpu_rates(
    flops_per_second: dict[str, float], bytes_per_second: float, operator_seconds: float
) -> Rates:
    """Rates of a CPU that was measured."""
    return Rates(
        flops_per_second_half=flops_per_second["bfloat16"],
        flops_per_second_single=flops_per_second["float32"],
        bytes_per_second=bytes_per_second / 0.78,  # measured on the streaming kind itself
        attention_forward=0.6,
        attention_backward=0.5,
        seconds_per_kernel=0.0,
        host_seconds={
            "forward": operator_seconds,
            "backward": operator_seconds,
            "optimizer": operator_seconds,
            "view": operator_seconds / 2,
            "step": 2e-3,
        },
        overlaps=False,
        relative_error=0.45,  # the demo's run: 99 s of 71
        assumption="Time: matmul, memory and operator rates measured on this CPU.",
    )


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Seconds of the phases of one micro-batch, and of the optimizer."""

    forward: float
    backward: float
    optimizer: float
    regime: Regime


def step_cost(
    profile: Profile, rates: Rates, batch: int, length: float, depth: int, micro_batches: int = 1
) -> StepCost:
    """Cost of a traced step at any shape and depth.

    Args:
        profile: recorded step; its forward and backward rows hold `micro_batches` of them.
        rates: the device.
        batch: rows.
        length: tokens, may be an expected value.
        depth: repeated layers.
        micro_batches: forwards in the recorded step.
    """
    k = profile.kernels
    basis = np.array([batch**i * length**j for i, j in BASIS])
    layers = depth - profile.traced_depth
    growth = k.per_layer * layers
    # one traced layer stands for all but the first and the last two
    repeats = np.where(k.repeated, depth - 3, 1)
    flops = np.maximum(k.flops @ basis + growth[:, 1], 0)
    moved = np.maximum(k.num_bytes @ basis + growth[:, 2], 0)
    launches = k.num_launches + growth[:, 0]
    rate = np.where(k.half, rates.flops_per_second_half, rates.flops_per_second_single)
    attention = k.kind == KINDS.index("attention")
    backward = k.phase == PHASES.index("backward")
    share = np.where(backward, rates.attention_backward, rates.attention_forward)
    rate = np.where(attention, rate * share, rate)
    bandwidth = np.array([rates.bytes_per_second * _KIND_BANDWIDTH.get(n, 0.78) for n in KINDS])
    computing, moving = flops / rate, moved / bandwidth[k.kind]
    view = k.kind == KINDS.index("view")
    device = np.where(view, 0, np.maximum(computing, moving) + rates.seconds_per_kernel) * repeats
    host_each = np.array([rates.host_seconds[p] for p in PHASES])[k.phase]
    host = np.where(view, rates.host_seconds["view"], host_each) * launches * repeats
    by_phase: list[float] = []
    for number in range(len(PHASES)):
        rows = k.phase == number
        busy, launching = float(device[rows].sum()), float(host[rows].sum())
        by_phase.append(max(busy, launching) if rates.overlaps else busy + launching)
    total_device, total_host = float(device.sum()), float(host.sum())
    if total_host > 0.75 * (max(total_device, total_host) if rates.overlaps else total_device):
        regime: Regime = "launch"
    else:
        compute_bound = float((device * (computing >= moving)).sum())
        regime = "compute" if compute_bound >= total_device / 2 else "bandwidth"
    return StepCost(
        forward=by_phase[0] / micro_batches,
        backward=by_phase[1] / micro_batches,
        optimizer=by_phase[2],
        regime=regime,
    )
