"""Arguments of a file as a question: model, data, method, and the values as pins."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from advisor import hub, training_arguments
from advisor.argument_checks import NEVER_WRITTEN
from advisor.arguments import CONSTANTS, LORA_NAMES, QUANTIZATION_NAMES
from advisor.errors import InputError
from advisor.pins import check_pins
from advisor.recommend import Question

PIN_NAMES = {"max_seq_length": "max_length"} | {
    name: f"lora.{key}" for key, name in LORA_NAMES.items()
}
"""Our argument -> the pin of another name."""
_SAME_NAME = ("dtype", "attn_implementation", "packing", "padding_free")
QUESTION_NAMES = {
    "model_name_or_path": "model",
    "config_name": "model",
    "model_revision": "model",
    "train_file": "data",
    "validation_file": "validation",
    "text_column": "text_column",
    "text_column_names": "text_column",
    "label_column_name": "label_column",
    "task": "task",
    "tokenizer_name": "model",
    "method": "method",
}
"""Our argument -> the field of the question that decides it."""
_FOLLOWS = ("do_train", "do_eval", "do_predict", "output_dir")
"""What every run of ours decides by itself."""


def pin_name(argument: str) -> str | None:
    """The pin that holds an argument; None where none does."""
    if argument in PIN_NAMES:
        return PIN_NAMES[argument]
    if argument in _SAME_NAME:
        return argument
    is_old = argument in training_arguments.RENAMED
    known = argument in training_arguments.fields() and not is_old
    return argument if known and argument not in NEVER_WRITTEN else None


def question_from(
    arguments: Mapping[str, Any], base: Question
) -> tuple[Question, tuple[InputError, ...]]:
    """The question that mended arguments ask, and what of them no plan can hold.

    Args:
        arguments: as a review mended them.
        base: where the file says nothing; its pins are dropped.
    """
    changes: dict[str, Any] = {
        field: arguments[name]
        for name, field in QUESTION_NAMES.items()
        if name not in ("tokenizer_name", "model_revision") and arguments.get(name) is not None
    }
    if "model" in changes:
        revision = arguments.get("model_revision")
        changes["model"] = hub.with_revision(changes["model"], revision)
    if "data" in changes and changes["data"] != base.data:
        changes = {"text_column": None, "label_column": None, "validation": None, **changes}
    pins: dict[str, Any] = {}
    refused: list[InputError] = []
    for name, value in arguments.items():
        pin = pin_name(name)
        if pin is None or value is None or CONSTANTS.get(name) == value:
            continue
        if name in _FOLLOWS or (name == "max_steps" and value <= 0):
            continue
        try:
            check_pins({pin: _as_pinned(name, value)})
        except InputError as error:
            refused.append(error)
        else:
            pins[pin] = _as_pinned(name, value)
    if "max_steps" in pins:
        pins.pop("num_train_epochs", None)
    quantization = {n: arguments[n] for n in QUANTIZATION_NAMES if n in arguments}
    if any(quantization.get(n) for n in ("load_in_4bit", "load_in_8bit")):
        pins["quantization"] = quantization
        changes["method"] = "qlora"
    return dataclasses.replace(base, **changes, pins=pins), tuple(refused)


def _as_pinned(name: str, value: Any) -> Any:
    if name == "lora_target_modules" and value == ["all-linear"]:
        return "all-linear"
    if name == "activation_checkpointing_kwargs" and isinstance(value, dict):
        return {key: v for key, v in value.items() if key != "use_reentrant"}
    if name in ("logging_steps", "eval_steps", "save_steps") and isinstance(value, float):
        return int(value) if value >= 1 else value
    return value
