"""A plan carried to other machines: what changes, and that nothing else does."""

import dataclasses

import pytest

from advisor.elsewhere import answer, carried
from advisor.errors import PlanError, SimulationError
from advisor.hardware.catalogue import machine_from_name
from advisor.hardware.machine import Cpu, Machine
from advisor.plan import LoraSettings, Quantization, TrainingPlan
from advisor.rules.facts import Facts
from advisor.speed import TimeEstimate
from tests.advisor.fakes import memory_of, model

GIB = 2**30
CPU = Machine(name="cpu", cpu=Cpu(usable_cores=2), ram_free_bytes=8 * GIB)
PLAN = TrainingPlan(
    per_device_train_batch_size=4,
    gradient_accumulation_steps=4,
    learning_rate=1e-4,
    bf16=True,
    tf32=True,
    optim="adafactor",
)
CHANGES = {"dtype", "bf16", "fp16", "tf32", "use_cpu", "dataloader_pin_memory", "quantization"}


def facts_on(name):
    machine = CPU if name is None else machine_from_name(name)
    return Facts(machine=machine, model=model(1e8), data=None, task="causal-lm")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A100-SXM4-80GB", (True, False, False)),
        ("Tesla T4", (False, True, False)),
        ("GTX 1080", (False, False, False)),
        (None, (False, False, True)),
    ],
)
def test_precision_follows_the_card_and_nothing_else_changes(name, expected):
    moved = carried(PLAN, facts_on(name), {})
    assert (moved.bf16, moved.fp16, moved.use_cpu) == expected
    for field in dataclasses.fields(TrainingPlan):
        if field.name not in CHANGES:
            assert getattr(moved, field.name) == getattr(PLAN, field.name), field.name


def test_a_pinned_precision_stays():
    moved = carried(PLAN, facts_on("Tesla T4"), {"bf16": True})
    assert (moved.bf16, moved.fp16) == (True, False)


def test_quantised_layers_compute_in_what_the_card_has():
    plan = PLAN.replace(
        method="qlora", lora=LoraSettings(), quantization=Quantization(load_in_4bit=True)
    )
    moved = carried(plan, facts_on("Tesla T4"), {})
    assert moved.quantization.bnb_4bit_compute_dtype == "float16"
    assert moved.fp16


SHARDED = PLAN.replace(devices=8, fsdp=True)
QLORA = PLAN.replace(
    method="qlora", lora=LoraSettings(), quantization=Quantization(load_in_4bit=True)
)


@pytest.mark.parametrize(
    ("plan", "name", "pins", "words"),
    [
        (SHARDED, "A100-SXM4-80GB", {}, "8 devices"),
        (SHARDED, "A100-SXM4-80GB x 4", {"devices": 4}, "8 devices"),
        (PLAN.replace(devices=8), None, {}, "8 devices"),
        (PLAN.replace(optim="adamw_bnb_8bit"), None, {}, "adamw_bnb_8bit"),
        (QLORA, None, {"method": "qlora"}, "method qlora needs"),
        (PLAN.replace(use_liger_kernel=True), None, {}, "use_liger_kernel"),
    ],
)
def test_what_a_machine_lacks_is_refused(plan, name, pins, words):
    with pytest.raises(PlanError, match=words):
        carried(plan, facts_on(name), pins)


@pytest.mark.parametrize(
    ("plan", "name", "pins"),
    [
        (SHARDED, "A100-SXM4-80GB x 8", {}),
        (SHARDED, "A100-SXM4-80GB", {"devices": 8}),
        (PLAN.replace(optim="adamw_bnb_8bit"), "Tesla T4", {}),
        (PLAN.replace(optim="adamw_bnb_8bit"), None, {"optim": "adamw_bnb_8bit"}),
    ],
)
def test_what_a_machine_has_or_a_pin_holds_is_carried(plan, name, pins):
    moved = carried(plan, facts_on(name), pins)
    assert (moved.devices, moved.optim) == (plan.devices, plan.optim)


class Estimator:
    def __init__(self, facts, *, known=True):
        self.facts, self.is_known = facts, known

    def memory(self, plan):
        if not self.is_known:
            raise SimulationError("make.unreadable", path="x")
        return memory_of(10 * GIB, self.facts.machine)

    def time(self, plan):
        return TimeEstimate(step_seconds=2.0)


def test_numbers_of_a_machine_and_its_ceiling():
    facts = facts_on("Tesla T4")
    found = answer("Tesla T4", PLAN, facts, {}, Estimator(facts))
    assert (found.memory.verdict, found.time.step_seconds) == ("fits", 2.0)
    pins = {"memory_ceiling_bytes": 9 * GIB}
    assert answer("x", PLAN, facts, pins, Estimator(facts)).memory.verdict == "does_not_fit"


def test_what_is_not_simulated_or_cannot_run_is_unknown_with_the_reason():
    facts = facts_on("Tesla T4")
    found = answer("x", PLAN, facts, {}, Estimator(facts, known=False))
    assert (found.memory.verdict, found.time.step_seconds) == ("unknown", None)
    assert found.memory.assumptions
    cpu = facts_on(None)
    found = answer(None, PLAN, cpu, {"fp16": True}, Estimator(cpu))
    assert (found.plan, found.memory.verdict) == (None, "unknown")
