"""An allocator that takes whole programs as arrays: compiled.py with the state it goes on from.

Imports numba with compiled.py, so it is imported where something is replayed. Where numba is told
to compile nothing (NUMBA_DISABLE_JIT) the reference allocator runs instead.
"""

import numba
import numpy as np

from advisor.simulate.allocator import CachingAllocator, OutOfMemoryError
from advisor.simulate.compiled import (
    ALLOCATED,
    BLOCK,
    CAPACITY,
    EXPANDABLE,
    NEXT_ADDRESS,
    NONE,
    NUM_COUNTERS,
    PEAK_RESERVED,
    POOL,
    REFUSED,
    RESERVED,
    RETRIES,
    UNUSED,
    State,
    run,
)


def _new_state(capacity_bytes: int | None, expandable: bool) -> State:
    """An empty allocator without room for any block; see `_with_room`."""
    counters = np.zeros(NUM_COUNTERS, dtype=np.int64)
    counters[CAPACITY] = NONE if capacity_bytes is None else capacity_bytes
    counters[EXPANDABLE], counters[NEXT_ADDRESS] = expandable, 1 << 60
    return State(
        blocks=np.zeros(0, dtype=BLOCK),
        pools=np.zeros(0, dtype=POOL),
        free=np.zeros((0, 0), dtype=np.int32),
        spare=np.zeros(0, dtype=np.int32),
        counters=counters,
    )


def _with_room(state: State, num_blocks: int, num_streams: int) -> State:
    """The same allocator with room for so many blocks more, and for so many streams."""
    unused, old = int(state.counters[UNUSED]), len(state.blocks)
    added, pools = max(num_blocks - unused, 0), max(len(state.pools), 2 * num_streams)
    if not added and pools == len(state.pools):
        return state
    made = State(
        blocks=np.zeros(old + added, dtype=BLOCK),
        pools=np.array([(0, NONE)] * pools, dtype=POOL),
        free=np.empty((pools, old + added), dtype=np.int32),
        spare=np.empty(old + added, dtype=np.int32),
        counters=state.counters,
    )
    made.blocks[:old] = state.blocks
    made.pools[: len(state.pools)] = state.pools
    made.free[: len(state.pools), :old] = state.free
    made.spare[:unused] = state.spare[:unused]
    made.spare[unused : unused + added] = np.arange(old + added - 1, old - 1, -1)
    made.counters[UNUSED] += added
    return made


def run_reference(
    allocator: CachingAllocator,
    events: np.ndarray,
    sizes: np.ndarray,
    streams: np.ndarray,
    ends: np.ndarray,
    empties: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """`ArrayAllocator.run`, one event at a time.

    Raises:
        OutOfMemoryError: the capacity is exceeded.
    """
    wanted, where = sizes.tolist(), streams.tolist()
    taken, blocks, peaks, start = [0] * len(wanted), {}, [], 0
    for end, empty in zip(ends.tolist(), empties.tolist(), strict=True):
        allocator.peak_allocated = allocator.allocated
        for e in events[start:end].tolist():
            if e >= 0 and wanted[e]:
                blocks[e] = allocator.malloc(wanted[e], where[e])
                taken[e] = blocks[e].size
            elif -e - 1 in blocks:
                allocator.free(blocks.pop(-e - 1))
        if empty:
            allocator.empty_cache()
        peaks.append((allocator.peak_allocated, allocator.peak_reserved))
        start = end
    found = np.array(peaks, dtype=np.int64).reshape(len(peaks), 2)
    return found, np.array(taken, dtype=np.int64)


def prepare() -> None:
    """Compile, or load what was compiled: seconds once for each install, then 0.1 s a process."""
    one, slot = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int8)
    ArrayAllocator().run(one - 1, one, slot, one, np.zeros(1, dtype=np.bool_))


class ArrayAllocator:
    """A CachingAllocator that takes whole programs; what it holds stays for the next one.

    Args:
        capacity_bytes: what the driver can give; None is without limit.
        expandable: PYTORCH_ALLOC_CONF=expandable_segments:True.
    """

    def __init__(self, capacity_bytes: int | None = None, *, expandable: bool = False) -> None:
        self._state = _new_state(capacity_bytes, expandable)
        self._reference = (
            CachingAllocator(capacity_bytes, expandable=expandable)
            if numba.config.DISABLE_JIT  # type: ignore[missing-attribute]
            else None
        )

    def run(
        self,
        events: np.ndarray,
        sizes: np.ndarray,
        streams: np.ndarray,
        ends: np.ndarray,
        empties: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run events, stretch by stretch.

        Args:
            events: int64; slot >= 0 is a birth, -(slot + 1) a death. Deaths of slots that do not
                live are passed over.
            sizes: int64 per slot, bytes; of 0 nothing is allocated.
            streams: int8 per slot.
            ends: int64 per stretch: the number of events up to its end; what follows the last
                is not run.
            empties: bool per stretch: the cache is returned at its end.

        Returns:
            int64 (stretches, 2): peak allocated inside each and peak reserved up to its end, bytes;
            int64 per slot: the block its birth took, bytes.

        Raises:
            OutOfMemoryError: the capacity is exceeded.
        """
        if self._reference is not None:
            return run_reference(self._reference, events, sizes, streams, ends, empties)
        num_streams = int(streams.max(initial=0)) + 1
        self._state = _with_room(self._state, 2 * len(sizes), num_streams)
        blocks = np.full(len(sizes), NONE, dtype=np.int32)
        block_sizes = np.zeros(len(sizes), dtype=np.int64)
        peaks = np.zeros((len(ends), 2), dtype=np.int64)
        given = (  # of other types or layouts it would be compiled once more
            np.ascontiguousarray(array, dtype=dtype)
            for array, dtype in ((events, np.int64), (sizes, np.int64), (streams, np.int8))
        )
        if not run(self._state, *given, blocks, block_sizes, ends, empties, peaks):
            counters = self._state.counters
            raise OutOfMemoryError(
                f"{counters[REFUSED]} bytes more than {counters[RESERVED]} reserved exceed "
                f"{counters[CAPACITY]}"
            )
        return peaks, block_sizes

    @property
    def allocated(self) -> int:
        """Bytes of live blocks."""
        return self._counter("allocated", ALLOCATED)

    @property
    def reserved(self) -> int:
        """Bytes taken from the driver."""
        return self._counter("reserved", RESERVED)

    @property
    def peak_reserved(self) -> int:
        """Most bytes ever taken from the driver."""
        return self._counter("peak_reserved", PEAK_RESERVED)

    @property
    def num_retries(self) -> int:
        """How often the cache had to be emptied to stay within the capacity."""
        return self._counter("num_retries", RETRIES)

    def _counter(self, name: str, place: int) -> int:
        if self._reference is not None:
            return getattr(self._reference, name)
        return int(self._state.counters[place])
