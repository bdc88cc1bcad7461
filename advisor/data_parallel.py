"""What several devices add to one device's answer: communicators, and how far to believe it."""

from advisor.plan import TrainingPlan
from advisor.units import GIB

_COMMUNICATORS = (int(1.5 * GIB), GIB // 2)
"""NCCL and torch.distributed beside the allocator: 1 to 2 GiB, growing with the devices; 1.5 GiB
were measured after the first barrier of two GPUs (stas00, ml-engineering)."""

_SHARDED_RESERVED_ERROR = (0.09, 0.06)
"""Below and above: what tests/benchmarks/measured/fsdp2_public.jsonl shows at most."""


def reserved_error(plan: TrainingPlan, alone: tuple[float, float]) -> tuple[float, float]:
    """Half widths around the reserved bytes, shares below and above."""
    return _SHARDED_RESERVED_ERROR if plan.is_sharded() else alone


def communicator_bytes(plan: TrainingPlan) -> tuple[int, int]:
    """Middle and half width of what communication takes outside the allocator, bytes."""
    return _COMMUNICATORS if plan.devices > 1 else (0, 0)


def assumptions(plan: TrainingPlan) -> list[str]:
    """How the step of one of several devices was found."""
    if plan.devices == 1:
        return []
    lines = []
    if plan.is_sharded():
        lines.append(
            f"One of {plan.devices} devices with FSDP2 (accelerate's preparation, real "
            "fully_shard): simulated, checked against public runs of torchtitan: 4 of 8 within "
            "5 % of what they reserved, all within 10 %; the one that ran out of memory is found."
        )
    else:
        lines.append(
            f"One of {plan.devices} devices with DDP, its gradient buckets read in source: "
            "simulated, never measured."
        )
    if not plan.use_cpu:
        lines.append("NCCL takes 1 to 2 GiB outside the allocator; 1.5 GiB were added.")
    return lines


def time_assumptions(plan: TrainingPlan) -> tuple[str, ...]:
    """What the time of a step leaves out."""
    if plan.devices == 1:
        return ()
    return ("Time: communication between devices is not counted.",)
