"""Feed a program to the allocator model.

Peak allocated and peak reserved, by phase and by category. No torch.
"""

from dataclasses import dataclass

import numpy as np

from advisor.memory import CATEGORIES
from advisor.simulate import temporaries
from advisor.simulate.allocator import ROUNDING, CachingAllocator
from advisor.simulate.buckets import Buckets, replicated, unrolled
from advisor.simulate.heap import Heap
from advisor.simulate.profile import EMPTY_CACHE, PHASES, Profile, Program


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
    *,
    buckets: Buckets | None = None,
    expandable: bool = False,
) -> Peaks:
    """Replay on a GPU whose driver can give `capacity_bytes`.

    Raises:
        OutOfMemoryError: the step does not fit.
    """
    loading = loading or Loading()
    program = profile.program(depth)
    by_template = profile.sizes(batch, length, depth)
    _resize_warm_up(profile, by_template, loading, batch, length, depth)
    slot_sizes = by_template[program.template]
    if buckets is not None:
        program, slot_sizes = replicated(program, slot_sizes, buckets)
    sizes = slot_sizes.tolist()
    allocator = CachingAllocator(capacity_bytes, expandable=expandable)
    streams = program.streams.tolist()
    blocks: list[object] = [None] * len(sizes)
    block_sizes = [0] * len(sizes)
    marks = dict(program.marks)
    allocated: dict[str, int] = {}
    reserved = 0
    malloc, free = allocator.malloc, allocator.free
    boundaries = [p for p, _ in program.marks]
    events = program.events.tolist()
    start = 0
    for end in boundaries:
        allocator.peak_allocated = allocator.allocated
        for e in events[start:end]:
            if e >= 0:
                if sizes[e]:
                    block = blocks[e] = malloc(sizes[e], streams[e])
                    block_sizes[e] = block.size
            elif sizes[-e - 1]:
                free(blocks[-e - 1])  # type: ignore[arg-type]
        label = marks[end]
        if label == EMPTY_CACHE and loading.empties_cache:
            allocator.empty_cache()
        allocated[label] = max(allocated.get(label, 0), allocator.peak_allocated)
        reserved = allocator.peak_reserved
        start = end
    phases = {phase: allocated[f"{phase}1"] for phase in PHASES}
    peak = max(phases.values())
    return Peaks(
        allocated=peak,
        reserved=reserved,
        phases=phases,
        categories=_at_peak(program, np.array(block_sizes, dtype=np.int64)),
        num_retries=allocator.num_retries,
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
    buckets: Buckets | None = None,
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
    return Peaks(
        allocated=peak,
        reserved=peak,
        phases=phases,
        categories=_at_peak(program, blocks),
        num_retries=0,
    )


def resident(
    profile: Profile, batch: int, length: int, depth: int, buckets: Buckets | None = None
) -> int:
    """Peak of what malloc keeps resident on a CPU, over load and two steps; bytes."""
    program, slot_sizes = unrolled(profile, batch, length, depth, buckets)
    sizes = slot_sizes.tolist()
    heap, chunks = Heap(), {}
    for e in program.events.tolist():
        if e >= 0:
            chunks[e] = heap.malloc(sizes[e])
        else:
            heap.free(chunks.pop(-e - 1))
    return heap.peak_resident


def _at_peak(program: Program, blocks: np.ndarray) -> dict[str, int]:
    """Live bytes by category where the steady step is highest."""
    start, end = program.steady()
    deltas = program.deltas(blocks)
    levels = np.cumsum(deltas)
    peak = start + int(np.argmax(levels[start:end])) + 1
    slots = np.where(program.events >= 0, program.events, -program.events - 1)
    by_category = np.bincount(
        program.categories[slots[:peak]], weights=deltas[:peak], minlength=len(CATEGORIES)
    )
    return {name: int(by_category[i]) for i, name in enumerate(CATEGORIES)}
