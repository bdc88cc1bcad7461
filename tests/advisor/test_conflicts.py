"""Conflicts with an estimator that grows like a real one. Its numbers are test data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.conflicts import find_conflicts
from advisor.errors import PlanError, SimulationError, UnknownNameError
from advisor.hardware.machine import Cpu, Machine
from advisor.locale import LANGUAGES, render
from advisor.pins import check_pins
from advisor.rules.facts import Facts
from advisor.search import Search
from advisor.speed import TimeEstimate
from tests.advisor.fakes import memory_of, model

GIB = 2**30


def facts(free=8, parameters=1e8, weights=True):
    machine = Machine(name="cpu", cpu=Cpu(usable_cores=2), ram_free_bytes=int(free * GIB))
    described = model(parameters, weights=weights, context=2048)
    return Facts(machine=machine, model=described, data=None, task="causal-lm")


class Estimator:
    """States by parameter, activations by token; checkpointing keeps a fifth of them."""

    def __init__(self, facts, *, known=True):
        self.facts = facts
        self.known = known
        self.structures = set()

    def memory(self, plan):
        self.structures.add((plan.method, plan.activation_checkpointing, plan.optim, plan.dtype))
        if not self.known and plan.method == "lora":
            raise SimulationError("not simulated")
        size = self.facts.model.num_parameters
        states = 16 * size if plan.method == "full" else 2 * size
        tokens = plan.per_device_train_batch_size * plan.max_length
        peak = int(states + tokens * 4e5 * (0.2 if plan.activation_checkpointing else 1))
        return memory_of(peak, self.facts.machine)

    def at_shape(self, plan, batch, length):
        return self.memory(plan.replace(per_device_train_batch_size=batch, max_length=length)), None

    def time(self, plan):
        return TimeEstimate(step_seconds=1.0, total_seconds=1.0)


def solvable(facts, pins):
    methods = (pins["method"],) if "method" in pins else facts.methods()
    held = check_pins({k: v for k, v in pins.items() if k != "method"})
    try:
        return Search(facts, Estimator(facts), held).best(methods, "fastest") is not None
    except PlanError:
        return False


def conflicts(facts, pins, **kwargs):
    assert not solvable(facts, pins)
    return find_conflicts(facts, Estimator(facts, **kwargs), pins)


def test_innocent_pins_are_not_listed():
    asked = facts(free=15, parameters=2e9)
    pins = {"offload": "none", "learning_rate": 1e-5, "method": "full", "max_length": 64}
    (found,) = conflicts(asked, pins)
    assert found.fields == ("method",)
    assert found.reason.id == "conflict.pins"
    assert found.reason.params["need"] > 16 * 2e9
    ((name, way),) = found.ways_out
    assert (name, way.id, way.params["method"]) == ("method", "way.method", "lora")
    assert way.params["peak"] < 15 * GIB


def test_pins_that_only_conflict_together_are_listed_together():
    pins = {"per_device_train_batch_size": 16, "activation_checkpointing": False, "seed": 7}
    (found,) = conflicts(facts(), pins)
    assert set(found.fields) == {"per_device_train_batch_size", "activation_checkpointing"}
    assert [name for name, _ in found.ways_out] == list(found.fields)


def test_each_conflict_is_listed_where_there_are_several():
    asked = facts(free=15, parameters=2e9)
    pins = {"method": "full", "memory_ceiling_bytes": 2**20, "seed": 7}
    found = conflicts(asked, pins)
    assert {c.fields for c in found} == {("method",), ("memory_ceiling_bytes",)}


@pytest.mark.parametrize("pins", [{}, {"method": "full", "max_length": 64}])
def test_machine_too_small_for_anything_blames_no_pin(pins):
    (found,) = conflicts(facts(free=1, parameters=1e9), pins)
    assert (found.fields, found.ways_out, found.reason.id) == ((), (), "conflict.machine")
    assert found.reason.params["need"] > found.reason.params["free"] == GIB


def test_way_of_unknown_memory_says_so():
    asked = facts(free=15, parameters=2e9)
    (found,) = conflicts(asked, {"method": "full"}, known=False)
    ((_, way),) = found.ways_out
    assert way.id == "way.unknown"


def test_innocent_pins_ask_for_no_structure_of_their_own():
    asked = facts(free=15, parameters=2e9)
    few, many = Estimator(asked), Estimator(asked)
    find_conflicts(asked, few, {"method": "full"})
    pins = {"method": "full", "seed": 1, "learning_rate": 1e-4, "offload": "none", "save_steps": 9}
    find_conflicts(asked, many, pins)
    assert many.structures == few.structures


@given(
    free=st.integers(1, 40),
    parameters=st.sampled_from([1e8, 1e9, 2e9]),
    weights=st.booleans(),
    pins=st.fixed_dictionaries(
        {},
        optional={
            "method": st.just("full"),
            "memory_ceiling_bytes": st.integers(1, 20).map(lambda n: n * GIB),
            "per_device_train_batch_size": st.sampled_from([1, 4, 16, 64]),
            "gradient_accumulation_steps": st.sampled_from([1, 4]),
            "activation_checkpointing": st.booleans(),
            "max_length": st.sampled_from([64, 1024, 2048]),
            "fp16": st.just(False),
            "optim": st.just("adamw_torch"),
            "seed": st.integers(0, 3),
        },
    ),
)
def test_giving_up_any_one_of_a_set_makes_a_plan_and_giving_up_none_does_not(
    free, parameters, weights, pins
):
    asked = facts(free, parameters, weights)
    if solvable(asked, pins):
        return
    found = find_conflicts(asked, Estimator(asked), pins)
    listed = [name for conflict in found for name in conflict.fields]
    assert len(listed) == len(set(listed))
    for conflict in found:
        kept = {name: pins[name] for name in conflict.fields}
        assert not solvable(asked, kept)
        assert [name for name, _ in conflict.ways_out] == list(conflict.fields)
        for name in kept:
            assert solvable(asked, {k: v for k, v in kept.items() if k != name})
        for lang in LANGUAGES:
            assert render(conflict.reason, lang)
            assert all(render(way, lang) for _, way in conflict.ways_out)
    assert solvable(asked, {k: v for k, v in pins.items() if k not in listed}) == bool(listed)


def test_a_misspelt_pin_names_each_nearest_once():
    with pytest.raises(UnknownNameError) as caught:
        check_pins({"learnin_rate": 1e-4})
    assert caught.value.nearest[0] == "learning_rate"
    assert len(set(caught.value.nearest)) == len(caught.value.nearest)
