"""Freezes the surface of transformers.TrainingArguments that this program was written for."""

import json
import subprocess
import sys

import pytest

from advisor import training_arguments
from advisor.argument_checks import NEVER_WRITTEN
from advisor.arguments import CONSTANTS, ONLY_WHEN_PINNED, shared_fields
from advisor.plan import TrainingPlan

DO = (
    "advisor/training_arguments.csv was written from transformers "
    f"{training_arguments.TRANSFORMERS_VERSION}; update its row, look at RANGES and RENAMED in "
    "advisor/training_arguments.py, and at every field of TrainingPlan with this name."
)

SCRIPT = """
import dataclasses, enum, json, typing
from transformers import TrainingArguments
hints = typing.get_type_hints(TrainingArguments)

def short(hint):
    if isinstance(hint, type) and not typing.get_args(hint):
        return "None" if hint is type(None) else hint.__name__
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (dict, list):
        return f"{origin.__name__}[{', '.join(map(short, args))}]"
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    return " | ".join(map(short, args)) if args else str(hint).removeprefix("typing.")

def choices(hint):
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [e.value for e in hint]
    return [c for part in typing.get_args(hint) for c in choices(part)]

rows = []
for f in dataclasses.fields(TrainingArguments):
    default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
    rows.append({
        "name": f.name,
        "type": short(hints[f.name]),
        "default": default.value if isinstance(default, enum.Enum) else default,
        "choices": [c for c in f.metadata.get("choices", choices(hints[f.name])) if c is not None],
    })
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def installed():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


def test_table_names_the_fields_of_the_installed_class_in_its_order(installed):
    assert list(training_arguments.fields()) == list(installed), DO


@pytest.mark.parametrize("name", training_arguments.fields())
def test_table_has_type_default_and_choices_of_the_installed_class(installed, name):
    row, real = training_arguments.fields()[name], installed[name]
    assert row.type == real["type"], DO
    assert (row.default, type(row.default)) == (real["default"], type(real["default"])), DO
    assert list(row.choices) == real["choices"], DO


def test_plan_defaults_are_those_of_the_class():
    plan = TrainingPlan()
    for name in shared_fields():
        default = training_arguments.fields()[name].default
        ours = getattr(plan, name)
        # null means "off, and the old name may still decide"
        assert ours == (False if name == "activation_checkpointing" else default), name


def test_fields_a_plan_shares_with_the_class_are_these():
    assert shared_fields() == (
        "use_cpu",
        "fsdp",
        "fsdp_config",
        "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "lr_scheduler_type",
        "warmup_steps",
        "optim",
        "optim_args",
        "optim_target_modules",
        "bf16",
        "fp16",
        "tf32",
        "use_liger_kernel",
        "liger_kernel_config",
        "activation_checkpointing",
        "logging_steps",
        "eval_strategy",
        "eval_steps",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "dataloader_persistent_workers",
        "train_sampling_strategy",
        "seed",
    )


def test_every_name_we_set_refuse_or_bound_is_a_field(installed):
    for name in (*CONSTANTS, *ONLY_WHEN_PINNED, *NEVER_WRITTEN):
        assert name in installed, name
    own = {
        "max_seq_length",
        "pad_to_multiple_of",
        "validation_split_percentage",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
    }
    assert set(training_arguments.RANGES) - own <= set(installed)


def test_renamed_names_are_gone_or_deprecated(installed):
    alive = {n for n in training_arguments.RENAMED if n in installed}
    assert alive == {"gradient_checkpointing", "gradient_checkpointing_kwargs"}
