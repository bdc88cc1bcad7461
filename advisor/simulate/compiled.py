"""The caching allocator as machine code: what allocator.py does, event for event, and faster.

allocator.py is the reference and the one to read; a property test holds the two equal. Here a block
is an index into arrays, and a whole program is one call. numba compiles `run` at its first call and
keeps the result by this file's age and size: all that is compiled stands here, and who changes one
of the sizes imported from allocator.py saves this file too.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.options import DefaultOptions

from advisor.simulate.allocator import (
    LARGE_SEGMENT,
    MIN_LARGE_REQUEST,
    ROUNDING,
    SMALL_REQUEST,
    SMALL_SEGMENT,
)
from advisor.units import MIB

ALLOCATED, RESERVED, PEAK_ALLOCATED, PEAK_RESERVED, RETRIES = range(5)
"""Places in State.counters; bytes, but for RETRIES."""
CAPACITY, EXPANDABLE, NEXT_ADDRESS, UNUSED, REFUSED = range(5, 10)
"""More of them: bytes (-1: no limit), 0 or 1, address, spare block ids, bytes that did not fit."""
NUM_COUNTERS = 10
NONE = -1
"""No block."""
_OPTIONS: dict[str, Any] = {"nogil": True}
if hasattr(DefaultOptions, "_nrt"):  # not one of numba's public options
    _OPTIONS["_nrt"] = False
"""No references are counted, which is half of the time: every array here is the caller's."""
_jit = numba.njit(**_OPTIONS)
BLOCK = np.dtype(
    [
        ("address", np.int64),
        ("size", np.int64),
        ("before", np.int32),  # its neighbours in the segment, NONE at the ends
        ("behind", np.int32),
        ("pool", np.int32),
        ("is_free", np.bool_),
    ],
    align=True,
)
POOL = np.dtype(
    [
        ("count", np.int64),  # how many of State.free count
        ("end", np.int32),  # last block of the one expandable segment
    ],
    align=True,
)


class State(NamedTuple):
    """The allocator; a pool is 2 * stream + (1 for large requests)."""

    blocks: np.ndarray
    """BLOCK."""
    pools: np.ndarray
    """POOL."""
    free: np.ndarray
    """int32 (pools, blocks): free blocks of a pool by (size, address)."""
    spare: np.ndarray
    """int32: the first counters[UNUSED] are blocks in no use."""
    counters: np.ndarray
    """int64; see ALLOCATED and those after it."""


@_jit
def _place(s: State, pool: int, size: int, address: int) -> int:
    """How many free blocks of the pool come before (size, address)."""
    low, high = 0, s.pools[pool].count
    while low < high:
        middle = (low + high) // 2
        b = s.free[pool, middle]
        if s.blocks[b].size < size or (s.blocks[b].size == size and s.blocks[b].address < address):
            low = middle + 1
        else:
            high = middle
    return low


@_jit
def _insert(s: State, pool: int, block: int) -> None:
    place = _place_of(s, pool, block)
    for i in range(s.pools[pool].count, place, -1):
        s.free[pool, i] = s.free[pool, i - 1]
    s.free[pool, place] = block
    s.pools[pool].count += 1


@_jit
def _take_out(s: State, pool: int, place: int) -> int:
    block = s.free[pool, place]
    s.pools[pool].count -= 1
    for i in range(place, s.pools[pool].count):
        s.free[pool, i] = s.free[pool, i + 1]
    return block


@_jit
def _remove(s: State, pool: int, block: int) -> None:
    _take_out(s, pool, _place_of(s, pool, block))


@_jit
def _place_of(s: State, pool: int, block: int) -> int:
    return _place(s, pool, s.blocks[block].size, s.blocks[block].address)


@_jit
def _is_less(s: State, one: int, other: int) -> bool:
    a, b = s.blocks[one], s.blocks[other]
    return a.size < b.size or (a.size == b.size and a.address < b.address)


@_jit
def _put(s: State, pool: int, place: int, block: int) -> None:
    """Let `block` take the place of another and move it to where it belongs."""
    free, last = s.free[pool], s.pools[pool].count - 1
    while place > 0 and _is_less(s, block, free[place - 1]):
        free[place] = free[place - 1]
        place -= 1
    while place < last and _is_less(s, free[place + 1], block):
        free[place] = free[place + 1]
        place += 1
    free[place] = block


@_jit
def _new_block(s: State, address: int, size: int, pool: int) -> int:
    s.counters[UNUSED] -= 1
    block = s.spare[s.counters[UNUSED]]
    s.blocks[block].address, s.blocks[block].size, s.blocks[block].pool = address, size, pool
    s.blocks[block].before = s.blocks[block].behind = NONE
    s.blocks[block].is_free = False
    return block


