"""MemoryEstimate: the simulated peak of a plan on a device, and what it is made of."""

from dataclasses import dataclass, field, replace
from typing import Literal

Verdict = Literal["fits", "tight", "does_not_fit", "unknown"]

CATEGORIES = (
    "context",
    "weights",
    "optimizer",
    "gradients",
    "activations",
    "logits",
    "workspace",
    "fragmentation",
)
"""Bottom to top of every memory chart.

On a CPU `context` is the process before the model: interpreter and libraries.
"""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Peak memory of a steady optimizer step, bytes per device. None is unknown."""

    allocated_bytes: int | None
    """Peak of torch.cuda.memory_allocated; on a CPU the peak of live tensors."""
    reserved_bytes: int | None
    """Peak of torch.cuda.memory_reserved; None on a CPU, which has no caching allocator."""
    process_bytes: int | None
    """What the process takes from the device: reserved + context; on a CPU the peak RSS."""
    interval: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Low and high of allocated_bytes, reserved_bytes, process_bytes."""
    capacity_bytes: int | None = None
    """What a new process can get (free, not total)."""
    verdict: Verdict = "unknown"
    phases: dict[str, int] = field(default_factory=dict)
    """Peak allocated in forward, backward, optimizer."""
    categories: dict[str, int] = field(default_factory=dict)
    """Bytes at the peak by category (keys of CATEGORIES); their sum is process_bytes."""
    correction: float = 1.0
    """Factor on what is not context, learned from this machine's runs; divide to undo it."""
    correction_bytes: int = 0
    """Of `context`, on a CPU: learned from this machine's runs; subtract to undo it."""
    occasions: dict[str, int] = field(default_factory=dict)
    """Process bytes reached outside the steady step: load, first_step, and what replay.OCCASIONS
    names besides where there is such.

    Each counts what was kept from those before it; the verdict follows the highest.
    """
    assumptions: tuple[str, ...] = ()
    """What the number rests on, one sentence each."""

    @staticmethod
    def unknown(reason: str, capacity_bytes: int | None) -> "MemoryEstimate":
        """Of what cannot be simulated, with the reason."""
        return MemoryEstimate(
            allocated_bytes=None,
            reserved_bytes=None,
            process_bytes=None,
            capacity_bytes=capacity_bytes,
            assumptions=(reason,),
        )

    def limited(self, limit_bytes: int) -> "MemoryEstimate":
        """The same where no more than `limit_bytes` may be taken; less room never fits better."""
        if self.capacity_bytes is not None and limit_bytes >= self.capacity_bytes:
            return self
        found = replace(self, capacity_bytes=limit_bytes).judged()
        past_failures = self.verdict == "tight" and found.verdict == "fits"
        return replace(found, verdict="tight") if past_failures else found

    def judged(self) -> "MemoryEstimate":
        """The same with the verdict that its own capacity gives."""
        return replace(self, verdict=verdict(self.high_bytes(), self.capacity_bytes))

    def high_bytes(self) -> int | None:
        """Upper end of what the process takes at any time of the run."""
        if self.process_bytes is None or "process_bytes" not in self.interval:
            return None
        beyond = max(self.occasions.values(), default=0) - self.process_bytes
        return self.interval["process_bytes"][1] + max(beyond, 0)


@dataclass(frozen=True, kw_only=True)
class StepTimeline:
    """Memory through one steady step, for the chart."""

    time_fraction: tuple[float, ...]
    """Position in the step, 0..1, by predicted time (by event count where time is unknown)."""
    bytes_by_category: dict[str, tuple[int, ...]]
    """One series per category except fragmentation."""
    phase_starts: dict[str, float]
    """forward, backward, optimizer -> time_fraction at which it starts."""


def verdict(high_bytes: int | None, capacity_bytes: int | None) -> Verdict:
    """fits, tight or does_not_fit by the upper end of the process interval.

    Tight: within 1 GiB or 4 % of what is free, whichever is less.
    """
    if high_bytes is None or capacity_bytes is None:
        return "unknown"
    if high_bytes > capacity_bytes:
        return "does_not_fit"
    margin = min(2**30, 0.04 * capacity_bytes)
    return "tight" if capacity_bytes - high_bytes < margin else "fits"
