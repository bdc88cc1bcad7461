"""A plan as the JSON that trains it, and back: the only room that knows TrainingArguments.

Writing and checking are light. Reading into the real classes (`parse_arguments`, `verify`) imports
transformers and touches devices and accelerate's global state: worker, trainer and CLI only.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor import hub, own_arguments, records, training_arguments
from advisor.argument_checks import check_arguments, read_json, shown
from advisor.data import DataDescription
from advisor.errors import InputError, UnknownNameError, words
from advisor.own_arguments import DataArguments, ModelArguments
from advisor.plan import Checkpointing, TrainingPlan
from advisor.recommendation import Recommendation
from advisor.tasks import find_task

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = [
    "DataArguments",
    "ModelArguments",
    "arguments_for",
    "check_arguments",
    "parse_arguments",
    "plan_from_arguments",
    "read_json",
    "training_arguments_for",
    "verify",
]

LORA_NAMES = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
}
QUANTIZATION_NAMES = (
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_compute_dtype",
)
_CHECKPOINTING_NAMES = tuple(f.name for f in dataclasses.fields(Checkpointing))
ONLY_WHEN_PINNED = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
"""Written for a user who asked for them, never by us."""
ONLY_WHEN_SET = (
    "optim_args",
    "optim_target_modules",
    "fsdp",
    "fsdp_config",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "liger_kernel_config",
)
"""Left out where None."""
CONSTANTS: dict[str, Any] = {
    "output_dir": "checkpoints",
    "do_train": True,
    "report_to": "none",
    "logging_strategy": "steps",
    "logging_first_step": True,
    # The default logs a NaN loss as 0.0.
    "logging_nan_inf_filter": False,
    "include_num_input_tokens_seen": "non_padding",
}
"""What every run sets, whatever the plan. The relative output_dir lies inside the run directory."""


def shared_fields() -> tuple[str, ...]:
    """Plan fields that are TrainingArguments fields of the same name and form."""
    known = training_arguments.fields()
    names = (f.name for f in dataclasses.fields(TrainingPlan))
    return tuple(n for n in names if n in known and n != "activation_checkpointing_kwargs")


# --- plan to arguments -----------------------------------------------------------------------


def arguments_for(recommendation: Recommendation) -> dict[str, Any]:
    """The recommended plan as one flat JSON object: what `python -m trainer` reads.

    Raises:
        InputError: there is no plan or no data set, or a pin that no file may hold.
    """
    plan, data = _plan_of(recommendation), recommendation.data
    if data is None:
        raise InputError("arguments.no_data", field="data")
    model, own = recommendation.model, own_arguments.fields()
    name, revision = model.path, None
    if hub.is_model_id(model.path):
        name, revision = hub.parse_model_id(model.path)
    values: dict[str, Any] = {
        "model_name_or_path": name if model.has_weights else None,
        "config_name": None if model.has_weights else name,
        "tokenizer_name": name if model.has_tokenizer and not model.has_weights else None,
        "dtype": plan.dtype,
        "attn_implementation": plan.attn_implementation,
        "method": plan.method,
        "task": plan.task,
        "train_file": data.path,
        "validation_file": data.validation_path,
        "validation_split_percentage": own["validation_split_percentage"].default,
        **_columns(plan.task, data),
        "max_seq_length": plan.max_length,
        "packing": plan.packing,
        "padding_free": plan.padding_free,
        "pad_to_multiple_of": plan.pad_to_multiple_of(),
    }
    if revision is not None:
        values["model_revision"] = revision
    if plan.lora is not None:
        lora = records.encode(plan.lora)
        values.update({name: lora[key] for key, name in LORA_NAMES.items()})
        if isinstance(values["lora_target_modules"], str):
            values["lora_target_modules"] = [values["lora_target_modules"]]
    if plan.quantization is not None:
        values.update(records.encode(plan.quantization))
    for advice in recommendation.advice:
        if advice.pinned and advice.field in own:
            values[advice.field] = records.encode(advice.value)
    values.update(training_arguments_for(recommendation))
    ordered = {n: values[n] for n in (*own, *training_arguments.fields()) if n in values}
    check_arguments(ordered, words("arguments.recommended"))
    return ordered


def training_arguments_for(recommendation: Recommendation) -> dict[str, Any]:
    """The part of `arguments_for` that TrainingArguments itself holds; any script can read it.

    Raises:
        InputError: there is no plan, or a pin that no file may hold.
    """
    plan = _plan_of(recommendation)
    values = {
        **CONSTANTS,
        "do_eval": plan.eval_strategy != "no",
        "prediction_loss_only": not find_task(plan.task).predicts,
    }
    for advice in recommendation.advice:
        if not advice.pinned and advice.field in ONLY_WHEN_PINNED:
            continue
        if advice.field in training_arguments.fields():
            values[advice.field] = records.encode(advice.value)
    if plan.padding_free:  # without a mask the class takes every end of a text for padding
        values["include_num_input_tokens_seen"] = "all"
    encoded = plan.to_dict()
    values.update({name: encoded[name] for name in shared_fields()})
    for name in ONLY_WHEN_SET:
        if values[name] is None:
            del values[name]
    if plan.liger_kernel_config is not None:  # Liger takes null for false
        given = records.encode(plan.liger_kernel_config).items()
        values["liger_kernel_config"] = {key: on for key, on in given if on is not None}
    if plan.activation_checkpointing:
        values.setdefault("activation_checkpointing_kwargs", _checkpointing_kwargs(plan))
    if plan.max_steps > 0:
        del values["num_train_epochs"]
    if plan.eval_strategy == "steps" and plan.eval_steps is None:
        values["eval_steps"] = plan.logging_steps
    if plan.dataloader_num_workers == 0:
        del values["dataloader_prefetch_factor"]
    ordered = {name: values[name] for name in training_arguments.fields() if name in values}
    check_arguments(ordered, words("arguments.recommended"), training_only=True)
    return ordered


def _columns(task: str, data: DataDescription) -> dict[str, str | None]:
    """Where the text is, and the class: spelled as in the example script of the task."""
    if not find_task(task).has_labels:
        return {"text_column": data.text_column}
    return {"text_column_names": data.text_column, "label_column_name": data.label_column}


def _plan_of(recommendation: Recommendation) -> TrainingPlan:
    if recommendation.plan is None:
        raise InputError("arguments.no_plan", field="plan")
    return recommendation.plan


# --- reading into the real classes -----------------------------------------------------------


def parse_arguments(path: Path) -> "tuple[ModelArguments, DataArguments, TrainingArguments]":
    """Read an arguments file into the three classes, in the process that will train.

    Raises:
        InputError: what `read_json` and `check_arguments` refuse, or what this machine cannot do.
    """
    from transformers import HfArgumentParser, TrainingArguments

    check_arguments(read_json(path), str(path))
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))  # type: ignore[arg-type]
    try:
        model, data, training = parser.parse_json_file(path)
    except (ValueError, ImportError) as error:
        raise InputError("arguments.refused", path=path, reason=error) from error
    if training.fp16 and training.device.type == "cpu":
        raise InputError("arguments.fp16_cpu", path=path, field="fp16")
    return model, data, training


def verify(arguments: Mapping[str, Any], format_name: str = "hf-json") -> None:
    """Parse arguments back with the real classes and compare each field with what was written.

    bf16 and tf32 are asked of a device that this process may not have. Where it has not, the
    parse runs with use_cpu on and tf32 unset, and just these (and pin_memory, which use_cpu
    switches off) are compared by the light check alone.

    Args:
        arguments: the object that is about to be written.
        format_name: hf-json (all three classes) or training-arguments-json.

    Raises:
        InputError: names the first field that comes back differently.
    """
    from transformers import HfArgumentParser, TrainingArguments
    from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

    classes = {
        "hf-json": (ModelArguments, DataArguments, TrainingArguments),
        "training-arguments-json": (TrainingArguments,),
    }
    if format_name not in classes:
        raise UnknownNameError(
            "arguments.not_parsed_back", format=format_name, nearest=tuple(classes), field="format"
        )
    source = words("arguments.export", format=format_name)
    written = json.loads(json.dumps(arguments))
    check_arguments(written, source, training_only=format_name != "hf-json")
    stand_in: dict[str, Any] = {}
    if written.get("bf16") and not written.get("use_cpu") and not is_torch_bf16_gpu_available():
        stand_in["use_cpu"] = True
    if written.get("tf32") and not is_torch_tf32_available():
        stand_in["tf32"] = None
    try:
        parsed = HfArgumentParser(classes[format_name]).parse_dict({**written, **stand_in})  # type: ignore[arg-type]
    except (ValueError, TypeError, ImportError) as error:
        raise InputError("arguments.does_not_load", source=source, reason=error) from error
    read = {f.name: getattr(part, f.name) for part in parsed for f in dataclasses.fields(part)}
    use_cpu = read.get("use_cpu")
    for name, value in written.items():
        skipped = name in stand_in or (name == "dataloader_pin_memory" and use_cpu)
        if dataclasses.is_dataclass(read[name]) and isinstance(value, dict):  # accelerator_config
            read[name] = {key: getattr(read[name], key) for key in value}
        if not skipped and _plain(read[name]) != _as_class_holds_it(name, value):
            raise InputError(
                "arguments.reads_back",
                source=source,
                written=shown(value),
                read=shown(_plain(read[name])),
                field=name,
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _as_class_holds_it(name: str, value: Any) -> Any:
    """A written value in the form that `TrainingArguments.__post_init__` gives it."""
    if name == "report_to":
        return [] if value in ("none", ["none"]) else value if isinstance(value, list) else [value]
    if name == "debug":
        return value.split() if isinstance(value, str) else value or []
    if name == "include_num_input_tokens_seen" and isinstance(value, bool):
        return "all" if value else "no"
    return value


# --- arguments to plan -----------------------------------------------------------------------


def plan_from_arguments(
    arguments: "Mapping[str, Any] | tuple[ModelArguments, DataArguments, TrainingArguments]",
    *,
    devices: int = 1,
    attention_mask: bool | None = None,
    num_rows: int | None = None,
) -> TrainingPlan:
    """The plan that arguments describe, so that their memory and time can be predicted.

    Args:
        arguments: the object of an args.json, or what `parse_arguments` returned.
        devices: data-parallel processes; the launcher knows, the file does not.
        attention_mask: whether batches are padded; None: where they can be.
        num_rows: training rows; needed where a cadence is given as a share of all steps.

    Raises:
        InputError: arguments that a plan cannot express; never a plan that is nearly right.
    """
    if isinstance(arguments, tuple):
        values = {
            f.name: _plain(getattr(part, f.name))
            for part in arguments
            for f in dataclasses.fields(part)
        }
        values["use_cpu"] = values["use_cpu"] or arguments[2].device.type == "cpu"
    else:
        check_arguments(arguments)
        known = {**own_arguments.fields(), **training_arguments.fields()}
        values = {name: arguments.get(name, f.default) for name, f in known.items()}
    _refuse_outside_the_plan(values)
    plan = {name: values[name] for name in shared_fields()}
    plan["fsdp_config"] = _fsdp_config(values) if plan["fsdp"] else None
    plan["activation_checkpointing"] = bool(values["activation_checkpointing"])
    if values["max_steps"] > 0:
        plan["num_train_epochs"] = None
    if values["eval_strategy"] == "steps" and not values["eval_steps"]:
        plan["eval_steps"] = values["logging_steps"]
    if attention_mask is None:
        has_padding = not (values["packing"] or values["padding_free"])
        attention_mask = has_padding and values["per_device_train_batch_size"] > 1
    plan.update(
        task=values["task"],
        method=values["method"],
        dtype=values["dtype"],
        attn_implementation=values["attn_implementation"],
        max_length=values["max_seq_length"],
        attention_mask=attention_mask,
        packing=values["packing"],
        padding_free=values["padding_free"],
        devices=devices,
    )
    how = values["activation_checkpointing_kwargs"] or {}
    if plan["activation_checkpointing"] and set(how) & set(_CHECKPOINTING_NAMES):
        plan["activation_checkpointing_kwargs"] = {
            n: how[n] for n in _CHECKPOINTING_NAMES if n in how
        }
    if values["method"] != "full":
        plan["lora"] = {key: values[name] for key, name in LORA_NAMES.items()}
        if values["lora_target_modules"] == ["all-linear"]:
            plan["lora"]["target_modules"] = "all-linear"
    if values["method"] == "qlora":
        plan["quantization"] = {name: values[name] for name in QUANTIZATION_NAMES}
    return TrainingPlan.from_dict(_with_whole_cadences(plan, num_rows))


def _checkpointing_kwargs(plan: TrainingPlan) -> dict[str, Any]:
    """What Trainer hands to activation_checkpointing_enable; defaults are left out."""
    how = plan.activation_checkpointing_kwargs or Checkpointing()
    given = {n: v for n, v in records.encode(how).items() if v != getattr(Checkpointing(), n)}
    return {"use_reentrant": False, **given}


def _refuse_outside_the_plan(values: Mapping[str, Any]) -> None:
    for name in training_arguments.OUTSIDE_THE_PLAN:
        if values[name]:
            raise InputError("arguments.outside_the_plan", got=shown(values[name]), field=name)
    kwargs = values["activation_checkpointing_kwargs"] or {"use_reentrant": False}
    known = {"use_reentrant", *_CHECKPOINTING_NAMES}
    if values["activation_checkpointing"] and (
        kwargs.get("use_reentrant") is not False or not set(kwargs) <= known
    ):
        raise InputError(
            "arguments.use_reentrant", got=shown(kwargs), field="activation_checkpointing_kwargs"
        )


_FSDP_DEFAULTS = {
    "min_num_params": 0,
    "xla": False,
    "xla_fsdp_v2": False,
    "xla_fsdp_grad_ckpt": False,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "cpu_offload": False,
    "cpu_ram_efficient_loading": False,
}
"""Keys of fsdp_config that a plan knows in their default only."""


def _fsdp_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What changes memory; a key that a plan does not know is refused by name."""
    if values["fsdp"] is not True or isinstance(values["fsdp_config"], str):
        name = "fsdp_config" if values["fsdp"] is True else "fsdp"
        raise InputError("arguments.outside_the_plan", got=shown(values[name]), field=name)
    if values["fsdp_config"] is None:
        return None
    given = {k.removeprefix("fsdp_"): v for k, v in values["fsdp_config"].items()}
    given.pop("state_dict_type", None)  # of checkpoints alone
    for name, default in _FSDP_DEFAULTS.items():
        if given.pop(name, default) != default:
            raise InputError(
                "arguments.outside_the_plan",
                got=shown(values["fsdp_config"]),
                field=f"fsdp_config.{name}",
            )
    return given


def _with_whole_cadences(plan: dict[str, Any], num_rows: int | None) -> dict[str, Any]:
    """The cadences as whole steps: a share below 1 is of all steps, as Trainer resolves it."""
    names = [n for n in ("logging_steps", "eval_steps", "save_steps") if plan[n] is not None]
    shares = [n for n in names if plan[n] < 1]
    whole = {**plan, **{n: 1 if n in shares else int(plan[n]) for n in names}}
    if not shares:
        return whole
    if num_rows is None and plan["max_steps"] <= 0:
        raise InputError("arguments.share_of_steps", got=plan[shares[0]], field=shares[0])
    total = TrainingPlan.from_dict(whole).optimizer_steps(num_rows or 0)
    return {**whole, **{n: math.ceil(total * plan[n]) for n in shares}}
