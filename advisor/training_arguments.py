"""The fields of `transformers.TrainingArguments` as a frozen table, and what each may hold.

transformers checks no types when it reads JSON: "5e-5" as text, a batch of 4.5 or "false" (which
is true) all load and fail later or never. Reads training_arguments.csv, once, from this package;
a test compares it with the installed class.
"""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from advisor.errors import words
from advisor.locale import Message

TRANSFORMERS_VERSION = "5.23"
"""The release that training_arguments.csv was written from."""

_ENUMERATIONS = (
    "SchedulerType",
    "OptimizerNames",
    "IntervalStrategy",
    "SaveStrategy",
    "HubStrategy",
    "DebugOption",
)
"""Types of the class that are text with a fixed choice in JSON."""

_ALSO_BOOL = ("fsdp",)
"""Annotated as text only, but documented and used as `fsdp=true`."""


OUTSIDE_THE_PLAN = (
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "ddp_static_graph",
    "deepspeed",
    "auto_find_batch_size",
)
"""Fields that change memory or time in ways a plan does not describe."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of TrainingArguments."""

    name: str
    group: str
    """Section of the class, e.g. "Learning Rate & Scheduler"."""
    type: str
    """The annotation, written short: "float | None"."""
    default: Any
    """The field's default as a JSON value, before `__post_init__`."""
    choices: tuple[str, ...]
    """Allowed texts; empty where any text goes."""
    help: str


@cache
def fields() -> dict[str, Field]:
    """All fields by name, in the order of the class."""
    text = resources.files("advisor").joinpath("training_arguments.csv").read_text("utf-8")
    return {
        row["name"]: Field(
            name=row["name"],
            group=row["group"],
            type=row["type"],
            default=json.loads(row["default"]),
            choices=tuple(filter(None, row["choices"].split("|"))),
            help=row["help"],
        )
        for row in csv.DictReader(io.StringIO(text))
    }


@cache
def options(type_text: str) -> tuple[str, ...]:
    """The alternatives of an annotation: "dict[str, Any] | str" -> ("dict", "str")."""
    found = []
    for part in type_text.split(" | "):
        if part in _ENUMERATIONS:
            found.append("str")
        elif part.startswith("dict"):
            found.append("dict")
        elif part == "list[DebugOption]":
            found.append("list[str]")
        else:
            found.append(part)
    return tuple(dict.fromkeys(found))


_MATCHES: dict[str, Callable[[Any], bool]] = {
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "dict": lambda v: isinstance(v, dict),
    "list[str]": lambda v: isinstance(v, list) and all(isinstance(i, str) for i in v),
    "None": lambda v: v is None,
    "Literal[False]": lambda v: v is False,
    # Built by a program, never read from JSON: null is all that a file can hold.
    "ParallelismConfig": lambda v: False,  # noqa: ARG005
}

_WORDS = {
    "bool": words("words.boolean"),
    "int": words("words.integer"),
    "float": words("words.number"),
    "str": words("words.text"),
    "dict": words("words.object"),
    "list[str]": words("words.texts"),
    "None": "null",
    "Literal[False]": "false",
}

_AT_LEAST_1 = (words("words.at_least", least=1), lambda v: v >= 1)
_AT_LEAST_0 = (words("words.at_least", least=0), lambda v: v >= 0)
_ABOVE_0 = (words("words.above", limit=0), lambda v: v > 0)
_SHARE = (words("words.within", range="[0, 1)"), lambda v: 0 <= v < 1)
_CADENCE = (words("words.cadence"), lambda v: 0 < v < 1 or (v >= 1 and v == int(v)))
_SEED = (words("words.within", range="0..4294967295"), lambda v: 0 <= v < 2**32)

