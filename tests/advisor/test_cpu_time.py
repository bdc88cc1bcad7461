"""The time of a CPU's operators: fits recover what made the numbers, curves hold what was seen."""

import dataclasses

import numpy as np
import pytest

from advisor import records
from advisor.cpu_time import CpuTables, cpu_seconds, fit_attention, fit_matmul, tabulate
from advisor.plan import TrainingPlan
from advisor.rates import calibrated_rates
from advisor.simulate.profile import KINDS
from advisor.speed import step_cost
from tests.advisor.test_speed import profile


def observed(operator, kind, seconds, num_bytes=0, dims=(0, 0, 0, 0), **changes):
    standard = {"half": False, "phase": "forward", "by_python": True, "launches": 1, "flops": 0}
    row = {"operator": operator, "kind": kind, "num_bytes": num_bytes, "dims": dims}
    return {**standard, **row, "seconds": seconds, **changes}


def matmul_seconds(m, n, k):
    return 5e-6 + 4e-12 * m * n * k + 2e-10 * n * k + 1e-10 * m * n


SHAPES = [(m, n, k) for m in (16, 128, 1024) for n in (64, 512, 2048) for k in (64, 512, 2048)]
ROWS = [
    *(observed("mm", "matmul", matmul_seconds(*s), dims=(1, *s)) for s in SHAPES),
    *(observed("add", "elementwise", 2e-6 + size * 1e-10, size) for size in (1e3, 1e5, 1e7)),
    *(observed("mul", "elementwise", 4e-6 + size * 3e-10, size) for size in (1e3, 1e5, 1e7)),
]


@pytest.fixture
def tables():
    found = {
        "curves": tabulate(ROWS),
        "matmul": fit_matmul(ROWS),
        "attention": fit_attention(ROWS),
        "host_seconds": {"forward": 1e-6, "backward": 1e-6, "view": 1e-7, "step": 1e-3},
        "in_situ": 1.0,
        "half_known": True,
        "num_threads": 2,
        "spread": 0.01,
        "foreign": 0.0,
    }
    return records.decode(CpuTables, found)


def of_operator(name, size, launches=1):
    moved = np.zeros((5, 6))
    moved[:, 0] = size
    return profile(
        num_bytes=moved,
        half=np.zeros(5, dtype=bool),
        operator=np.full(5, name),
        num_launches=np.full(5, launches),
    ).kernels


def seconds_of(kernels, tables):
    computing, moving = cpu_seconds(kernels, tables, 1, 1, 0)
    return (computing + moving)[0]


def test_a_curve_goes_through_what_was_measured_and_on_by_bytes(tables):
    assert seconds_of(of_operator("add", 1e5), tables) == pytest.approx(1.2e-5)
    assert seconds_of(of_operator("add", 1e8), tables) == pytest.approx(10 * 1.002e-3, rel=1e-3)
    assert seconds_of(of_operator("add", 1), tables) == pytest.approx(2.1e-6)
    several = seconds_of(of_operator("add", 1e6, launches=10), tables)
    assert several == pytest.approx(10 * 1.2e-5)


def test_what_was_never_measured_takes_the_curve_of_its_kind(tables):
    between = seconds_of(of_operator("tanh", 1e5), tables)
    assert seconds_of(of_operator("add", 1e5), tables) < between
    assert between < seconds_of(of_operator("mul", 1e5), tables)


def test_in_place_work_takes_the_curve_of_the_operator(tables):
    assert seconds_of(of_operator("add_", 1e5), tables) == pytest.approx(1.2e-5)


@pytest.mark.parametrize("shape", [(128, 512, 512), (300, 700, 900)])
def test_matmuls_are_as_long_as_the_law_that_made_them(tables, shape):
    dims = np.zeros((1, 4, 6))
    dims[0, :, 0] = (1, *shape)
    kernels = profile(
        kind=np.full(5, KINDS.index("matmul"), dtype=np.int8),
        half=np.zeros(5, dtype=bool),
        operator=np.full(5, "mm"),
        shaped=np.array([0]),
        dims=dims,
    ).kernels
    found = cpu_seconds(kernels, tables, 1, 1, 0)[0][0]
    assert found == pytest.approx(matmul_seconds(*shape), rel=0.02)


def test_a_step_is_the_sum_of_its_operators_and_of_the_host(tables):
    rates = calibrated_rates(tables, "2026-01-01")
    kernels = of_operator("add", 1e5)
    cost = step_cost(dataclasses.replace(profile(), kernels=kernels), rates, 1, 1, 4)
    assert cost.forward == pytest.approx(4 * (1.2e-5 + 1e-6))
    assert cost.update_seconds(rates, 3) == pytest.approx(3 * (cost.forward + 1e-3) + 1.2e-5)


@pytest.mark.parametrize(
    ("values", "unknown"), [({}, False), ({"bf16": True}, True), ({"dtype": "bfloat16"}, True)]
)
def test_16_bits_are_unknown_where_they_were_too_slow_to_measure(tables, values, unknown):
    plan = TrainingPlan(use_cpu=True, **({"dtype": "float32"} | values))
    known = calibrated_rates(tables, "2026-01-01")
    emulated = calibrated_rates(dataclasses.replace(tables, half_known=False), "2026-01-01")
    assert emulated.emulates(plan) is unknown
    assert not known.emulates(plan)
