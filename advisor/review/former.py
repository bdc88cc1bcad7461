"""Arguments of earlier releases: what today's class takes in their place, with the value converted.

former_arguments.csv was read from the class of 47 releases, 2.9.1 (the first) to 5.22.0: every
field that 5.23 lacks, with the first and last of these that have it. Reads it once.
"""

import csv
import io
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any

Values = Mapping[str, Any]
Convert = Callable[[Any, Values], dict[str, Any]]
"""(old value, all arguments of the file) -> arguments of today."""


@cache
def last_releases() -> dict[str, str]:
    """Name -> the last release that was read and has it, e.g. "4.57"."""
    text = resources.files("advisor.review").joinpath("former_arguments.csv").read_text("utf-8")
    rows = csv.DictReader(io.StringIO(text))
    return {row["name"]: row["last"].rpartition(".")[0] for row in rows}


def _as(name: str) -> Convert:
    """The same value under another name."""
    return lambda value, _: {} if value is None else {name: value}


def _per_device(name: str) -> Convert:
    """4.x took per_device_* where per_gpu_* was null or 0."""
    return lambda value, _: {name: value} if value else {}


def _if_on(name: str, written: Any) -> Convert:
    return lambda value, _: {name: written} if _is_on(value) else {}


def _inside(key: str, where: str) -> Convert:
    """One key of a nested object, beside what it holds already."""

    def convert(value: Any, given: Values) -> dict[str, Any]:
        if not _says(value):
            return {}
        known = given.get(where)
        sisters = {k: given[n] for n, k in _NESTED[where].items() if _says(given.get(n))}
        return {where: {key: value, **sisters, **(known if isinstance(known, dict) else {})}}

    return convert


_NESTED: dict[str, dict[str, str]] = {
    "fsdp_config": {
        "fsdp_min_num_params": "min_num_params",
        "fsdp_transformer_layer_cls_to_wrap": "transformer_layer_cls_to_wrap",
    },
    "accelerator_config": {
        "dispatch_batches": "dispatch_batches",
        "split_batches": "split_batches",
    },
}
"""Where an old name went -> its key there; several of one file end in the same object."""


def _says(value: Any) -> bool:
    """Whether a value is more than the old default: null, 0 or no text."""
    return bool(value) or value is False


def _nothing(_value: Any, _given: Values) -> dict[str, Any]:
    return {}


def _is_on(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _warmup(value: Any, given: Values) -> dict[str, Any]:
    """A share stays a share; 4.x let warmup_steps win where both were given."""
    try:
        share, steps = float(value or 0), float(given.get("warmup_steps") or 0)
    except (TypeError, ValueError):
        return {}
    return {"warmup_steps": share} if 0 < share < 1 and steps == 0 else {}


def _evaluation(value: Any, _given: Values) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"eval_strategy": "steps" if value else "no"}
    return {"eval_strategy": value} if value is not None else {}


def _sharded(value: Any, given: Values) -> dict[str, Any]:
    """Sharding of fairscale is FSDP today; on a CPU neither does anything."""
    on_cpu = _is_on(given.get("no_cuda")) or _is_on(given.get("use_cpu"))
    return {"fsdp": True} if value and not on_cpu and "fsdp" not in given else {}


def _hub_id(_value: Any, given: Values) -> dict[str, Any]:
    """Both old names made one id; without a name it was that of the output directory."""
    organization, model = given.get("push_to_hub_organization"), given.get("push_to_hub_model_id")
    model = model or (organization and PurePath(str(given.get("output_dir") or "")).name)
    if not model:
        return {}
    is_whole = not organization or "/" in str(model)
    return {"hub_model_id": model if is_whole else f"{organization}/{model}"}


def _dtype(value: Any, _given: Values) -> dict[str, Any]:
    return {"dtype": value.removeprefix("torch.")} if isinstance(value, str) else {}


