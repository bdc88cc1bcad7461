"""The real model class, built on the meta device: quantised layers, adapters, checkpointing."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from advisor.adapters import train_in_float32
from advisor.errors import SimulationError, note, words
from advisor.locale import Message
from advisor.plan import Checkpointing
from advisor.row_borders import keeps_rows_apart
from advisor.simulate import experts, flash, liger, quantized
from advisor.simulate.profile import Structure, with_depth
from advisor.tasks import Task, find_task


def build_on_meta(structure: Structure, depth: int) -> nn.Module:
    """The model as the trainer builds it, adapters included, without any memory.

    Raises:
        SimulationError: the class cannot be built or a method is not simulated.
    """
    if structure.use_liger_kernel:
        liger.check(structure)
    config = hf_config(with_depth(structure.config_dict(), depth))
    if find_task(structure.task).has_labels:
        give_padding(config)
    flashes = structure.attn_implementation == flash.NAME
    if flashes:
        flash.check(structure)
    model = _from_config(config, structure, "sdpa" if flashes else structure.attn_implementation)
    if flashes:
        flash.switch_on(model)
    if structure.padding_free and not keeps_rows_apart(model):
        raise SimulationError("flash.rows", model_type=config.model_type)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    if structure.separate_experts:
        experts.separate(model)
    if structure.quantization is not None:
        model = _quantised(model, structure)
    if structure.lora is not None:
        model = _with_adapters(model, structure)
        if structure.autocast is not None:
            train_in_float32(model)
    if structure.activation_checkpointing:
        _checkpoint(model, structure.checkpointing)
        if structure.lora is not None:
            model.enable_input_require_grads()
    return model


def _checkpoint(model: Any, how: Checkpointing) -> None:
    """As Trainer switches it on."""
    options: dict[str, Any] = {}
    if how.every_n_layers > 1:
        options["every_n_layers"] = how.every_n_layers
    if how.offload:
        options["offload"] = True
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}, **options
    )


def _from_config(config: Any, structure: Structure, attention: str) -> Any:
    """What from_pretrained builds; eager where the class has no other attention.

    Asked for sdpa, transformers refuses such a class; asked for nothing, as example scripts do, it
    takes eager. The trainer asks, so for a task that it trains the refusal is the answer.
    """
    task = find_task(structure.task)
    try:
        with torch.device("meta"):
            return auto_class(config, task).from_config(
                config, dtype=getattr(torch, structure.dtype), attn_implementation=attention
            )
    except model_errors() as error:
        if attention == "sdpa" and "scaled_dot_product_attention yet" in str(error):
            if not task.trainable:
                return _from_config(config, structure, "eager")
            raise SimulationError("build.no_sdpa", model_type=config.model_type) from error
        raise SimulationError(
            "build.cannot_build", model_type=config.model_type, reason=one_line(error)
        ) from error


def give_padding(config: Any) -> None:
    """A padding token, where the trainer sets the tokenizer's: decoders look for it."""
    text = config.get_text_config()
    if text.pad_token_id is None:
        end = text.eos_token_id
        text.pad_token_id = end if isinstance(end, int) else 0


def attention_note(model: Any, structure: Structure) -> tuple[str, ...]:
    """Said where the class has eager attention alone."""
    took = getattr(model.config, "_attn_implementation", structure.attn_implementation)
    if took == structure.attn_implementation:
        return ()
    return (note("build.eager_alone", name=type(model).__name__),)


def auto_class(config: Any, task: Task) -> Any:
    """The task's class that knows the config, else its usual one (which then says no)."""
    import transformers

    classes = [getattr(transformers, name) for name in task.auto_classes]
    return next((c for c in classes if type(config) in c._model_mapping), classes[0])


def model_errors() -> tuple[type[Exception], ...]:
    """What a model's own code raises: a config's wrong values, or a batch it cannot take."""
    from huggingface_hub.errors import StrictDataclassError

    return (
        StrictDataclassError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    )


