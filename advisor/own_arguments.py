"""The two classes beside TrainingArguments in an args.json: which model, and which data."""

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from advisor import training_arguments
from advisor.tasks import trainable_tasks

_DTYPES = ["float32", "bfloat16", "float16"]
_ATTENTIONS = ["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
"""transformers also takes a hub id here, and runs the code it finds there: not from a file."""


def _field(default: Any, text: str, choices: list[str] | None = None) -> Any:
    metadata: dict[str, Any] = {"help": text}
    if choices:
        metadata["choices"] = choices
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class ModelArguments:
    """Which model, how it is loaded, and what of it is trained."""

    model_name_or_path: str | None = _field(
        None, "Model directory or hub id with weights; null trains from random weights."
    )
    model_revision: str | None = _field(
        None, "Branch, tag or commit of the model on the Hub; null takes its main branch."
    )
    config_name: str | None = _field(None, "Config to build the model from, without weights.")
    tokenizer_name: str | None = _field(None, "Tokenizer, where it is not beside the weights.")
    dtype: str = _field("float32", "The dtype the weights are loaded in.", _DTYPES)
    attn_implementation: str = _field(
        "sdpa", "Attention kernel, as from_pretrained takes it.", _ATTENTIONS
    )
    method: str = _field("full", "What is trained.", ["full", "lora", "qlora"])
    lora_r: int = _field(16, "Rank of the adapters.")
    lora_alpha: int = _field(32, "Scale: the update is multiplied by lora_alpha / lora_r.")
    lora_dropout: float = _field(0.0, "Dropout on the adapter's input.")
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Module names the adapters sit on, or all-linear."},
    )
    use_dora: bool = _field(False, "Weight-decomposed adapters (DoRA).")
    use_rslora: bool = _field(False, "Scale by lora_alpha / sqrt(lora_r).")
    load_in_4bit: bool = _field(False, "qlora: load the frozen weights in 4 bits.")
    load_in_8bit: bool = _field(False, "qlora: load the frozen weights in 8 bits.")
    bnb_4bit_quant_type: str = _field("nf4", "4-bit data type.", ["nf4", "fp4"])
    bnb_4bit_use_double_quant: bool = _field(False, "Quantise the quantisation constants too.")
    bnb_4bit_compute_dtype: str = _field("bfloat16", "The dtype 4-bit layers compute in.", _DTYPES)


@dataclass(kw_only=True)
class DataArguments:
    """Which rows are trained on, and how they become batches."""

    task: str = _field("causal-lm", "Kind of training.", list(trainable_tasks()))
    train_file: str = field(
        metadata={
            "help": "Training rows: a file, glob or directory of jsonl, json, csv, tsv, txt or "
            "parquet, or a Hub id: owner/name[@revision][:config[:split]]."
        }
    )
    validation_file: str | None = _field(
        None,
        "Evaluation rows, likewise; null takes the data's own, or splits some off.",
    )
    validation_split_percentage: int = _field(
        5,
        "Share of the training rows split off for evaluation where there is no file; 5, the "
        "default, is at least 20 rows, or a fifth of fewer than 100.",
    )
    text_column: str | None = _field(None, "Column with the text; null finds it.")
    text_column_names: str | None = _field(
        None, "text-classification: column with the text, or one,two for a pair; null finds it."
    )
    label_column_name: str | None = _field(
        None, "text-classification: column with the class; null finds it."
    )
    max_seq_length: int = _field(1024, "Rows are cut here, in tokens.")
    packing: bool = _field(
        False, "Texts with an end token after each are one stream, cut into rows of max_seq_length."
    )
    padding_free: bool = _field(
        False, "Rows of a batch are one row with position_ids; needs flash_attention_2."
    )
    pad_to_multiple_of: int | None = _field(None, "Pad batches to a multiple of this length.")


@cache
def fields() -> dict[str, training_arguments.Field]:
    """Both classes' fields by name, described like those of `advisor.training_arguments`."""
    result = {}
    for cls, group in ((ModelArguments, "Model"), (DataArguments, "Data")):
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            hint, default = hints[f.name], f.default
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            result[f.name] = training_arguments.Field(
                name=f.name,
                group=group,
                type=hint.__name__ if type(hint) is type else str(hint),
                default=None if default is dataclasses.MISSING else default,
                choices=tuple(f.metadata.get("choices", ())),
                help=f.metadata["help"],
            )
    return result
