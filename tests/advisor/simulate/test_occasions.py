"""What loading and the first step reach: a case worked out by hand, and a whole program again."""

import dataclasses
import statistics
from types import SimpleNamespace

import numpy as np
import pytest

from advisor.calibration import Learned, Peak
from advisor.hardware.catalogue import machine_from_name
from advisor.memory import CATEGORIES
from advisor.peaks import Asked, on_cpu, on_gpu
from advisor.plan import LoraSettings, Quantization, TrainingPlan
from advisor.simulate import replay
from advisor.simulate.allocator import CachingAllocator
from advisor.simulate.fit import fit
from advisor.simulate.profile import EMPTY_CACHE, Profile, Structure, canonical_config
from advisor.simulate.step import record
from advisor.units import GIB, MIB

SOURCE, WEIGHT, GRADIENT, STATE, SCRATCH, ACTIVATION, NEXT_GRADIENT, NEXT_ACTIVATION = range(8)
SIZES = (12, 6, 6, 6, 30, 4, 6, 4)
"""MiB: what is read, a weight, its gradient and state, what the first update takes once more."""
STEPS = [
    ("load", [("b", SOURCE), ("b", WEIGHT), ("g", SOURCE)]),
    ("forward0", [("b", ACTIVATION)]),
    ("backward0", [("b", GRADIENT), ("g", ACTIVATION)]),
    ("optimizer0", [("b", STATE), ("b", SCRATCH), ("g", SCRATCH), ("g", GRADIENT)]),
    ("forward1", [("b", NEXT_ACTIVATION)]),
    ("backward1", [("b", NEXT_GRADIENT), ("g", NEXT_ACTIVATION)]),
    ("optimizer1", [("g", NEXT_GRADIENT)]),
]
LOADED = 12 + 20
"""MiB reserved: a segment of its own from 10 MiB on, one of 20 MiB for less."""
FIRST = LOADED + 30
"""The 4 and 6 MiB fit into what the source left and what the weight left over; 30 MiB do not."""


@pytest.fixture(scope="module")
def by_hand():
    coefficients = np.zeros((len(SIZES), 6))
    coefficients[:, 0] = [size * MIB for size in SIZES]
    events = [list(e) for label, events in STEPS for e in (*events, ("m", label))]
    return Profile(
        traced_depth=1,
        replicated=False,
        coefficients=coefficients,
        slope=np.zeros(len(SIZES), dtype=np.int64),
        categories=np.full(len(SIZES), CATEGORIES.index("weights"), dtype=np.int8),
        streams=np.zeros(len(SIZES), dtype=np.int8),
        rules={},
        segments=[["global", events]],
        kernels=SimpleNamespace(),
    )


def test_each_is_what_it_reserves_by_then(by_hand):
    found = replay.on_cuda(by_hand, 1, 64, 1)
    assert found.occasions == {"load": LOADED * MIB, "first_step": FIRST * MIB}
    assert found.reserved == FIRST * MIB  # the cache stays
    assert found.allocated == (6 + 6 + 4 + 6) * MIB  # of the steady step alone


def test_each_is_what_lives_at_once(by_hand):
    """Without an allocator: both sources and weight, then weight, gradient, state and scratch."""
    found = replay.live(by_hand, 1, 64, 1)
    assert found.occasions == {"load": (12 + 6) * MIB, "first_step": (6 + 6 + 6 + 30) * MIB}
    assert found.allocated == (6 + 6 + 4 + 6) * MIB


def asked_for(profile):
    plan = TrainingPlan(per_device_train_batch_size=1, max_length=64)
    return Asked(profile=profile, batch=1, length=64, depth=1, plan=plan)


def test_a_card_adds_its_context(by_hand):
    gpu = machine_from_name("Tesla T4").accelerator()
    found = on_gpu(asked_for(by_hand), gpu)
    context = found.process_bytes - found.reserved_bytes
    assert context > 100 * MIB
    expected = {"load": LOADED * MIB + context, "first_step": FIRST * MIB + context}
    assert found.occasions == expected
    assert found.process_bytes == expected["first_step"]


def test_a_cpu_adds_the_process(by_hand):
    found = on_cpu(asked_for(by_hand), baseline=GIB, free_bytes=2 * GIB)
    assert found.occasions == {"load": GIB + 18 * MIB, "first_step": GIB + 48 * MIB}
    assert found.verdict == "fits"


