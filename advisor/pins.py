"""Pins: what a user may hold, and whether a value can be held at all."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from advisor import records, training_arguments
from advisor.argument_checks import NEVER_WRITTEN, is_secret
from advisor.errors import PlanError, UnknownNameError
from advisor.plan import LoraSettings, TrainingPlan

PLAN_FIELDS = tuple(f.name for f in dataclasses.fields(TrainingPlan))
LORA_FIELDS = tuple(f"lora.{f.name}" for f in dataclasses.fields(LoraSettings))
_ONLY_TOGETHER = (
    "lora", "quantization", "method", "fp16", "bf16", "use_cpu", "num_train_epochs", "max_steps",
    "fsdp", "fsdp_config", "packing", "padding_free", "attention_mask",
)  # fmt: skip
"""Fields whose value cannot be judged without the others'."""
_RECORDS = (
    "quantization",
    "fsdp_config",
    "activation_checkpointing_kwargs",
    "liger_kernel_config",
    "optim_target_modules",
)
"""Fields that a plan holds in another form than JSON does."""
OTHER_PINS = ("effective_batch_size", "memory_ceiling_bytes")


def check_pins(pins: Mapping[str, Any]) -> dict[str, Any]:
    """Pins with known names and values of the right type.

    Raises:
        UnknownNameError: no such quantity.
        InputError: a value of another type.
    """
    known = (*PLAN_FIELDS, *LORA_FIELDS, *OTHER_PINS)
    for name, value in pins.items():
        if name not in known and _check_outside_the_plan(name, value):
            continue
        if name not in known:
            known = tuple(dict.fromkeys((*known, *training_arguments.fields())))
            nearest = tuple(difflib.get_close_matches(name, known, 5, 0.5))
            raise UnknownNameError("pins.unknown_pin", nearest=nearest, field=name)
        if name in OTHER_PINS and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise PlanError("pins.whole_number", got=value, field=name)
        if name in LORA_FIELDS:
            records.decode(LoraSettings, {name.removeprefix("lora."): value}, "lora")
        elif name in PLAN_FIELDS:
            records.convert_field(TrainingPlan, name, value)
            if name not in _ONLY_TOGETHER:
                _check_one({name: value})
    result = dict(pins)
    for name in _RECORDS:
        if pins.get(name) is not None:
            result[name] = records.convert_field(TrainingPlan, name, pins[name])
    return result


def _check_outside_the_plan(name: str, value: Any) -> bool:
    """Whether TrainingArguments alone has the name; the value goes to the arguments as it is."""
    field = training_arguments.fields().get(name)
    if field is None or name in training_arguments.RENAMED:
        return False
    if name in NEVER_WRITTEN or is_secret(name, value):
        raise PlanError("pins.never_pinned", field=name)
    wrong = training_arguments.problem(name, value, field.type, field.choices, field.default)
    if wrong:
        raise PlanError("pins.wrong_value", problem=wrong, field=name)
    return True


def _check_one(value: dict[str, Any]) -> None:
    name = next(iter(value))
    if name.startswith("dataloader"):
        value = {"dataloader_num_workers": 1, **value}
        if value["dataloader_num_workers"] == 0:
            return
    records.decode(TrainingPlan, value, "plan")
