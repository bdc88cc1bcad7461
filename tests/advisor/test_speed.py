"""The time model: tiles, queue, order of layers and what a card's sheet says of it."""

import dataclasses

import numpy as np
import pytest

from advisor.calibration import NOTHING
from advisor.device_time import matmul_seconds
from advisor.estimate import Estimator
from advisor.hardware.catalogue import machine_from_name
from advisor.plan import TrainingPlan
from advisor.rates import MIB, gpu_rates
from advisor.simulate.profile import KINDS, Kernels, Profile
from advisor.simulate.software import INSTALLED, Software
from advisor.simulate.worker import Worker
from advisor.speed import OTHER_SOFTWARE_ERROR, StepCost, ends, software_of, step_cost
from advisor.versions import installed
from tests.advisor.fakes import model


def test_a_large_matmul_runs_at_its_rate_and_a_small_one_takes_a_whole_wave():
    large = np.array([[1, 8192, 8192, 8192]])
    rate = np.array([1e14])
    at_rate = 2 * 8192**3 / 1e14
    assert at_rate < matmul_seconds(large, rate, 108)[0] < 1.1 * at_rate
    one_tile, few_tiles = (
        matmul_seconds(np.array([[1, rows, 128, 256]]), rate, 108)[0] for rows in (1, 64)
    )
    assert one_tile == few_tiles > 20 * 2 * 128 * 256 / 1e14
    one_more = np.array([[1, 128 * 108, 128, 4096], [1, 128 * 108 + 1, 128, 4096]])
    full, over = matmul_seconds(one_more, np.repeat(rate, 2), 108)
    assert full < over


def test_the_queue_is_the_loop_it_stands_for():
    random = np.random.default_rng(0)
    device, host = random.exponential(1, 200), random.exponential(1, 200)
    launched = done = 0.0
    for i, end in enumerate(ends(device, host)):
        launched += host[i]
        done = max(done, launched) + device[i]
        assert end == pytest.approx(done)


def profile(**columns):
    """One forward kernel in each of four layers and one of the optimizer; layer 1 repeats."""
    zeros = np.zeros((5, 6))
    standard = {
        "phase": np.array([0, 0, 0, 0, 2], dtype=np.int8),
        "kind": np.full(5, KINDS.index("elementwise"), dtype=np.int8),
        "half": np.ones(5, dtype=bool),
        "repeated": np.array([0, 1, 0, 0, 0], dtype=bool),
        "num_launches": np.ones(5, dtype=np.int64),
        "num_views": np.zeros(5, dtype=np.int64),
        "by_python": np.array([1, 1, 1, 1, 0], dtype=bool),
        "flops": zeros,
        "num_bytes": zeros,
        "per_layer": np.zeros((5, 3)),
        "shaped": np.zeros(0, dtype=np.int32),
        "dims": np.zeros((0, 4, 6)),
        "operator": np.full(5, "mul"),
        "num_trained": np.array([8, 2]),
    }
    nothing = np.zeros(0)
    return Profile(
        traced_depth=4,
        replicated=True,
        coefficients=nothing,
        slope=nothing,
        categories=nothing,
        streams=nothing,
        rules={},
        segments=[],
        kernels=Kernels(**(standard | columns)),
    )


A100 = gpu_rates(machine_from_name("NVIDIA A100-SXM4-80GB").gpus[0])


def test_tiny_kernels_wait_for_the_host_layer_by_layer():
    shallow, deep = (step_cost(profile(), A100, 1, 1, depth) for depth in (4, 12))
    assert shallow.regime == deep.regime == "launch"
    launch = A100.host_seconds["forward"]
    assert shallow.forward == pytest.approx(4 * launch, rel=0.3)
    assert deep.forward - shallow.forward == pytest.approx(8 * launch)
    of_tensors = A100.host_seconds["tensor"]
    assert deep.optimizer - shallow.optimizer == pytest.approx(16 * of_tensors, rel=0.01)


def test_the_class_of_a_kernel_decides_its_bandwidth_and_the_regime():
    big = np.zeros((5, 6))
    big[:, 0] = 1e10
    seconds = {}
    for kind in ("elementwise", "reduce", "copy", "dequantise"):
        rows = np.full(5, KINDS.index(kind), dtype=np.int8)
        cost = step_cost(profile(num_bytes=big, kind=rows), A100, 1, 1, 4)
        assert cost.regime == "bandwidth"
        seconds[kind] = cost.forward
    assert list(seconds.values()) == sorted(seconds.values())
    assert seconds["dequantise"] > 1.8 * seconds["elementwise"]
    cost = step_cost(profile(flops=1e4 * big), A100, 1, 1, 4)
    assert cost.regime == "compute"
    assert (
        cost.optimizer < cost.forward == pytest.approx(4e14 / A100.flops_per_second_half, rel=0.1)
    )