RANGES: dict[str, tuple[Message, Callable[[Any], bool]]] = {
    "per_device_train_batch_size": _AT_LEAST_1,
    "per_device_eval_batch_size": _AT_LEAST_1,
    "gradient_accumulation_steps": _AT_LEAST_1,
    "eval_accumulation_steps": _AT_LEAST_1,
    "torch_empty_cache_steps": _AT_LEAST_1,
    "max_steps": (words("words.off_or_at_least"), lambda v: v == -1 or v >= 1),
    "num_train_epochs": _ABOVE_0,
    "learning_rate": _ABOVE_0,
    "weight_decay": _AT_LEAST_0,
    "warmup_steps": _AT_LEAST_0,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _AT_LEAST_0,
    "max_grad_norm": _AT_LEAST_0,
    "label_smoothing_factor": _SHARE,
    "logging_steps": _CADENCE,
    "eval_steps": _CADENCE,
    "save_steps": _CADENCE,
    "save_total_limit": _AT_LEAST_0,
    "eval_delay": _AT_LEAST_0,
    "dataloader_num_workers": _AT_LEAST_0,
    "dataloader_prefetch_factor": _AT_LEAST_1,
    "seed": _SEED,
    "data_seed": _SEED,
    "ddp_timeout": _AT_LEAST_1,
    "include_num_input_tokens_seen": (
        words("words.input_tokens"),
        lambda v: isinstance(v, bool) or v in ("all", "non_padding", "no"),
    ),
    # ModelArguments and DataArguments
    "max_seq_length": _AT_LEAST_1,
    "pad_to_multiple_of": _AT_LEAST_1,
    "validation_split_percentage": (words("words.within", range="1..99"), lambda v: 1 <= v <= 99),
    "lora_r": _AT_LEAST_1,
    "lora_alpha": _AT_LEAST_1,
    "lora_dropout": _SHARE,
}
"""Field -> (its range in words, the test), for values of the right type."""


def problem(
    name: str, value: Any, type_text: str, choices: tuple[str, ...], default: Any
) -> Message | None:
    """What is wrong with a JSON value, as the rest of a sentence that starts with the field's name.

    Args:
        name: the field.
        value: a JSON value.
        type_text: the annotation in the table's spelling.
        choices: allowed texts, or nothing.
        default: the field's default, offered where there is no better way out.

    Returns:
        "must be ..., got ...; do ...", or None when the value is fine.
    """
    allowed = options(type_text) + (("bool",) if name in _ALSO_BOOL else ())
    if name == "report_to" and value is None:
        return words("training_arguments.null_tracker")
    if not any(_MATCHES[option](value) for option in allowed):
        return _type_problem(value, allowed, choices, default)
    if isinstance(value, float) and not math.isfinite(value):
        return words("training_arguments.finite", got=str(value), do=_leave_out(default))
    texts = value.split() if name == "debug" and isinstance(value, str) else [value]
    wrong = [t for t in texts if choices and isinstance(t, str) and t not in choices]
    if wrong:
        return _choice_problem(wrong[0], choices)
    if name in RANGES and value is not None:
        rule, holds = RANGES[name]
        if not holds(value):
            got, do = _shown(value), _leave_out(default)
            return words("training_arguments.out_of_range", rule=rule, got=got, do=do)
    return None


def _type_problem(
    value: Any, allowed: tuple[str, ...], choices: tuple[str, ...], default: Any
) -> Message:
    kinds = {option: _WORDS[option] for option in allowed if option in _WORDS}
    if "str" in kinds and choices:
        kinds["str"] = words("words.one_of", names=choices)
    wanted = words("training_arguments.types", names=tuple(kinds.values()))
    do = _leave_out(default)
    if isinstance(value, str):
        inner = _inner(value)
        if any(_MATCHES[option](inner) for option in allowed if option != "None"):
            do = words("training_arguments.unquote", text=json.dumps(inner))
    elif value in (0, 1) and "bool" in allowed:
        do = words("training_arguments.write", text="true" if value else "false")
    return words("training_arguments.must_be", rule=wanted, got=_shown(value), do=do)


def _choice_problem(value: str, choices: tuple[str, ...]) -> Message:
    plain = value.lower().rpartition(".")[2]
    do = words("training_arguments.choose")
    if plain in choices:
        do = words("training_arguments.write", text=f'"{plain}"')
    rule = words("words.one_of", names=choices)
    return words("training_arguments.must_be", rule=rule, got=_shown(value), do=do)


