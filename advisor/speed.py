"""TimeEstimate: how long a step and a run take, as a range that names what limits it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from advisor.cpu_time import cpu_seconds
from advisor.device_time import device_seconds
from advisor.errors import note, words
from advisor.locale import Message
from advisor.plan import TrainingPlan
from advisor.rates import Rates
from advisor.simulate.profile import PHASES, Kernels, Profile
from advisor.simulate.software import INSTALLED, Software
from advisor.versions import installed

Regime = Literal["compute", "bandwidth", "launch"]
LIMITS: dict[Regime, str] = {
    "compute": note("speed.compute"),
    "bandwidth": note("speed.bandwidth"),
    "launch": note("speed.launch"),
}
_LIMIT_ON_CPU = note("speed.on_cpu")
_IDLE = 0.25
"""Share of a step that the device waits, from which on the host limits it."""


def limit_in_words(regime: Regime, rates: Rates) -> str:
    """What a step waits for; a CPU launches nothing."""
    return _LIMIT_ON_CPU if regime == "launch" and not rates.overlaps else LIMITS[regime]


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Predicted time of one plan. None is unknown."""

    step_seconds: float | None
    """One optimizer step (all its micro-batches), at the data set's expected batch length."""
    step_seconds_interval: tuple[float, float] | None = None
    longest_step_seconds: float | None = None
    """The same with the data set's longest batch in every micro-batch, as a proof runs it."""
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


def software_of(plan: TrainingPlan, software: Software = INSTALLED) -> str:
    """What the time of a plan assumes of the software that runs it."""
    stated = dict(software.others)
    transformers = software.transformers or installed("transformers")
    parts: list[str | Message] = [
        f"torch {stated.get('torch') or installed('torch')}",
        f"transformers {transformers}",
    ]
    kernels = [words("speed.liger")] if plan.use_liger_kernel else []
    if plan.attn_implementation == "flash_attention_2":
        kernels.append(words("speed.flash"))
    parts += kernels or [words("speed.own_kernels")]
    parts.append(words("speed.no_compile"))
    if plan.method != "full":
        parts.append(words("speed.adapters"))
    return note("speed.software", parts=parts)


def runs_unknown_kernels(plan: TrainingPlan) -> bool:
    """Whether the plan runs kernels of others that no public run timed."""
    return plan.use_liger_kernel or plan.attn_implementation == "flash_attention_2"


OTHER_SOFTWARE_ERROR = 0.35
"""Half width of the range where other software than the simulated one may run: nine of ten public
runs whose source took no part in the fit were nearer (bench.py, "source left out", p90)."""


def other_software(software: Software, *, is_here: bool) -> str | None:
    """Why the range has to allow for other versions; None where the simulated ones run."""
    if software.differences():
        return note("speed.other_versions")
    if software.is_stated() or is_here:
        return None
    return note("speed.unknown_versions")


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Seconds of the phases of one micro-batch, and of the optimizer."""

    forward: float
    backward: float
    optimizer: float
    regime: Regime

    def update_seconds(self, rates: Rates, micro_batches: int) -> float:
        """One optimizer step over so many micro-batches."""
        micro = self.forward + self.backward + rates.host_seconds["step"]
        return micro_batches * micro + self.optimizer


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
    layers = depth - profile.traced_depth
    if rates.tables is None:
        computing, moving = device_seconds(k, rates, batch, length, layers)
    else:
        computing, moving = cpu_seconds(k, rates.tables, batch, length, layers)
    launches = k.num_launches + k.per_layer[:, 0] * layers
    device = np.maximum(computing, moving) + launches * rates.seconds_per_kernel
    host = _host_seconds(k, rates, launches, layers)
    order = _order(profile, depth)
    device, host = device[order], host[order]
    seconds = np.diff(ends(device, host), prepend=0.0) if rates.overlaps else device + host
    phase = k.phase[order]
    by_phase = [float(seconds[phase == number].sum()) for number in range(len(PHASES))]
    total = sum(by_phase) + micro_batches * rates.host_seconds["step"]
    busy = float(device.sum())
    if total - busy > _IDLE * total:
        regime: Regime = "launch"
    else:
        compute_bound = float(device[(computing >= moving)[order]].sum())
        regime = "compute" if compute_bound >= busy / 2 else "bandwidth"
    return StepCost(
        forward=by_phase[0] / micro_batches,
        backward=by_phase[1] / micro_batches,
        optimizer=by_phase[2],
        regime=regime,
    )


def ends(device: np.ndarray, host: np.ndarray) -> np.ndarray:
    """When each operator ends that takes (n,) seconds of the device and of the host before it.

    It starts as soon as the host has launched it and the device is done with the one before.
    """
    launched, done = np.cumsum(host), np.cumsum(device)
    return done + np.maximum.accumulate(launched - (done - device))


def _host_seconds(k: Kernels, rates: Rates, launches: np.ndarray, layers: int) -> np.ndarray:
    """Host time of each row; the optimizer's is at least that of its tensors."""
    each = np.array([rates.host_seconds[p] for p in PHASES])[k.phase]
    each = np.where(k.by_python, rates.host_seconds["forward"], each)
    host = each * launches + rates.host_seconds["view"] * k.num_views
    optimizer = np.flatnonzero(k.phase == PHASES.index("optimizer"))
    if optimizer.size:
        tensors = k.num_trained[0] + k.num_trained[1] * layers
        least = rates.host_seconds["tensor"] * tensors
        host[optimizer] += max(least - host[optimizer].sum(), 0) / optimizer.size
    return host


@lru_cache(maxsize=64)
def _order(profile: Profile, depth: int) -> np.ndarray:
    """Rows of the profile in the order they run with so many layers.

    One traced layer stands for all but the first and the last two: its stretches are repeated.
    """
    repeated = profile.kernels.repeated
    borders = np.flatnonzero(np.diff(repeated)) + 1
    stretches = np.split(np.arange(len(repeated)), borders)
    return np.concatenate(
        [np.tile(rows, depth - 3) if repeated[rows[:1]].any() else rows for rows in stretches]
    )
