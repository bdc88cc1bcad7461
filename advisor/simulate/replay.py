"""Feed a program to the allocator model.

Peak allocated and peak reserved, by phase and by category. No torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.memory import CATEGORIES
from advisor.simulate import temporaries
from advisor.simulate.allocator import ROUNDING, OutOfMemoryError
from advisor.simulate.buckets import Buckets, replicated, unrolled
from advisor.simulate.heap import Heap
from advisor.simulate.mixing import LAST_STEP, MIXED, mixed
from advisor.simulate.profile import EMPTY_CACHE, PHASES, Profile, Program

if TYPE_CHECKING:
    from advisor.simulate.arrays import ArrayAllocator


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What a steady step reaches, bytes."""

    allocated: int
    reserved: int
    """Over load, first and steady step: the cache is never returned by itself."""
    phases: dict[str, int]
    """Peak allocated in forward, backward, optimizer."""
    categories: dict[str, int]
    """Allocated bytes at the peak by category; their sum is `allocated`."""
    num_retries: int
    """How often the cache had to be emptied to stay within the capacity."""
    occasions: dict[str, int]
    """Highest reserved (on a CPU: live) bytes in OCCASIONS, each after those before it."""


OCCASIONS = ("load", "first_step", "mixed_lengths", "evaluation", "save")
"""What a run does besides its steady step; the last three where they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Batches of an evaluation, to be replayed after the steps."""

    profile: Callable[[], Profile]
    """Asked for when the steps themselves fit, and not before: it may have to be traced."""
    batch: int
    length: int

    def events(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """What happens after loading, and the bytes by slot.

        What never dies is left out: cuBLAS' workspace is there from training, and the last batch
        adds nothing to what the others took.
        """
        profile = self.profile()
        program = profile.program(depth)
        sizes = profile.sizes(self.batch, self.length, depth)[program.template]
        loaded = next(position for position, label in program.marks if label == "load")
        events = program.events[loaded:]
        slots = program.slots[loaded:]
        counted = np.zeros(len(sizes), dtype=bool)
        counted[slots[events >= 0]] = True
        dies = np.zeros(len(sizes), dtype=bool)
        dies[slots[events < 0]] = True
        counted &= dies | (program.categories != _WORKSPACE)
        return events[counted[slots]], sizes


_WORKSPACE = CATEGORIES.index("workspace")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What differs between versions in how a quantised model comes onto the card."""

    warm_up_bits: int | None = None
    """Of the block taken first, for each quantised weight; 0 takes none, None as was read."""
    empties_cache: bool = True
    """peft returns the cache after it cast what is not quantised to float32."""


LOADINGS = {
    4: (Loading(), Loading(warm_up_bits=8), Loading(warm_up_bits=0, empties_cache=False)),
    8: (Loading(), Loading(warm_up_bits=16), Loading(warm_up_bits=0, empties_cache=False)),
}
"""By bits: as read in transformers 5.23, the larger block of 5.0, and neither block nor emptying.

What is reserved later depends on which holes loading left, so the middle of the three is told.
"""


def on_cuda(
    profile: Profile,
    batch: int,
    length: int,
    depth: int,
    capacity_bytes: int | None = None,
    loading: Loading | None = None,
    evaluation: Evaluation | None = None,
    *,
    lengths: Sequence[int] = (),
    buckets: Buckets | None = None,
    expandable: bool = False,
    saves: bool = False,
) -> Peaks:
    """Replay on a GPU whose driver can give `capacity_bytes`.

    Load, first and steady step, then steps of other lengths, then an evaluation, then a save.

    Args:
        profile: the recorded step.
        batch: rows.
        length: tokens of each.
        depth: repeated layers.
        capacity_bytes: None is without limit.
        loading: how a quantised model came onto the card.
        evaluation: follows the steps.
        lengths: tokens of each row in the steps that follow the steady one.
        buckets: of replicated data parallel.
        expandable: the allocator runs with expandable_segments:True.
        saves: the model is written at the end; an occasion where that makes copies on the device.

    Raises:
        OutOfMemoryError: the step does not fit.
    """
    from advisor.simulate.arrays import ArrayAllocator  # numba: where something is replayed only

    loading = loading or Loading()
    program = profile.program(depth)
    by_template = profile.sizes(batch, length, depth)
    _resize_warm_up(profile, by_template, loading, batch, length, depth)
    slot_sizes = by_template[program.template]
    if buckets is not None:
        program, slot_sizes = replicated(program, slot_sizes, buckets)
    if capacity_bytes is not None:
        least = _least(program, slot_sizes)
        if least > capacity_bytes:
            raise OutOfMemoryError(f"{least} live bytes exceed {capacity_bytes}")
    others = (profile.sizes(batch, other, depth)[program.template] for other in lengths)
    others = [np.where(program.template < 0, slot_sizes, changed) for changed in others]
    program, slot_sizes = mixed(program, slot_sizes, others)
    allocator = ArrayAllocator(capacity_bytes, expandable=expandable)
    labels = [label for _, label in program.marks]
    empties = [label == EMPTY_CACHE and loading.empties_cache for label in labels]
    levels, block_sizes = allocator.run(
        program.events,
        slot_sizes,
        program.streams,
        np.array([position for position, _ in program.marks], dtype=np.int64),
        np.array(empties, dtype=np.bool_),
    )
    allocated: dict[str, int] = {}
    reserved: dict[str, int] = {}
    for label, (live_peak, reserved_peak) in zip(labels, levels.tolist(), strict=True):
        allocated[label] = max(allocated.get(label, 0), live_peak)
        reserved[label] = reserved_peak
    occasions = {"load": reserved["load"], "first_step": reserved["optimizer0"]}
    if lengths:
        occasions[MIXED] = reserved[MIXED]
    if evaluation is not None:
        events, later = evaluation.events(depth)
        _run_on(allocator, events, later)
        occasions["evaluation"] = allocator.peak_reserved
    copies = profile.copies_at_save(depth)
    if saves and len(copies):
        _run_on(allocator, np.arange(len(copies)), copies)
        occasions["save"] = allocator.peak_reserved
    phases = {phase: allocated[f"{phase}1"] for phase in PHASES}
    peak = max(phases.values())
    return Peaks(
        allocated=peak,
        reserved=reserved[LAST_STEP],
        phases=phases,
        categories=_at_peak(program, block_sizes),
        num_retries=allocator.num_retries,
        occasions=occasions,
    )


def _least(program: Program, sizes: np.ndarray) -> int:
    """Most live bytes of the recorded steps: no order of the allocator's cache needs fewer."""
    start, end = program.steady()
    blocks = (sizes + ROUNDING - 1) // ROUNDING * ROUNDING
    return int(np.cumsum(program.deltas(blocks)[:end])[start:].max())


def _run_on(allocator: "ArrayAllocator", events: np.ndarray, sizes: np.ndarray) -> None:
    """Events of the default stream after all that the allocator has seen."""
    allocator.run(
        events,
        sizes,
        np.zeros(len(sizes), dtype=np.int8),
        np.array([len(events)], dtype=np.int64),
        np.zeros(1, dtype=np.bool_),
    )


def _resize_warm_up(
    profile: Profile, sizes: np.ndarray, loading: Loading, batch: int, length: int, depth: int
) -> None:
    found = profile.warm_up(batch, length, depth)
    if found is None or loading.warm_up_bits is None:
        return
    row, elements, others = found
    bits = loading.warm_up_bits
    sizes[row] = temporaries.warm_up(elements, bits, others)[0] if bits else 0


def live(
    profile: Profile,
    batch: int,
    length: int,
    depth: int,
    rounding: int = ROUNDING,
    evaluation: Evaluation | None = None,
    buckets: Buckets | None = None,
    *,
    saves: bool = False,
) -> Peaks:
    """Peak of the live bytes alone, each rounded up: exact on a CPU, a lower bound of a GPU's."""
    program, sizes = unrolled(profile, batch, length, depth, buckets)
    blocks = (sizes + rounding - 1) // rounding * rounding
    levels = np.cumsum(program.deltas(blocks))
    phases = {}
    for phase in PHASES:
        start, end = program.window(f"{phase}1")
        phases[phase] = int(levels[max(start - 1, 0) : end].max())
    peak = max(phases.values())
    places = {label: position for position, label in program.marks}
    load, first = (int(levels[: places[name]].max()) for name in ("load", "optimizer0"))
    occasions = {"load": load, "first_step": first}
    if evaluation is not None:
        events, sizes = evaluation.events(depth)
        rounded = (sizes + rounding - 1) // rounding * rounding
        deltas = np.where(events >= 0, rounded[events], -rounded[-events - 1])
        occasions["evaluation"] = int(levels[-1] + max(np.cumsum(deltas).max(), 0))
    copies = profile.copies_at_save(depth)
    if saves and len(copies):
        occasions["save"] = int(levels[-1] + ((copies + rounding - 1) // rounding * rounding).sum())
    return Peaks(
        allocated=peak,
        reserved=peak,
        phases=phases,
        categories=_at_peak(program, blocks),
        num_retries=0,
        occasions=occasions,
    )


def resident(
    profile: Profile,
    batch: int,
    length: int,
    depth: int,
    evaluation: Evaluation | None = None,
    buckets: Buckets | None = None,
    *,
    saves: bool = False,
) -> int:
    """Peak bytes that malloc keeps resident on a CPU: load, two steps, an evaluation, a save."""
    program, slot_sizes = unrolled(profile, batch, length, depth, buckets)
    sizes = slot_sizes.tolist()
    heap, chunks = Heap(), {}
    for e in program.events.tolist():
        if e >= 0:
            chunks[e] = heap.malloc(sizes[e])
        else:
            heap.free(chunks.pop(-e - 1))
    if evaluation is not None:
        events, later = evaluation.events(depth)
        for e in events.tolist():
            if e >= 0:
                chunks[e] = heap.malloc(int(later[e]))
            else:
                heap.free(chunks.pop(-e - 1))
    for size in profile.copies_at_save(depth).tolist() if saves else ():
        heap.malloc(size)
    return heap.peak_resident


def _at_peak(program: Program, blocks: np.ndarray) -> dict[str, int]:
    """Live bytes by category where the steady step is highest."""
    start, end = program.steady()
    deltas = program.deltas(blocks)
    levels = np.cumsum(deltas)
    peak = start + int(np.argmax(levels[start:end])) + 1
    by_category = np.bincount(
        program.categories[program.slots[:peak]], weights=deltas[:peak], minlength=len(CATEGORIES)
    )
    return {name: int(by_category[i]) for i, name in enumerate(CATEGORIES)}