@_jit
def _give_up(s: State, block: int) -> None:
    s.spare[s.counters[UNUSED]] = block
    s.counters[UNUSED] += 1


@_jit
def _shrink(s: State, pool: int) -> None:
    end = s.pools[pool].end
    if end == NONE or not s.blocks[end].is_free:
        return
    page = LARGE_SEGMENT if pool % 2 else SMALL_SEGMENT
    gone = s.blocks[end].size // page * page
    _remove(s, pool, end)
    s.counters[RESERVED] -= gone
    s.blocks[end].size -= gone
    if s.blocks[end].size:
        _insert(s, pool, end)
        return
    s.pools[pool].end = s.blocks[end].before
    if s.blocks[end].before != NONE:
        s.blocks[s.blocks[end].before].behind = NONE
    _give_up(s, end)


@_jit
def _empty_cache(s: State) -> None:
    for pool in range(len(s.pools)):
        if s.counters[EXPANDABLE]:
            _shrink(s, pool)
            continue
        kept = 0
        for i in range(s.pools[pool].count):
            block = s.free[pool, i]
            if s.blocks[block].before == NONE and s.blocks[block].behind == NONE:
                s.counters[RESERVED] -= s.blocks[block].size
                _give_up(s, block)
            else:
                s.free[pool, kept] = block
                kept += 1
        s.pools[pool].count = kept


@_jit
def _fits(s: State, size: int) -> bool:
    capacity = s.counters[CAPACITY]
    return capacity == NONE or s.counters[RESERVED] + size <= capacity


@_jit
def _reserve(s: State, size: int) -> bool:
    """Whether the driver gave it."""
    if not _fits(s, size):
        s.counters[REFUSED] = size
        return False
    s.counters[RESERVED] += size
    s.counters[PEAK_RESERVED] = max(s.counters[PEAK_RESERVED], s.counters[RESERVED])
    return True


@_jit
def _missing(s: State, size: int, pool: int) -> int:
    end = s.pools[pool].end
    there = s.blocks[end].size if end != NONE and s.blocks[end].is_free else 0
    page = LARGE_SEGMENT if pool % 2 else SMALL_SEGMENT
    return (size - there + page - 1) // page * page


@_jit
def _grow(s: State, size: int, pool: int) -> int:
    """A block at the expandable segment's end, NONE where the driver refuses."""
    if not _fits(s, _missing(s, size, pool)):
        _empty_cache(s)
        s.counters[RETRIES] += 1
    more, end = _missing(s, size, pool), s.pools[pool].end
    if not _reserve(s, more):
        return NONE
    if end != NONE and s.blocks[end].is_free:
        _remove(s, pool, end)
        s.blocks[end].size += more
        return end
    if end == NONE:
        address = s.counters[NEXT_ADDRESS]
        s.counters[NEXT_ADDRESS] += 1 << 48
    else:
        address = s.blocks[end].address + s.blocks[end].size
    block = _new_block(s, address, more, pool)
    s.blocks[block].before = end
    if end != NONE:
        s.blocks[end].behind = block
    s.pools[pool].end = block
    return block


@_jit
def _segment(s: State, size: int, pool: int) -> int:
    """A segment of its own, NONE where the driver refuses."""
    if pool % 2 == 0:
        segment = SMALL_SEGMENT
    elif size < MIN_LARGE_REQUEST:
        segment = LARGE_SEGMENT
    else:
        segment = (size + 2 * MIB - 1) // (2 * MIB) * (2 * MIB)
    if not _fits(s, segment):
        _empty_cache(s)
        s.counters[RETRIES] += 1
    if not _reserve(s, segment):
        return NONE
    s.counters[NEXT_ADDRESS] -= segment + 2 * MIB
    return _new_block(s, s.counters[NEXT_ADDRESS], segment, pool)


@_jit
def _find(s: State, size: int, pool: int) -> int:
    """Place of the best fit among the free; expandable, the open end comes last.

    The number of the free where none fits.
    """
    place = _place(s, pool, size, 0)
    if s.counters[EXPANDABLE]:
        at_end = place < s.pools[pool].count and s.free[pool, place] == s.pools[pool].end
        if at_end and place + 1 < s.pools[pool].count:
            place += 1
    return place