CONVERSIONS: dict[str, Convert] = {
    "_n_gpu": _nothing,
    "adafactor": _if_on("optim", "adafactor"),
    "dispatch_batches": _inside("dispatch_batches", "accelerator_config"),
    "evaluate_during_training": _if_on("eval_strategy", "steps"),
    "evaluation_strategy": _evaluation,
    "fp16_backend": _nothing,
    "fp16_opt_level": _nothing,
    "fp8": _nothing,
    "fsdp_min_num_params": _inside("min_num_params", "fsdp_config"),
    "fsdp_transformer_layer_cls_to_wrap": _inside("transformer_layer_cls_to_wrap", "fsdp_config"),
    "gradient_checkpointing": _as("activation_checkpointing"),
    "gradient_checkpointing_kwargs": _as("activation_checkpointing_kwargs"),
    "group_by_length": _if_on("train_sampling_strategy", "group_by_length"),
    "half_precision_backend": _nothing,
    "include_inputs_for_metrics": _if_on("include_for_metrics", ["inputs"]),
    "include_tokens_per_second": _if_on("include_num_input_tokens_seen", "non_padding"),
    "jit_mode_eval": _nothing,
    "logging_dir": _nothing,
    "model_parallel": _nothing,
    "mp_parameters": _nothing,
    "no_cuda": _as("use_cpu"),
    "overwrite_output_dir": _nothing,
    "past_index": _nothing,
    "per_gpu_eval_batch_size": _per_device("per_device_eval_batch_size"),
    "per_gpu_train_batch_size": _per_device("per_device_train_batch_size"),
    "push_to_hub_model_id": _hub_id,
    "push_to_hub_organization": _hub_id,
    "push_to_hub_token": _nothing,
    "ray_scope": _nothing,
    "save_safetensors": _nothing,
    "sharded_ddp": _sharded,
    "split_batches": _inside("split_batches", "accelerator_config"),
    "torchdynamo": _as("torch_compile_backend"),
    "tp_size": _nothing,
    "tpu_metrics_debug": _if_on("debug", "tpu_metrics_debug"),
    "tpu_num_cores": _nothing,
    "use_ipex": _nothing,
    "use_legacy_prediction_loop": _nothing,
    "use_mps_device": _nothing,
    "warmup_ratio": _warmup,
    "xpu_backend": _as("ddp_backend"),
    # neighbouring scripts
    "block_size": _as("max_seq_length"),
    "max_length": _as("max_seq_length"),
    "torch_dtype": _dtype,
    "use_bnb_nested_quant": _as("bnb_4bit_use_double_quant"),
}
"""Every name of `training_arguments.RENAMED` -> its conversion."""

VALUES: dict[str, dict[Any, Any]] = {
    "optim": {
        "adamw_hf": "adamw_torch",
        "adamw": "adamw_torch",
        "adamw_apex_fused": "adamw_torch_fused",
    },
    "eval_strategy": {True: "steps", False: "no"},
    "save_strategy": {False: "no"},
    "fsdp": {"": None, "False": None},
    "debug": {False: "", True: "tpu_metrics_debug"},
    "ddp_backend": {"ccl": "xccl"},
    "report_to": {None: "none"},
}
"""Values of earlier releases -> those of today; None is left out."""

EXAMPLE_SCRIPTS = frozenset(
    {
        "cache_dir",
        "config_overrides",
        "dataset_config",
        "dataset_config_name",
        "dataset_name",
        "do_language_modeling",
        "doc_stride",
        "early_stopping_patience",
        "eval_data_file",
        "generation_config",
        "generation_max_length",
        "generation_num_beams",
        "ignore_mismatched_sizes",
        "keep_linebreaks",
        "label_all_tokens",
        "label_column_name",
        "line_by_line",
        "low_cpu_mem_usage",
        "max_eval_samples",
        "max_predict_samples",
        "max_source_length",
        "max_target_length",
        "max_train_samples",
        "max_val_samples",
        "metric_name",
        "mlm",
        "mlm_probability",
        "model_type",
        "n_best_size",
        "num_beams",
        "overwrite_cache",
        "pad_to_max_length",
        "predict_with_generate",
        "preprocessing_num_workers",
        "sortish_sampler",
        "source_lang",
        "source_prefix",
        "streaming",
        "summary_column",
        "target_lang",
        "task_name",
        "test_file",
        "text_column_name",
        "token",
        "train_data_file",
        "use_auth_token",
        "use_fast_tokenizer",
        "val_max_target_length",
        "version_2_with_negative",
    }
)
"""Arguments of the official example scripts (and of Seq2SeqTrainingArguments) unknown here."""
