"""Replicated data parallel (DDP): the step of one device and, beside it, what DDP itself holds.

No torch. The gradients' buckets and the broadcast of the weights are imitated from
torch/nn/parallel/distributed.py and torch/csrc/distributed/c10d/{reducer,comm}.cpp (torch 2.13):
`gradient_as_bucket_view` is off, as Trainer leaves it, so each bucket is a copy of its gradients.
Without `find_unused_parameters` one bucket holds everything until the first backward is over; then
buckets are made again in the order in which gradients came. No run was measured.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.memory import CATEGORIES
from advisor.plan import TrainingPlan
from advisor.simulate.profile import Profile, Program
from advisor.units import MIB

DEFAULT_CAP_MB = 25
FIRST_CAP_BYTES = MIB
"""Of the first bucket, where the cap is the default (_DEFAULT_FIRST_BUCKET_BYTES)."""
BROADCAST_BYTES = 250 * MIB
"""broadcast_bucket_size: what a flat copy of the weights holds at least."""
BROADCASTS_IN_FLIGHT = 2
_GRADIENTS, _WEIGHTS = CATEGORIES.index("gradients"), CATEGORIES.index("weights")
_WORKSPACE = CATEGORIES.index("workspace")


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """How DDP cuts gradients into buckets, bytes."""

    cap_bytes: int = DEFAULT_CAP_MB * MIB
    first_cap_bytes: int = FIRST_CAP_BYTES
    find_unused: bool = False


def buckets_of(plan: TrainingPlan) -> Buckets | None:
    """DDP's buckets as Trainer asks for them; None where a plan is not replicated."""
    if not plan.is_replicated():
        return None
    cap_mb = plan.ddp_bucket_cap_mb or DEFAULT_CAP_MB
    return Buckets(
        cap_bytes=cap_mb * MIB,
        first_cap_bytes=FIRST_CAP_BYTES if cap_mb == DEFAULT_CAP_MB else cap_mb * MIB,
        find_unused=plan.finds_unused_parameters(),
    )


def assign(sizes: Sequence[int], limits: Sequence[int]) -> list[list[int]]:
    """compute_bucket_assignment_by_size: a bucket closes with the tensor that reaches its limit."""
    found: list[list[int]] = [[]]
    for size in sizes:
        found[-1].append(size)
        if sum(found[-1]) >= limits[min(len(found), len(limits)) - 1]:
            found.append([])
    return [bucket for bucket in found if bucket]


def unrolled(
    profile: Profile, batch: int, length: int, depth: int, buckets: Buckets | None = None
) -> tuple[Program, np.ndarray]:
    """The program of a depth and the bytes of its slots, DDP's own among them."""
    program = profile.program(depth)
    sizes = profile.sizes(batch, length, depth)[program.template]
    return (program, sizes) if buckets is None else replicated(program, sizes, buckets)


def replicated(program: Program, sizes: np.ndarray, buckets: Buckets) -> tuple[Program, np.ndarray]:
    """The program with DDP's broadcast, buckets and their second making."""
    marks = {label: position for position, label in program.marks}
    gradients = _born(program, sizes, program.steady(), _GRADIENTS)
    added = _Added(program, sizes)
    made = marks["optimizer made"]
    added.broadcast(made, _born(program, sizes, (0, marks["load"]), _WEIGHTS))
    limits = (buckets.first_cap_bytes, buckets.cap_bytes)
    if buckets.find_unused:  # in the order of registration, the last one's gradient comes first
        first = [sum(b) for b in assign(gradients[::-1], limits)][::-1]
        added.born(made, first, _GRADIENTS)
    else:
        kept = added.born(made, [sum(gradients)], _GRADIENTS)
        start = marks["optimizer0"]
        while program.events[start] < 0:  # after zero_grad, before the next forward
            start += 1
        added.dead(start, kept)
        added.born(start, [sum(b) for b in assign(gradients, limits)], _GRADIENTS)
    return added.result()


def _born(program: Program, sizes: np.ndarray, window: tuple[int, int], category: int) -> list[int]:
    slots = program.events[window[0] : window[1]]
    slots = slots[slots >= 0]
    return sizes[slots[program.categories[slots] == category]].tolist()


class _Added:
    """Events and slots on their way into a program."""

    def __init__(self, program: Program, sizes: np.ndarray) -> None:
        self.program, self.old_sizes = program, sizes
        self.sizes: list[int] = []
        self.categories: list[int] = []
        self.events: list[tuple[int, int]] = []
        """(position before which it comes, code)"""

    def born(self, position: int, sizes: Sequence[int], category: int) -> list[int]:
        first = len(self.old_sizes) + len(self.sizes)
        slots = list(range(first, first + len(sizes)))
        self.sizes += sizes
        self.categories += [category] * len(sizes)
        self.events += [(position, slot) for slot in slots]
        return slots

    def dead(self, position: int, slots: Sequence[int]) -> None:
        self.events += [(position, -(slot + 1)) for slot in slots]

    def broadcast(self, position: int, weights: Sequence[int]) -> None:
        """Flat copies, two at a time; a bucket of one tensor needs none."""
        alive: list[list[int]] = []
        for bucket in assign(weights, (BROADCAST_BYTES,)):
            if len(alive) == BROADCASTS_IN_FLIGHT:
                self.dead(position, alive.pop(0))
            sizes = [sum(bucket)] if len(bucket) > 1 else []
            alive.append(self.born(position, sizes, _WORKSPACE))
        for slots in alive:
            self.dead(position, slots)

    def result(self) -> tuple[Program, np.ndarray]:
        program = self.program
        positions = [p for p, _ in self.events]
        codes = [code for _, code in self.events]
        n = len(self.sizes)
        moved = dataclasses.replace(
            program,
            events=np.insert(program.events, positions, codes),
            template=np.concatenate([program.template, np.full(n, -1, dtype=np.int32)]),
            categories=np.concatenate([program.categories, np.array(self.categories, np.int8)]),
            streams=np.concatenate([program.streams, np.zeros(n, dtype=np.int8)]),
            marks=tuple((p + sum(q < p for q in positions), label) for p, label in program.marks),
        )
        return moved, np.concatenate([self.old_sizes, np.array(self.sizes, dtype=np.int64)])
