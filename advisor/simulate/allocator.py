"""A model of PyTorch's CUDACachingAllocator: default settings, a pool for each stream.

Rules, as in c10/cuda/CUDACachingAllocator.cpp of torch 2.x: a request is rounded up to 512 B. Up to
1 MiB it is served from the small pool, whose segments are 2 MiB; above, from the large pool, whose
segments are 20 MiB for requests below 10 MiB and the request rounded up to 2 MiB otherwise. The
best fit is the smallest free block that is large enough, lowest address first. A block is split
when the rest is at least 512 B (small pool) or more than 1 MiB (large pool); an unsplit rest counts
as allocated. Free neighbours of one segment merge. When the driver refuses, all wholly free
segments are returned and the request tried once more.

With expandable segments each pool has one segment, which grows at its end by pages of 2 or 20 MiB,
and every rest of 512 B is split off (read in source).

A block freed on one stream serves requests of that stream alone.

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


class _Pool:
    """Free blocks of one stream and kind, in the order of best fit."""

    __slots__ = ("end", "free", "small")

    def __init__(self, small: bool) -> None:
        self.small = small
        self.free: list[_Block] = []
        self.end: _Block | None = None
        """Last block of the one expandable segment."""

    @property
    def page(self) -> int:
        """Bytes by which the expandable segment grows."""
        return SMALL_SEGMENT if self.small else LARGE_SEGMENT

    def missing(self, size: int) -> int:
        """Bytes to map so that the segment's end holds `size`."""
        there = self.end.size if self.end is not None and self.end.free else 0
        return (size - there + self.page - 1) // self.page * self.page


class _Block:
    __slots__ = ("address", "before", "behind", "free", "pool", "size")

    def __init__(self, address: int, size: int, pool: _Pool) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.free = False
        self.before: _Block | None = None
        self.behind: _Block | None = None

    def __lt__(self, other: "_Block") -> bool:
        return (self.size, self.address) < (other.size, other.address)


class CachingAllocator:
    """Serves malloc and free as the CUDA allocator would; all counters are bytes.

    Args:
        capacity_bytes: what the driver can give; None is without limit.
        expandable: PYTORCH_ALLOC_CONF=expandable_segments:True.
    """

    def __init__(self, capacity_bytes: int | None = None, *, expandable: bool = False) -> None:
        self.capacity_bytes = capacity_bytes
        self.expandable = expandable
        self.allocated = self.reserved = 0
        self.peak_allocated = self.peak_reserved = 0
        self.num_retries = 0
        self._pools: dict[tuple[int, bool], _Pool] = {}
        self._next_address = 1 << 60

    def malloc(self, request: int, stream: int = 0) -> _Block:
        """Serve `request` bytes from the pools of a stream.

        Raises:
            OutOfMemoryError: the capacity is exceeded.
        """
        size = max(ROUNDING, (request + ROUNDING - 1) // ROUNDING * ROUNDING)
        small = size <= SMALL_REQUEST
        pool = self._pools.get((stream, small))
        if pool is None:
            pool = self._pools[stream, small] = _Pool(small)
        block = self._find(size, pool)
        rest = block.size - size
        if rest >= ROUNDING if small or self.expandable else rest > SMALL_REQUEST:
            tail = _Block(block.address + size, rest, pool)
            tail.free = True
            tail.before, tail.behind = block, block.behind
            if block.behind is not None:
                block.behind.before = tail
            else:
                pool.end = tail
            block.behind, block.size = tail, size
            insort(pool.free, tail)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def _find(self, size: int, pool: _Pool) -> _Block:
        """The best fit, no longer among the free; expandable, the open end comes last."""
        free = pool.free
        i = bisect_left(free, (size, 0), key=lambda b: (b.size, b.address))
        if self.expandable:
            if i + 1 < len(free) and free[i] is pool.end:
                i += 1
            return free.pop(i) if i < len(free) else self._grow(size, pool)
        return free.pop(i) if i < len(free) else self._segment(size, pool)

    def free(self, block: _Block) -> None:
        """Take a block back and merge it with its free neighbours."""
        self.allocated -= block.size
        pool = block.pool
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
        if block.behind is None:
            pool.end = block
        insort(pool.free, block)

    def empty_cache(self) -> None:
        """Return every wholly free segment to the driver.

        Of an expandable segment the free pages at its end go back; those inside it would go too,
        which is not modelled.
        """
        for pool in self._pools.values():
            if self.expandable:
                self._shrink(pool)
                continue
            whole = [b for b in pool.free if b.before is None and b.behind is None]
            self.reserved -= sum(b.size for b in whole)
            pool.free[:] = [b for b in pool.free if b.before is not None or b.behind is not None]

    def _shrink(self, pool: _Pool) -> None:
        """Unmap the pages at the segment's end that hold nothing."""
        end = pool.end
        if end is None or not end.free:
            return
        gone = end.size // pool.page * pool.page
        self._remove(pool, end)
        self.reserved -= gone
        end.size -= gone
        if end.size:
            insort(pool.free, end)
            return
        pool.end = end.before
        if end.before is not None:
            end.before.behind = None

    def _grow(self, size: int, pool: _Pool) -> _Block:
        """Map pages behind the last block of the pool's segment until `size` bytes are free."""
        if not self._fits(pool.missing(size)):
            self.empty_cache()
            self.num_retries += 1
        more, end = pool.missing(size), pool.end
        self._reserve(more)
        if end is not None and end.free:
            self._remove(pool, end)
            end.size += more
            return end
        address = self._next_address if end is None else end.address + end.size
        if end is None:
            self._next_address += 1 << 48
        block = _Block(address, more, pool)
        block.before = end
        if end is not None:
            end.behind = block
        pool.end = block
        return block

    def _segment(self, size: int, pool: _Pool) -> _Block:
        if pool.small:
            segment = SMALL_SEGMENT
        elif size < MIN_LARGE_REQUEST:
            segment = LARGE_SEGMENT
        else:
            segment = (size + 2 * MIB - 1) // (2 * MIB) * (2 * MIB)
        self._take(segment)
        self._next_address -= segment + 2 * MIB
        return _Block(self._next_address, segment, pool)

    def _take(self, segment: int) -> None:
        if not self._fits(segment):
            self.empty_cache()
            self.num_retries += 1
        self._reserve(segment)

    def _fits(self, size: int) -> bool:
        return self.capacity_bytes is None or self.reserved + size <= self.capacity_bytes

    def _reserve(self, size: int) -> None:
        if not self._fits(size):
            raise OutOfMemoryError(
                f"{size} bytes more than {self.reserved} reserved exceed {self.capacity_bytes}"
            )
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    @staticmethod
    def _remove(pool: _Pool, block: _Block) -> None:
        free = pool.free
        del free[bisect_left(free, (block.size, block.address), key=lambda b: (b.size, b.address))]
