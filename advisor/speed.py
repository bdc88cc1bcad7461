"""TimeEstimate: how long a step and a run take, as a range that names what limits it."""

from dataclasses import dataclass
from typing import Literal

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
    assumptions: tuple[str, ...] = ()
