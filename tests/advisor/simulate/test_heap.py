from hypothesis import given
from hypothesis import strategies as st

from advisor.simulate.heap import MAX_THRESHOLD, Heap
from advisor.units import MIB


def test_large_blocks_leave_when_freed():
    heap = Heap()
    heap.free(heap.malloc(100 * MIB))
    assert (heap.resident, heap.peak_resident // MIB) == (0, 100)
    assert heap.mmap_threshold < MAX_THRESHOLD  # blocks beyond 32 MiB teach malloc nothing


def test_threshold_rises_to_the_largest_freed_block():
    heap = Heap()
    heap.free(heap.malloc(8 * MIB))
    assert heap.mmap_threshold // MIB == 8
    heap.malloc(4 * MIB)
    assert heap.mapped == 0 < heap.touched


def test_hole_of_the_same_size_is_not_taken():
    heap = Heap()
    heap.free(heap.malloc(16 * MIB))
    hole, _wall = heap.malloc(4 * MIB), heap.malloc(4 * MIB)
    heap.free(hole)
    before = heap.touched
    heap.malloc(4 * MIB)
    assert heap.touched - before > 3 * MIB


@given(st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), max_size=60))
def test_resident_covers_what_is_alive_and_ends_trimmed(requests):
    heap, alive = Heap(), []
    for size, free_one in requests:
        alive.append((size, heap.malloc(size)))
        if free_one:
            heap.free(alive.pop(0)[1])
        assert heap.resident >= sum(size for size, _ in alive)
    for _, chunk in alive:
        heap.free(chunk)
    assert heap.mapped == 0
    assert heap.touched < max(heap.trim_threshold, 1)