def test_runs_of_a_card_move_what_torch_reserves_and_never_below_what_is_allocated(by_hand):
    gpu = machine_from_name("Tesla T4").accelerator()
    asked = asked_for(by_hand)
    plain = on_gpu(asked, gpu)
    for ratio, contexts in ((1.25, ()), (0.95, (200 * MIB,)), (0.5, (200 * MIB, 210 * MIB))):
        run = Peak(fixed=0, kept=1_000, measured=round(1_000 * ratio))
        learned = Learned(peaks=(run,), contexts=contexts)
        found = on_gpu(dataclasses.replace(asked, learned=learned), gpu)
        expected = max(round(plain.reserved_bytes * ratio), plain.allocated_bytes)
        assert found.reserved_bytes == expected
        assert found.allocated_bytes == plain.allocated_bytes
        assert round(found.reserved_bytes / found.correction) == plain.reserved_bytes
        context = found.process_bytes - found.reserved_bytes
        unlearned = plain.process_bytes - plain.reserved_bytes
        assert context == (statistics.median(contexts) if contexts else unlearned)
        low, high = found.interval["reserved_bytes"]
        assert low < expected < high
        assert sum(found.categories.values()) == found.process_bytes
        assert "What torch reserves: from 1 of your runs." in found.assumptions


def test_runs_of_a_cpu_move_the_process_and_what_malloc_keeps(by_hand):
    asked = asked_for(by_hand)
    plain = on_cpu(asked, baseline=GIB, free_bytes=2 * GIB)
    for share in (0.87, 1.1):
        run = Peak(
            fixed=GIB,
            kept=plain.process_bytes - GIB,
            measured=round(share * plain.process_bytes),
        )
        learned = Learned(peaks=(run,))
        found = on_cpu(dataclasses.replace(asked, learned=learned), GIB, 2 * GIB)
        assert found.process_bytes == pytest.approx(run.measured, abs=2)
        assert sum(found.categories.values()) == found.process_bytes
        undone = found.categories["context"] - found.correction_bytes
        assert undone == GIB
        kept = (found.process_bytes - found.categories["context"]) / found.correction
        assert kept == pytest.approx(run.kept, abs=2)


def test_a_cpu_run_that_ran_out_of_memory_is_remembered(by_hand):
    asked = dataclasses.replace(asked_for(by_hand), learned=Learned(num_out_of_memory=1))
    assert on_cpu(asked, baseline=GIB, free_bytes=4 * GIB).verdict == "tight"


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_a_real_program_run_block_by_block(method):
    """What loading left and what the first update made, in the allocator of Python objects."""
    config = {"model_type": "gpt2", "n_embd": 256, "n_layer": 2, "n_head": 4, "vocab_size": 8192}
    quantised = {
        "lora": LoraSettings(r=4),
        "quantization": Quantization(load_in_4bit=True, bnb_4bit_compute_dtype="float16"),
        "dtype": "float16",
    }
    asked = Structure(
        config=canonical_config(config),
        method=method,
        compute_capability=(7, 5),
        **(quantised if method == "qlora" else {}),
    )
    profile = fit(
        lambda depth, batch, length: record(asked, depth=depth, batch=batch, length=length),
        depth=2,
        replicate=False,
        single_row=False,
    )
    program = profile.program(2)
    sizes = profile.sizes(4, 256, 2)[program.template].tolist()
    allocator, blocks, reached, start = CachingAllocator(), {}, {}, 0
    for end, label in program.marks:
        for e in program.events[start:end].tolist():
            if e >= 0 and sizes[e]:
                blocks[e] = allocator.malloc(sizes[e], int(program.streams[e]))
            elif -e - 1 in blocks:
                allocator.free(blocks.pop(-e - 1))
        if label == EMPTY_CACHE:
            allocator.empty_cache()
        reached[label] = allocator.peak_reserved
        start = end
    found = replay.on_cuda(profile, 4, 256, 2)
    expected = {"load": reached["load"], "first_step": reached["optimizer0"]}
    assert found.occasions == expected
    assert 0 < expected["load"] < expected["first_step"] <= found.reserved
