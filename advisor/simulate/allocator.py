"""A model of PyTorch's CUDACachingAllocator: one stream, with and without expandable segments.

Rules, as in c10/cuda/CUDACachingAllocator.cpp of torch 2.x: a request is rounded up to 512 B. Up to
1 MiB it is served from the small pool, whose segments are 2 MiB; above, from the large pool, whose
segments are 20 MiB for requests below 10 MiB and the request rounded up to 2 MiB otherwise. The
best fit is the smallest free block that is large enough, lowest address first. A block is split
when the rest is at least 512 B (small pool) or more than 1 MiB (large pool); an unsplit rest counts
as allocated. Free neighbours of one segment merge. When the driver refuses, all wholly free
segments are returned and the request tried once more.

New segments get descending addresses, as cudaMalloc hands them out; this decides between free
blocks of equal size (measured T4 runs with eager attention come out exact with it, 4 to 10 % off
with ascending addresses).
"""

from bisect import bisect_left, insort

from advisor.units import MIB

SMALL_REQUEST = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
MIN_LARGE_REQUEST = 10 * MIB
ROUNDING = 512


class OutOfMemoryError(Exception):
    """The device has no room for a request, even after every cached segment was returned."""


def block_bytes(request: int) -> int:
    """Size of the block a request asks for."""
    return max(ROUNDING, (request + ROUNDING - 1) // ROUNDING * ROUNDING)


class _Block:
    __slots__ = ("address", "before", "behind", "free", "size", "small")

    def __init__(self, address: int, size: int, small: bool) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.free = False
        self.before: _Block | None = None
        self.behind: _Block | None = None

    def __lt__(self, other: "_Block") -> bool:
        return (self.size, self.address) < (other.size, other.address)


class CachingAllocator:
    """Serves malloc and free as the CUDA allocator would; all counters are bytes.

    Args:
        capacity_bytes: what the driver can give; None is without limit.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.allocated = self.reserved = 0
        self.peak_allocated = self.peak_reserved = 0
        self.num_retries = 0
        self._free: tuple[list[_Block], list[_Block]] = ([], [])  # large pool, small pool
        self._next_address = 1 << 60

    def malloc(self, request: int) -> _Block:
        """Serve `request` bytes.

        Raises:
            OutOfMemoryError: the capacity is exceeded.
        """
        size = max(ROUNDING, (request + ROUNDING - 1) // ROUNDING * ROUNDING)
        small = size <= SMALL_REQUEST
        pool = self._free[small]
        i = bisect_left(pool, (size, 0), key=lambda b: (b.size, b.address))
        block = pool.pop(i) if i < len(pool) else self._segment(size, small)
        rest = block.size - size
        if rest >= ROUNDING if small else rest > SMALL_REQUEST:
            tail = _Block(block.address + size, rest, small)
            tail.free = True
            tail.before, tail.behind = block, block.behind
            if block.behind is not None:
                block.behind.before = tail
            block.behind, block.size = tail, size
            insort(pool, tail)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: _Block) -> None:
        """Take a block back and merge it with its free neighbours."""
        self.allocated -= block.size
        pool = self._free[block.small]
        behind = block.behind
        if behind is not None and behind.free:
            self._remove(pool, behind)
            block.size += behind.size
            block.behind = behind.behind
            if behind.behind is not None:
                behind.behind.before = block
        before = block.before
        if before is not None and before.free:
            self._remove(pool, before)
            before.size += block.size
            before.behind = block.behind
            if block.behind is not None:
                block.behind.before = before
            block = before
        block.free = True
        insort(pool, block)

    def empty_cache(self) -> None:
        """Return every wholly free segment to the driver."""
        for pool in self._free:
            whole = [b for b in pool if b.before is None and b.behind is None]
            self.reserved -= sum(b.size for b in whole)
            pool[:] = [b for b in pool if b.before is not None or b.behind is not None]

    def _segment(self, size: int, small: bool) -> _Block:
        if small:
            segment = SMALL_SEGMENT
        elif size < MIN_LARGE_REQUEST:
            segment = LARGE_SEGMENT
        else:
            segment = (size + 2 * MIB - 1) // (2 * MIB) * (2 * MIB)
        if self.capacity_bytes is not None and self.reserved + segment > self.capacity_bytes:
            self.empty_cache()
            self.num_retries += 1
            if self.reserved + segment > self.capacity_bytes:
                raise OutOfMemoryError(
                    f"{segment} bytes more than {self.reserved} reserved exceed "
                    f"{self.capacity_bytes}"
                )
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        self._next_address -= segment + 2 * MIB
        return _Block(self._next_address, segment, small)

    @staticmethod
    def _remove(pool: list[_Block], block: _Block) -> None:
        del pool[bisect_left(pool, (block.size, block.address), key=lambda b: (b.size, b.address))]


class ExpandableAllocator(CachingAllocator):
    """The same with `expandable_segments:True`: one growing segment for each pool.

    Memory is mapped at its end in units of 20 MiB (large pool) or 2 MiB (small pool), blocks are
    always split, and a free block at the end serves only what no other free block can, since it
    could be expanded. When the driver refuses, the wholly free units are unmapped and the request
    is tried once more. Read in CUDACachingAllocator.cpp (`ExpandableSegment`, `should_split`,
    `get_free_block`); no measured row used it.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        super().__init__(capacity_bytes)
        self._last: dict[bool, _Block | None] = {True: None, False: None}
        self._end = {True: 1 << 61, False: 1 << 62}

    def malloc(self, request: int) -> _Block:
        """Serve `request` bytes.

        Raises:
            OutOfMemoryError: the capacity is exceeded.
        """
        size = block_bytes(request)
        small = size <= SMALL_REQUEST
        block = self._fitting(size, small) or self._expand(size, small)
        rest = block.size - size
        if rest >= ROUNDING:
            tail = _Block(block.address + size, rest, small)
            tail.free, tail.before, tail.behind = True, block, block.behind
            if block.behind is not None:
                block.behind.before = tail
            else:
                self._last[small] = tail
            block.behind, block.size = tail, size
            insort(self._free[small], tail)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: _Block) -> None:
        """Take a block back and merge it with its free neighbours."""
        small, last = block.small, self._last[block.small]
        ends = block is last or (block.behind is last and last is not None and last.free)
        before = block.before
        super().free(block)
        if ends:
            self._last[small] = before if before is not None and before.free else block

    def empty_cache(self) -> None:
        """Unmap the units that hold nothing.

        Holes in the middle stay mapped here, where the real allocator unmaps whole units of them.
        """
        for small, unit in ((True, SMALL_SEGMENT), (False, LARGE_SEGMENT)):
            last = self._last[small]
            if last is None or not last.free:
                continue
            units = last.size // unit
            self._remove(self._free[small], last)
            last.size -= units * unit
            self.reserved -= units * unit
            self._end[small] -= units * unit
            if last.size:
                insort(self._free[small], last)
                continue
            self._last[small] = last.before
            if last.before is not None:
                last.before.behind = None

    def _fitting(self, size: int, small: bool) -> _Block | None:
        """The best fit, the expandable end of the segment last of all."""
        pool, last = self._free[small], self._last[small]
        i = bisect_left(pool, (size, 0), key=lambda b: (b.size, b.address))
        if i < len(pool) and pool[i] is last and i + 1 < len(pool):
            i += 1
        return pool.pop(i) if i < len(pool) else None

    def _expand(self, size: int, small: bool) -> _Block:
        """Map more at the end; a free block there becomes part of it."""
        unit = SMALL_SEGMENT if small else LARGE_SEGMENT
        if not self._has_room(size, small, unit):
            self.empty_cache()
            self.num_retries += 1
            if not self._has_room(size, small, unit):
                raise OutOfMemoryError(
                    f"{size} bytes more than {self.reserved} reserved exceed {self.capacity_bytes}"
                )
        mapped, last = self._missing(size, small, unit), self._last[small]
        self.reserved += mapped
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        end = self._end[small]
        self._end[small] = end + mapped
        if last is not None and last.free:
            self._remove(self._free[small], last)
            last.size += mapped
            return last
        block = _Block(end, mapped, small)
        block.before = last
        if last is not None:
            last.behind = block
        self._last[small] = block
        return block

    def _missing(self, size: int, small: bool, unit: int) -> int:
        last = self._last[small]
        there = last.size if last is not None and last.free else 0
        return (size - there + unit - 1) // unit * unit

    def _has_room(self, size: int, small: bool, unit: int) -> bool:
        mapped = self._missing(size, small, unit)
        return self.capacity_bytes is None or self.reserved + mapped <= self.capacity_bytes