def test_what_fits_in_half_the_cache_moves_twice_as_fast():
    moved = np.zeros((5, 6))
    moved[:, 0] = 19 * MIB
    free = dict.fromkeys(A100.host_seconds, 0.0)
    cached, streamed = (
        step_cost(profile(num_bytes=moved), rates, 1, 1, 4).forward - 4 * A100.seconds_per_kernel
        for rates in (
            dataclasses.replace(A100, host_seconds=free),
            dataclasses.replace(A100, host_seconds=free, cache_bytes=0),
        )
    )
    assert streamed == pytest.approx(2 * cached)


@pytest.mark.parametrize(
    ("name", "processors"),
    [("NVIDIA A100-SXM4-80GB", 108), ("Tesla T4", 40), ("L40S", 142), ("H100-SXM5-80GB", 132),
     ("RTX A6000", 84), ("Tesla V100-SXM2-16GB", 80)],
)  # fmt: skip
def test_multiprocessors_follow_from_the_sheet(name, processors):
    found = gpu_rates(machine_from_name(name).gpus[0]).processors
    assert found == pytest.approx(processors, rel=0.05)


def test_the_software_is_the_stated_one_and_the_kernels_are_named():
    flash = TrainingPlan(attn_implementation="flash_attention_2", bf16=True)
    said = software_of(flash, Software(transformers="4.45.0"))
    assert "transformers 4.45.0" in said
    assert "FlashAttention's kernels" in said
    assert "own kernels" not in said
    assert f"transformers {installed('transformers')}" in software_of(TrainingPlan())
    assert "the library's own kernels" in software_of(TrainingPlan())


@pytest.mark.parametrize(("ratios", "is_doubled"), [((), True), ((1.0, 1.1), False)])
def test_a_range_that_runs_taught_is_not_called_twice_as_wide(monkeypatch, ratios, is_doubled):
    estimator = Estimator(
        Worker(), model=model(1e8), data=None, machine=machine_from_name("Tesla T4")
    )
    cost = StepCost(forward=0.1, backward=0.2, optimizer=0.1, regime="compute")
    monkeypatch.setattr(estimator, "_structure", lambda *_, **__: None)
    monkeypatch.setattr(estimator, "_cost", lambda *_: cost)
    learned = dataclasses.replace(NOTHING, speed_ratios=ratios)
    monkeypatch.setattr(estimator, "_known_of", lambda _plan: learned)
    found = estimator.time(TrainingPlan(use_liger_kernel=True))
    assert any("twice as wide" in said for said in found.assumptions) is is_doubled


@pytest.mark.parametrize(
    ("source", "stated", "said", "width"),
    [
        ("probe", INSTALLED, None, None),
        ("catalogue", INSTALLED, "versions on that machine are unknown", 0.35),
        ("catalogue", Software(transformers=installed("transformers")), None, None),
        ("probe", Software(others=(("torch", "2.4.1"),)), "stated versions were not", 0.35),
    ],
)
def test_other_software_widens_the_range(monkeypatch, source, stated, said, width):
    named = machine_from_name("Tesla T4")
    here = (dataclasses.replace(named.gpus[0], index=0),)
    machine = dataclasses.replace(named, source=source, gpus=here)
    estimator = Estimator(Worker(), model=model(1e8), data=None, machine=machine, software=stated)
    cost = StepCost(forward=0.1, backward=0.2, optimizer=0.1, regime="compute")
    monkeypatch.setattr(estimator, "_structure", lambda *_, **__: None)
    monkeypatch.setattr(estimator, "_cost", lambda *_: cost)
    found = estimator.time(TrainingPlan())
    low, high = found.step_seconds_interval
    known = gpu_rates(machine.gpus[0]).relative_error
    assert high / found.step_seconds == pytest.approx(1 + (width or known))
    assert low < found.step_seconds < high
    assert known < OTHER_SOFTWARE_ERROR
    text = " ".join(found.assumptions)
    assert said in text if said else "versions" not in text


def test_the_range_of_time_shrinks_as_runs_agree_and_one_run_never_widens_it(monkeypatch):
    machine = machine_from_name("Tesla T4")
    estimator = Estimator(Worker(), model=model(1e8), data=None, machine=machine)
    cost = StepCost(forward=0.1, backward=0.2, optimizer=0.1, regime="compute")
    monkeypatch.setattr(estimator, "_structure", lambda *_, **__: None)
    monkeypatch.setattr(estimator, "_cost", lambda *_: cost)

    def width(*ratios):
        learned = dataclasses.replace(NOTHING, speed_ratios=ratios)
        monkeypatch.setattr(estimator, "_known_of", lambda _plan: learned)
        found = estimator.time(TrainingPlan())
        low, high = found.step_seconds_interval
        assert all(low <= 0.4 / r * (1 + 1e-9) <= high * (1 + 2e-9) for r in ratios)
        return round((high - low) / found.step_seconds, 9)

    widths = [width(*(0.8,) * times) for times in range(6)]
    assert widths == sorted(widths, reverse=True)
    assert widths[5] < widths[0]
    assert width(0.7, 0.9) > width(0.8, 0.8)
