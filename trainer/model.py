"""The model that is trained, and its tokenizer. Reads files and uses the random state."""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pickle import UnpicklingError
from typing import Any, Literal

import peft
import torch
import transformers

from advisor import hub
from advisor.arguments import ModelArguments
from advisor.errors import InputError
from advisor.rows import Rows
from advisor.tasks import find_trainable_task
from trainer.tasks import task_module


def build_tokenizer(args: ModelArguments) -> Any:
    """The tokenizer, with a padding token: the end-of-text token where it has none of its own.

    Raises:
        InputError: it cannot be loaded, or has neither token.
    """
    name = args.tokenizer_name or args.model_name_or_path or args.config_name
    assert name is not None  # check_arguments wants one of them
    directory = hub.model_directory(hub.with_revision(name, args.model_revision))
    with _as_input_error("tokenizer", name):
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError("train.padding", name=name, field="tokenizer_name")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_model(
    args: ModelArguments, task: str, rows: Rows, tokenizer: Any, *, with_checkpointing: bool
) -> tuple[Any, list[tuple[str, str]]]:
    """The model as the advisor simulates it: loaded in `dtype`, adapters on top, nothing cast.

    Quantised ones are prepared by `peft.prepare_model_for_kbit_training`: what is not quantised
    (embeddings, norms, the output layer) becomes float32.

    Args:
        args: which model; without weights its initial ones depend on the seed set before.
        task: slug of `advisor.tasks`.
        rows: of the data, which a task may shape the model by.
        tokenizer: that makes its batches.
        with_checkpointing: activation checkpointing will be on.

    Returns:
        The model, and what is to be said about it.

    Raises:
        InputError: it cannot be loaded, or bitsandbytes is missing.
    """
    found = find_trainable_task(task)
    auto_class = getattr(transformers, found.auto_class)
    options: dict[str, Any] = {
        "dtype": getattr(torch, args.dtype),
        "attn_implementation": args.attn_implementation,
        "trust_remote_code": False,
    }
    if args.method == "qlora":
        options["quantization_config"] = _quantization(args)
        if torch.cuda.is_available():
            options["device_map"] = {"": torch.cuda.current_device()}
    name = args.model_name_or_path or args.config_name
    assert name is not None  # check_arguments wants one of them
    whole = hub.with_revision(name, args.model_revision)
    directory = hub.fetch_model(whole) if args.model_name_or_path else hub.model_directory(whole)
    warnings: list[tuple[str, str]] = []
    with _as_input_error("model", name):
        config = transformers.AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        shaped = task_module(task).model_options(rows, tokenizer, config)
        if args.model_name_or_path:
            options.update(shaped)
            model, info = auto_class.from_pretrained(
                directory, local_files_only=True, output_loading_info=True, **options
            )
            warnings = _new_weights(info)
        elif args.method == "qlora":
            raise InputError("train.qlora_weights", name=name, field="model")
        else:
            model = auto_class.from_config(config, **options)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    if args.method == "qlora":
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if args.method != "full":
        model = _with_adapters(model, args, found.peft_type)
        if with_checkpointing:
            # The frozen embeddings' output carries no gradient, and checkpointed layers need one.
            model.enable_input_require_grads()
    return model, warnings


def _new_weights(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the checkpoint lacks, as a warning."""
    other = [name for name, *_ in info.get("mismatched_keys") or ()]
    names = sorted({*(info.get("missing_keys") or ()), *other})
    if not names:
        return []
    some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    why = "has them in another size" if other else "does not have them"
    return [("new_weights", f"{some} start from random values: the checkpoint {why}.")]


def _quantization(args: ModelArguments) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("train.bitsandbytes", field="method")
    if args.load_in_8bit:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=args.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=getattr(torch, args.bnb_4bit_compute_dtype),
    )


def _with_adapters(model: Any, args: ModelArguments, peft_type: str) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = args.lora_target_modules
    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        use_dora=args.use_dora,
        use_rslora=args.use_rslora,
        task_type=peft_type,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError("train.adapters", reason=error, field="lora_target_modules") from error


@contextlib.contextmanager
def _as_input_error(what: Literal["model", "tokenizer"], name: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError, UnpicklingError) as error:
        reason = " ".join(str(error).split())
        if what == "tokenizer":
            raise InputError("train.tokenizer", name=name, reason=reason, field="model") from error
        raise InputError("train.model", name=name, reason=reason, field="model") from error