def _inner(text: str) -> Any:
    """The JSON value inside a text, as in "5e-5" or "False"; the text itself without one."""
    try:
        return json.loads(text.strip().lower())
    except ValueError:
        return text


def _leave_out(default: Any) -> Message:
    if default is None:
        return words("training_arguments.leave_out")
    return words("training_arguments.leave_out_default", default=json.dumps(default))


def _shown(value: Any) -> str | Message:
    text = json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return words("words.the_text", text=text) if isinstance(value, str) else text


def _write(text: str) -> Message:
    return words("training_arguments.write", text=text)


def _write_inside(text: str, where: str) -> Message:
    return words("training_arguments.write_inside", text=text, where=where)


_REMOVE = words("training_arguments.remove")
_ONE_AUTOCAST = words("training_arguments.remove_autocast")

RENAMED: dict[str, Message] = {
    "warmup_ratio": words("training_arguments.write_warmup"),
    "group_by_length": _write('"train_sampling_strategy": "group_by_length"'),
    "evaluation_strategy": _write("eval_strategy"),
    "evaluate_during_training": _write('"eval_strategy": "steps"'),
    "no_cuda": _write("use_cpu"),
    "use_mps_device": words("training_arguments.remove_apple"),
    "gradient_checkpointing": _write("activation_checkpointing"),
    "gradient_checkpointing_kwargs": _write("activation_checkpointing_kwargs"),
    "per_gpu_train_batch_size": _write("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": _write("per_device_eval_batch_size"),
    "adafactor": _write('"optim": "adafactor"'),
    "fp16_backend": _ONE_AUTOCAST,
    "half_precision_backend": _ONE_AUTOCAST,
    "fp16_opt_level": words("training_arguments.remove_levels"),
    "fp8": _REMOVE,
    "logging_dir": words("training_arguments.remove_tensorboard"),
    "overwrite_output_dir": words("training_arguments.remove_directory"),
    "include_inputs_for_metrics": _write('"include_for_metrics": ["inputs"]'),
    "include_tokens_per_second": _write('"include_num_input_tokens_seen": "non_padding"'),
    "push_to_hub_model_id": _write("hub_model_id"),
    "push_to_hub_token": words("training_arguments.remove_token"),
    "push_to_hub_organization": words(
        "training_arguments.write_as", text="hub_model_id", form="organization/name"
    ),
    "fsdp_min_num_params": _write_inside("min_num_params", "fsdp_config"),
    "fsdp_transformer_layer_cls_to_wrap": _write_inside(
        "transformer_layer_cls_to_wrap", "fsdp_config"
    ),
    "sharded_ddp": _write('"fsdp": true'),
    "xpu_backend": _write("ddp_backend"),
    "dispatch_batches": _write_inside("dispatch_batches", "accelerator_config"),
    "split_batches": _write_inside("split_batches", "accelerator_config"),
    "torchdynamo": _write("torch_compile_backend"),
    "tpu_metrics_debug": _write('"debug": "tpu_metrics_debug"'),
    "tpu_num_cores": words("training_arguments.remove_launcher"),
    "_n_gpu": words("training_arguments.remove_launcher"),
    "model_parallel": words("training_arguments.remove_tensor_parallel"),
    "tp_size": words("training_arguments.remove_tensor_parallel"),
    "use_ipex": _REMOVE,
    "jit_mode_eval": _REMOVE,
    "mp_parameters": _REMOVE,
    "past_index": _REMOVE,
    "ray_scope": _REMOVE,
    "save_safetensors": words("training_arguments.remove_safetensors"),
    "use_legacy_prediction_loop": _REMOVE,
    "torch_dtype": _write("dtype"),
    "block_size": _write("max_seq_length"),
    "max_length": _write("max_seq_length"),
    "use_bnb_nested_quant": _write("bnb_4bit_use_double_quant"),
}
"""Names of earlier releases and of neighbouring scripts -> what to do now."""
