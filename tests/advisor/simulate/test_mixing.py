"""Steps of other lengths: what the allocator keeps after them, and the verdict near the limit."""

import dataclasses
import itertools

import numpy as np
import pytest

from advisor.errors import SimulationError
from advisor.hardware.machine import Gpu
from advisor.peaks import Asked, on_gpu
from advisor.plan import TrainingPlan
from advisor.simulate import replay
from advisor.simulate.allocator import CachingAllocator, OutOfMemoryError
from advisor.simulate.fit import fit
from advisor.simulate.mixing import MIXED, carried, mixed
from advisor.simulate.profile import Structure, canonical_config
from advisor.simulate.step import record
from advisor.units import GIB, MIB

BATCH, DEPTH = 2, 2
LONGEST = 512
LENGTHS = (100, 347, 508, 30, LONGEST)
LLAMA = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "accumulated"])
def profile(request):
    asked = Structure(
        config=canonical_config(LLAMA), compute_capability=(7, 5), accumulate=request.param
    )

    def trace(depth, batch, length):
        return record(asked, depth=depth, batch=batch, length=length)

    return fit(trace, depth=DEPTH, replicate=False, single_row=False)


def sizes(profile, length):
    return profile.sizes(BATCH, length, DEPTH)[profile.program(DEPTH).template]


def reserved_step_by_step(profile, lengths):
    """The same run in an allocator of Python objects, a block a slot, without a longer program."""
    program = profile.program(DEPTH)
    allocator, blocks = CachingAllocator(), {}
    start, end = program.steady()
    before, left = carried(program)

    def run(events, step):
        for e in events.tolist():
            if e >= 0:
                stream = int(program.streams[e])
                blocks[e] = allocator.malloc(int(step[e]), stream) if step[e] else None
            elif (block := blocks.pop(-e - 1)) is not None:
                allocator.free(block)

    run(program.events[:end], sizes(profile, LONGEST))
    for length in lengths:
        for old, new in zip(before.tolist(), left.tolist(), strict=True):
            blocks[old] = blocks.pop(new)
        run(program.events[start:end], sizes(profile, length))
    return allocator.peak_reserved


def test_what_one_step_leaves_is_what_the_next_lets_go_of(profile):
    before, left = carried(profile.program(DEPTH))
    for length in LENGTHS:
        asked = sizes(profile, length)
        assert asked[before].tolist() == asked[left].tolist()


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], (LONGEST,) * 3])
def test_reserved_is_that_of_the_steps_one_after_the_other(profile, lengths):
    found = replay.on_cuda(profile, BATCH, LONGEST, DEPTH, lengths=lengths)
    assert found.occasions[MIXED] == reserved_step_by_step(profile, lengths)


def test_mixed_lengths_change_nothing_of_the_steady_step(profile):
    alone = replay.on_cuda(profile, BATCH, LONGEST, DEPTH)
    found = replay.on_cuda(profile, BATCH, LONGEST, DEPTH, lengths=LENGTHS)
    assert (found.allocated, found.reserved) == (alone.allocated, alone.reserved)
    assert found.categories == alone.categories
    assert found.occasions[MIXED] >= found.reserved
    assert MIXED not in alone.occasions


def test_every_repeated_tensor_dies_once(profile):
    program, slot_sizes = mixed(
        profile.program(DEPTH), sizes(profile, LONGEST), [sizes(profile, n) for n in LENGTHS]
    )
    events = program.events.tolist()
    births = [e for e in events if e >= 0]
    assert births == sorted(set(births)) == list(range(len(slot_sizes)))
    alive, allocated = set(), []
    for e in events:
        if e >= 0:
            alive.add(e)
        else:
            alive.remove(-e - 1)
        allocated.append(len(alive))
    ends = [p for p, label in program.marks if label in ("optimizer1", MIXED)]
    assert allocated[ends[0] - 1] == allocated[ends[1] - 1]
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(program.marks))


def test_two_steps_that_leave_different_things_are_refused(profile):
    program = profile.program(DEPTH)
    start, _ = program.steady()
    kept = np.delete(program.events, start)  # the first death of the steady step
    assert program.events[start] < 0
    marks = tuple((p - (p > start), label) for p, label in program.marks)
    broken = dataclasses.replace(program, events=kept, marks=marks)
    with pytest.raises(SimulationError, match="the first step left"):
        carried(broken)


def test_what_returns_its_cache_in_time_is_tight_and_what_cannot_does_not_fit(profile):
    def verdict(free_bytes):
        gpu = Gpu(name="T4", compute_capability=(7, 5), free_bytes=free_bytes)
        asked = Asked(
            profile=profile,
            batch=BATCH,
            length=LONGEST,
            depth=DEPTH,
            lengths=LENGTHS,
            plan=TrainingPlan(per_device_train_batch_size=BATCH, max_length=LONGEST),
        )
        return on_gpu(asked, gpu)

    roomy = verdict(16 * GIB)
    assert roomy.verdict == "fits"
    highest = max(roomy.occasions.values())
    near = verdict(highest - MIB)
    assert near.verdict == "tight"
    assert any("returned in time" in said for said in near.assumptions)
    assert verdict(highest - (roomy.reserved_bytes - roomy.allocated_bytes) - 64 * MIB).verdict == (
        "does_not_fit"
    )


def test_what_is_alive_at_once_and_does_not_fit_is_refused_without_a_replay(profile, monkeypatch):
    alive = replay.on_cuda(profile, BATCH, LONGEST, DEPTH).allocated
    with pytest.raises(OutOfMemoryError, match="live bytes"):
        replay.on_cuda(profile, BATCH, LONGEST, DEPTH, capacity_bytes=alive // 2)
    # The same refusal as the allocator's own.
    monkeypatch.setattr(replay, "_least", lambda *_: 0)
    with pytest.raises(OutOfMemoryError, match="reserved exceed"):
        replay.on_cuda(profile, BATCH, LONGEST, DEPTH, capacity_bytes=alive // 2)
