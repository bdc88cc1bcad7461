"""How many profiles an answer takes, and in which order. The estimates' numbers are test data."""

import dataclasses

import pytest

from advisor.front import MOST_PROFILES, Counted, neighbours
from advisor.hardware.catalogue import machine_from_name
from advisor.locale import LANGUAGES, Message, render
from advisor.pins import check_pins
from advisor.rules.advice import advise
from advisor.search import Search
from advisor.simulate.profile import structure_of
from tests.advisor.test_solve import Estimator as Growing
from tests.advisor.test_solve import cpu, data, facts_on

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
}


class Estimator(Growing):
    """The growing one; it takes the profiles that the real one would."""

    def __init__(self, facts, profiles):
        super().__init__(facts)
        self.profiles = profiles

    def memory(self, plan):
        gpu = self.facts.gpu()
        structure = structure_of(plan, LLAMA, gpu.compute_capability if gpu else None)
        self.profiles.get(structure)
        found = super().memory(plan)
        if found.verdict in ("fits", "tight") and plan.eval_strategy != "no":
            self.profiles.get(structure.evaluation(plan.per_device_eval_batch_size))
        return found

    def at_shape(self, plan, batch, length):
        shaped = plan.replace(per_device_train_batch_size=batch, max_length=length)
        return Growing.memory(self, shaped), None


class Store:
    """Has every profile."""

    def get(self, structure, on_progress=None):
        return structure


@dataclasses.dataclass
class Asked:
    """An answer as Advisor.recommend makes it."""

    facts: object
    pins: dict
    goal: str = "fastest"

    def __post_init__(self):
        self.counted, self.first = Counted(Store()), []
        self.used_first = None

        def tell(found):
            self.first.append(found)
            self.used_first = len(self.counted.used)
            self.counted.limited = True

        pins = check_pins(self.pins)
        self.search = Search(self.facts, Estimator(self.facts, self.counted), pins, tell)
        methods = (pins["method"],) if "method" in pins else self.facts.methods()
        self.search.guess(methods, self.goal)
        self.best = self.search.best(methods, self.goal)
        self.counted.limited = True
        self.others = neighbours(self.search, self.best) if self.best else {}


def llama(machine, parameters):
    described = facts_on(machine, parameters=parameters).model
    described = dataclasses.replace(
        described, config=LLAMA, hidden_size=4096, num_trainable_layers=32, vocab_size=128256
    )
    return dataclasses.replace(facts_on(machine), model=described, data=data())


QUESTIONS = [
    (name, parameters, pins)
    for name in ("T4", "A100-SXM4-80GB", "RTX 3090")
    for parameters in (1e8, 6e8, 1.3e9, 8e9)
    for pins in (
        {},
        {"method": "full"},
        {"activation_checkpointing": True},
        {"effective_batch_size": 64},
        {"per_device_train_batch_size": 1},
    )
]


@pytest.mark.parametrize("goal", ["fastest", "smallest"])
@pytest.mark.parametrize(("name", "parameters", "pins"), QUESTIONS)
def test_an_answer_takes_eight_profiles_at_most(name, parameters, pins, goal):
    asked = Asked(llama(machine_from_name(name), parameters), pins, goal)
    if asked.best is None:
        return
    assert len(asked.counted.used) <= MOST_PROFILES
    alone = Growing(asked.facts)  # without a limit, nothing guessed
    methods = (pins["method"],) if "method" in pins else asked.facts.methods()
    assert asked.best.plan == Search(asked.facts, alone, pins).best(methods, goal).plan


def test_the_first_plan_that_fits_takes_a_profile_and_its_evaluation():
    for name, parameters in (("A100-SXM4-80GB", 8e9), ("A100-SXM4-80GB", 6e8), ("T4", 1e8)):
        asked = Asked(llama(machine_from_name(name), parameters), {})
        (first,) = asked.first
        assert first.memory.verdict == "fits"
        assert asked.used_first <= 2


def test_what_is_left_out_says_so_and_a_pin_makes_it():
    asked = Asked(llama(machine_from_name("A100-SXM4-80GB"), 8e9), {})
    counted = Counted(Store())
    counted.limited = True
    counted.used = dict.fromkeys(range(MOST_PROFILES - 1))
    pins = {}
    search = Search(asked.facts, Estimator(asked.facts, counted), pins)
    others = neighbours(search, asked.best)
    assert len(counted.used) == MOST_PROFILES
    left_out = {name: found for name, found in others.items() if isinstance(found, Message)}
    assert "checkpointing" in left_out
    advice = {a.field: a for a in advise(asked.facts, asked.best.plan, pins, others)}
    said = advice["activation_checkpointing"].counterfactual
    assert said.id == "other.left_out"
    for lang in LANGUAGES:
        assert str(MOST_PROFILES) in render(said, lang)
    pinned = Asked(asked.facts, {"activation_checkpointing": True})
    assert pinned.best.plan.activation_checkpointing


def test_kept_profiles_count_as_well():
    counted = Counted(Store())
    facts = facts_on(cpu())
    Search(facts, Estimator(facts, counted), {}).best(("full",), "fastest")
    before = tuple(counted.used)
    Search(facts, Estimator(facts, counted), {}).best(("full",), "fastest")
    assert tuple(counted.used) == before != ()