@_jit
def _malloc(s: State, request: int, stream: int) -> int:
    """A block, NONE where the driver refuses."""
    size = max(ROUNDING, (request + ROUNDING - 1) // ROUNDING * ROUNDING)
    small = size <= SMALL_REQUEST
    pool = 2 * stream + (0 if small else 1)
    place = _find(s, size, pool)
    is_cached = place < s.pools[pool].count
    if is_cached:
        block = s.free[pool, place]
    else:
        block = _grow(s, size, pool) if s.counters[EXPANDABLE] else _segment(s, size, pool)
        if block == NONE:
            return NONE
    rest = s.blocks[block].size - size
    if rest >= ROUNDING if small or s.counters[EXPANDABLE] else rest > SMALL_REQUEST:
        tail = _split(s, block, size)
        if is_cached:
            _put(s, pool, place, tail)
        else:
            _insert(s, pool, tail)
    elif is_cached:
        _take_out(s, pool, place)
    s.blocks[block].is_free = False
    s.counters[ALLOCATED] += s.blocks[block].size
    s.counters[PEAK_ALLOCATED] = max(s.counters[PEAK_ALLOCATED], s.counters[ALLOCATED])
    return block


@_jit
def _split(s: State, block: int, size: int) -> int:
    """Cut a block down to `size`; its rest, free."""
    pool, behind = s.blocks[block].pool, s.blocks[block].behind
    rest = s.blocks[block].size - size
    tail = _new_block(s, s.blocks[block].address + size, rest, pool)
    s.blocks[tail].is_free = True
    s.blocks[tail].before, s.blocks[tail].behind = block, behind
    if behind != NONE:
        s.blocks[behind].before = tail
    else:
        s.pools[pool].end = tail
    s.blocks[block].behind, s.blocks[block].size = tail, size
    return tail


@_jit
def _free(s: State, block: int) -> None:
    s.counters[ALLOCATED] -= s.blocks[block].size
    pool = s.blocks[block].pool
    before, behind = s.blocks[block].before, s.blocks[block].behind
    place = NONE  # of what is merged into, among the free
    if behind != NONE and s.blocks[behind].is_free:
        place = _place_of(s, pool, behind)
        _swallow(s, block)
    if before != NONE and s.blocks[before].is_free:
        if place != NONE:
            _take_out(s, pool, place)
        place = _place_of(s, pool, before)
        _swallow(s, before)
        block = before
    s.blocks[block].is_free = True
    if s.blocks[block].behind == NONE:
        s.pools[pool].end = block
    if place == NONE:
        _insert(s, pool, block)
    else:
        _put(s, pool, place, block)


@_jit
def _swallow(s: State, block: int) -> None:
    """Merge a block with the one behind it."""
    behind = s.blocks[block].behind
    s.blocks[block].size += s.blocks[behind].size
    after = s.blocks[behind].behind
    s.blocks[block].behind = after
    if after != NONE:
        s.blocks[after].before = block
    _give_up(s, behind)


def _run(
    s: State,
    events: np.ndarray,
    sizes: np.ndarray,
    streams: np.ndarray,
    blocks: np.ndarray,
    block_sizes: np.ndarray,
    ends: np.ndarray,
    empties: np.ndarray,
    peaks: np.ndarray,
) -> bool:
    """Run events through the allocator; False: it ran out of memory on the way.

    Args:
        s: the allocator, with room for two blocks a birth.
        events: int64; slot >= 0 is a birth, -(slot + 1) a death.
        sizes: int64 per slot, bytes; of 0 nothing is allocated.
        streams: int8 per slot.
        blocks: int32 per slot, written: its block; NONE before the first run.
        block_sizes: int64 per slot, written: what a birth took, bytes.
        ends: int64 per stretch: the number of events up to its end.
        empties: bool per stretch: the cache is returned at its end.
        peaks: int64 (stretches, 2), written: peak allocated inside it, peak reserved so far.
    """
    start = 0
    for stretch in range(len(ends)):
        s.counters[PEAK_ALLOCATED] = s.counters[ALLOCATED]
        for i in range(start, ends[stretch]):
            e = events[i]
            if e < 0:
                if blocks[-e - 1] != NONE:
                    _free(s, blocks[-e - 1])
                    blocks[-e - 1] = NONE
            elif sizes[e]:
                block = _malloc(s, sizes[e], streams[e])
                if block == NONE:
                    return False
                blocks[e], block_sizes[e] = block, s.blocks[block].size
        if empties[stretch]:
            _empty_cache(s)
        peaks[stretch, 0] = s.counters[PEAK_ALLOCATED]
        peaks[stretch, 1] = s.counters[PEAK_RESERVED]
        start = ends[stretch]
    return True


@functools.cache
def _machine_code(*, cached: bool) -> Callable[..., bool]:
    return numba.njit(cache=cached, **_OPTIONS)(_run)


def run(*arguments: Any) -> bool:
    """`_run` as machine code, from numba's cache: beside this file, else in the user's own."""
    try:
        return _machine_code(cached=True)(*arguments)
    except (RuntimeError, OSError):  # neither can be written, or the disk is full: before it ran
        return _machine_code(cached=False)(*arguments)
