import functools
import itertools
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulate.allocator import (
    CachingAllocator,
    OutOfMemoryError,
    block_bytes,
)
from advisor.simulate.arrays import ArrayAllocator, run_reference
from advisor.units import MIB


def test_requests_round_up_to_512_bytes():
    assert [block_bytes(n) for n in (1, 512, 513)] == [512, 512, 1024]


def test_small_requests_share_one_segment_of_2_mib():
    allocator = CachingAllocator()
    for _ in range(4):
        allocator.malloc(1000)
    assert (allocator.allocated, allocator.reserved) == (4 * 1024, 2 * MIB)


def test_medium_request_takes_a_segment_of_20_mib_and_large_one_its_own():
    allocator = CachingAllocator()
    allocator.malloc(2 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.malloc(30 * MIB + 1)
    assert allocator.reserved == 20 * MIB + 32 * MIB


def test_unsplit_rest_counts_as_allocated():
    allocator = CachingAllocator()
    allocator.malloc(31 * MIB + 512)
    assert allocator.allocated == 32 * MIB


def test_freed_neighbours_merge_and_serve_a_larger_request():
    allocator = CachingAllocator()
    first, second = allocator.malloc(9 * MIB), allocator.malloc(9 * MIB)
    allocator.free(first)
    allocator.free(second)
    allocator.malloc(19 * MIB)
    assert allocator.reserved == 20 * MIB


def test_cache_is_returned_before_giving_up():
    allocator = CachingAllocator(capacity_bytes=64 * MIB)
    allocator.free(allocator.malloc(40 * MIB))
    allocator.malloc(50 * MIB)
    assert (allocator.num_retries, allocator.reserved) == (1, 50 * MIB)
    with pytest.raises(OutOfMemoryError):
        allocator.malloc(30 * MIB)


def test_expandable_segment_grows_in_units_and_splits_always():
    allocator = CachingAllocator(expandable=True)
    first = allocator.malloc(15 * MIB)
    allocator.malloc(15 * MIB + 512)
    assert (allocator.allocated, allocator.reserved) == (30 * MIB + 512, 40 * MIB)
    allocator.free(first)
    allocator.malloc(15 * MIB)  # the hole, not the end that could grow
    assert allocator.reserved == 40 * MIB


def test_expandable_segment_joins_what_fragments_apart():
    """Growing requests: each needs a segment of its own, or one segment that grows."""
    sizes = [n * 10 * MIB for n in range(1, 7)]
    peaks = []
    for allocator in (CachingAllocator(), CachingAllocator(expandable=True)):
        for size in sizes:
            allocator.free(allocator.malloc(size))
        peaks.append(allocator.peak_reserved)
    assert peaks == [sum(sizes), sizes[-1]]


def test_expandable_segment_gives_its_end_back_before_it_gives_up():
    allocator = CachingAllocator(capacity_bytes=64 * MIB, expandable=True)
    small = allocator.malloc(1000)
    allocator.free(allocator.malloc(60 * MIB))
    with pytest.raises(OutOfMemoryError):
        allocator.malloc(70 * MIB)
    assert allocator.num_retries == 1
    assert allocator.reserved == 2 * MIB
    allocator.free(small)


@pytest.mark.parametrize("expandable", [False, True])
@given(requests=st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), max_size=60))
def test_counters_never_lie(expandable, requests):
    allocator, alive = CachingAllocator(expandable=expandable), []
    for size, free_one in requests:
        alive.append(allocator.malloc(size))
        if free_one:
            allocator.free(alive.pop(0))
    spans = sorted((b.address, b.address + b.size) for b in alive)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert allocator.allocated == sum(b.size for b in alive) <= allocator.reserved
    for block in alive:
        allocator.free(block)
    allocator.empty_cache()
    assert (allocator.allocated, allocator.reserved) == (0, 0)


def random_events(rng, num):
    """Births of mixed sizes on three streams, deaths of any that live, and who outlives them."""
    edges = [0, 1, 512, MIB, MIB + 1, 2 * MIB, 10 * MIB, 20 * MIB]
    pick = {0: lambda: rng.choice(edges), 1: lambda: rng.randint(1, 4000)}
    sizes = [pick.get(rng.randrange(3), lambda: rng.randint(1, 60 * MIB))() for _ in range(num)]
    events, alive = [], []
    for slot in range(num):
        events.append(slot)
        alive.append(slot)
        while alive and rng.random() < 0.45:
            events.append(-(alive.pop(rng.randrange(len(alive))) + 1))
    return events, alive, sizes, [rng.randrange(3) for _ in range(num)]


def run_all(run, runs, stretch):
    """What the runs say, and the message where memory runs out."""
    found = []
    for codes, sizes, streams, empties in runs:
        ends = [min((i + 1) * stretch, len(codes)) for i in range(len(empties))]
        try:
            peaks, taken = run(
                np.array(codes, dtype=np.int64),
                np.array(sizes, dtype=np.int64),
                np.array(streams, dtype=np.int8),
                np.array(ends, dtype=np.int64),
                np.array(empties, dtype=np.bool_),
            )
        except OutOfMemoryError as error:
            return found, str(error)
        found += [*map(tuple, peaks.tolist()), taken.tolist()]
    return found, None


@pytest.mark.parametrize("expandable", [False, True])
@settings(deadline=None, max_examples=200)
@given(
    rng=st.randoms(use_true_random=False),
    num=st.integers(0, 150),
    capacity=st.one_of(st.none(), st.integers(0, 800 * MIB)),
    stretch=st.integers(1, 40),
    empties=st.integers(0, 7),
)
def test_arrays_do_what_the_reference_does(expandable, rng, num, capacity, stretch, empties):
    """Two runs: what lives after the first stays, whatever the second calls its own."""
    events, alive, sizes, streams = random_events(random.Random(rng.random()), num)
    later = [-(slot + 1) for slot in alive] + events
    runs = []
    for codes in (events, later):
        stretches = -(-len(codes) // stretch)
        runs.append((codes, sizes, streams, [bool(i % 8 == empties) for i in range(stretches)]))
    reference = CachingAllocator(capacity, expandable=expandable)
    expected = run_all(functools.partial(run_reference, reference), runs, stretch)
    allocator = ArrayAllocator(capacity, expandable=expandable)
    assert run_all(allocator.run, runs, stretch) == expected
    counters = ("allocated", "reserved", "peak_reserved", "num_retries")
    assert [getattr(allocator, c) for c in counters] == [getattr(reference, c) for c in counters]


def test_where_numba_may_not_compile_the_reference_runs():
    program = (
        "import numpy as np; from advisor.simulate.arrays import ArrayAllocator;"
        "a = ArrayAllocator(); one = np.ones(1, dtype=np.int64);"
        "print(a.run(one - 1, 3000 * one, np.zeros(1, np.int8), one, np.zeros(1, np.bool_)),"
        " a.reserved, a.num_retries)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for disabled in ("0", "1")
    ]
    assert said[0] == said[1]
    assert "3072" in said[0]
