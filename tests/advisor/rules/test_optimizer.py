"""Optimizers and what they do to the learning rate."""

import dataclasses
import importlib
import importlib.util
import inspect

import pytest
import torch
from transformers import Trainer, TrainingArguments

from advisor import training_arguments
from advisor.hardware.catalogue import machine_from_name
from advisor.rules import learning, optimizer
from advisor.rules.facts import Facts
from advisor.simulate.optimizers import SIMULATED
from tests.advisor.fakes import model


def facts(kind="llama", parameters=3e8, machine="T4"):
    described = dataclasses.replace(model(parameters), model_type=kind)
    return Facts(machine=machine_from_name(machine), model=described, data=None, task="causal-lm")


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit"])
def test_every_adam_keeps_the_recipe(optim):
    asked = facts()
    found = learning.learning_rate(asked, "full", 64, optim)
    assert found == learning.learning_rate(asked, "full", 64)
    assert found.factor == 1


def test_sgd_scales_with_the_batch_and_adam_with_its_root():
    asked = facts()
    at = {b: learning.learning_rate(asked, "full", b, "sgd").factor for b in (16, 64, 128)}
    assert at == {16: 0.25, 64: 1.0, 128: 2.0}
    assert learning.learning_rate(asked, "full", 16).factor == 0.5


def test_lion_takes_a_fifth():
    asked = facts()
    rates = [learning.learning_rate(asked, "full", 64, o).value for o in ("lion_8bit", "adafactor")]
    assert rates == [pytest.approx(2e-4), pytest.approx(1e-3)]


def test_adafactor_has_its_own_recipe_for_t5_alone():
    t5, llama = facts("t5"), facts("llama")
    own = learning.recipe(t5, "full", "adafactor")
    assert (own.learning_rate(1e9), own.lr_scheduler_type) == (1e-3, "constant")
    assert learning.warmup_steps(t5, "full", 1000, "adafactor") == 0
    assert learning.recipe(t5, "full") == learning.recipe(llama, "full")
    assert learning.recipe(llama, "full", "adafactor") == learning.recipe(llama, "full")


def test_what_is_tried_depends_on_method_card_and_pins():
    assert optimizer.smaller(facts(), "full", {}) == ("adamw_bnb_8bit", "adafactor")
    assert optimizer.smaller(facts(machine="GTX 1080"), "full", {})[0] == "adamw_bnb_8bit"
    none = [
        optimizer.smaller(facts(), "lora", {}),
        optimizer.smaller(facts(), "full", {"optim": "sgd"}),
        optimizer.smaller(facts(), "full", {"fsdp": True}),
    ]
    assert none == [(), (), ()]


def test_bitsandbytes_is_needed_by_what_is_imitated_after_it():
    named = {name for name in SIMULATED if optimizer.needs_bitsandbytes(name)}
    imitated = {name for name, entry in SIMULATED.items() if "bitsandbytes" in entry.imitates}
    assert named == imitated


def test_trainer_takes_each_from_the_package_of_the_table():
    asked = training_arguments.fields()["optim"].choices
    assert set(optimizer.PACKAGES) < set(asked)
    lacking = {n for n, p in optimizer.PACKAGES.items() if not importlib.util.find_spec(p)}
    refused = {name: why for name in asked if (why := _refusal(name)) is not None}
    assert set(refused) == lacking
    assert all(optimizer.PACKAGES[name] in why for name, why in refused.items())


def _refusal(optim):
    """What Trainer says of an optimizer that it cannot import."""
    args = TrainingArguments(optim=optim, optim_target_modules="all-linear", use_cpu=True)
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, torch.nn.Linear(1, 1))
    except (ImportError, ValueError) as error:
        return str(error)
    return None


def test_each_choice_is_simulated_and_has_a_reference():
    for name in (*optimizer.choices(facts(), "full"), "sgd"):
        assert name in SIMULATED
        assert optimizer.reason(name).reference


def test_every_optimizer_of_trainer_is_torchs_or_names_the_module_trainer_imports():
    source = inspect.getsource(importlib.import_module("transformers.trainer_optimizer"))
    named = {
        name: optimizer.PACKAGES.get(name) for name in training_arguments.fields()["optim"].choices
    }
    own = {name for name, module in named.items() if module is None}
    assert own == {
        "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop",
    }  # fmt: skip
    for module in set(named.values()) - {None}:
        assert f"from {module}" in source, module


def test_one_batch_and_length_of_run_for_every_optimizer():
    """The batch is the task's, so its reference in the advice is as well; only the rate differs."""
    t5 = facts("t5")
    assert learning.effective_batch_size(t5, "full", 50.0)[0] == 64
    own = learning.learning_rate(t5, "full", 64, "adafactor")
    assert own.factor == pytest.approx(0.5**0.5)