def one_line(error: Exception) -> str:
    """What it says, without its last full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, LookupError):
        text = f"no entry {text}"
    return text.rstrip(".") if len(text) <= 300 else f"{text[:297]}..."


def hf_config(config: Mapping[str, Any]) -> Any:
    """A dict with model_type as a transformers config.

    Raises:
        SimulationError: transformers does not know the model_type.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    values = dict(config)
    model_type = values.pop("model_type", None)
    for name in ("auto_map", "quantization_config", "architectures", "dtype", "torch_dtype"):
        values.pop(name, None)
    if model_type not in CONFIG_MAPPING:
        raise SimulationError("build.unknown_type", model_type=model_type)
    try:
        made: Any = AutoConfig.for_model(model_type, **values)
    except model_errors() as error:
        raise SimulationError(
            "build.cannot_build", model_type=model_type, reason=one_line(error)
        ) from error
    made.architectures = []  # None is not looked through where a type has several classes
    return made


def _quantised(model: nn.Module, structure: Structure) -> nn.Module:
    """Linear layers replaced, then prepared as peft does for training."""
    from peft import prepare_model_for_kbit_training

    assert structure.quantization is not None
    quantized.replace_linears(model, structure.quantization)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _with_adapters(model: nn.Module, structure: Structure) -> nn.Module:
    """The model with peft's own adapters.

    Raises:
        SimulationError: peft refuses: no layer has these names, or fused experts and what they lack
            (dropout, DoRA).
    """
    from peft import LoraConfig, get_peft_model

    lora = structure.lora
    assert lora is not None
    targets = lora.target_modules
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        task_type=find_task(structure.task).peft_type,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        stack.enter_context(quantized.standing_in())
        if structure.separate_experts:
            stack.enter_context(experts.targets_as_named())
        try:
            return get_peft_model(model, config)
        except model_errors() as error:
            name = model.config.model_type  # type: ignore[union-attr]
            raise SimulationError(
                "build.peft_refuses", model_type=name, reason=one_line(error)
            ) from error


def find_layers(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The repeated blocks: the largest ModuleList whose children share one class, and its name."""
    best: tuple[int, str, list[nn.Module]] = (0, "", [])
    for name, children in find_stacks(model):
        size = sum(p.numel() for child in children for p in child.parameters())
        if size > best[0]:
            best = (size, name, children)
    return best[1], best[2]


def find_stacks(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Outermost ModuleLists whose two or more children share one class, by name."""
    found: list[tuple[str, list[nn.Module]]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) >= 2:
            children = list(module)
            inside = any(name.startswith(f"{outer}.") for outer, _ in found)
            if len({type(c) for c in children}) == 1 and not inside:
                found.append((name, children))
    return found


def why_in_full(model: nn.Module, depth: int | None) -> Message | None:
    """Why the layers are not repeated from a few traced ones; None: they can be.

    Args:
        model: built with the config's own depth.
        depth: what the config calls its number of layers, None: it does not.
    """
    stacks = [layers for _, layers in find_stacks(model)]
    if not stacks:
        return words("build.no_stack")
    if len(stacks) > 1:
        return words("build.stacks", count=len(stacks))
    if depth is None:
        return words("build.no_depth")
    if len(stacks[0]) != depth:
        return words("build.other_depth", built=len(stacks[0]), depth=depth)
    if not layers_alike(model):
        return words("build.layers_differ")
    return None


def layers_alike(model: nn.Module) -> bool:
    """Whether every repeated block has the same modules, shapes and kind of attention."""
    signatures = {
        tuple(
            (name, type(m).__name__, getattr(m, "layer_type", None), getattr(m, "is_sliding", None))
            for name, m in layer.named_modules()
        )
        + tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
        for layer in find_layers(model)[1]
    }
    return len(signatures) <= 1


def context_of(model: Any) -> int | None:
    """Tokens a row may have; RoBERTa's family counts positions from behind the padding's."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if not isinstance(positions, int) or isinstance(positions, bool):
        return None
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:
            return positions - module.padding_idx - 1
    return positions


def output_layer(model: Any) -> nn.Module | None:
    """The layer that makes the logits, None: the class has none or does not name it."""
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
