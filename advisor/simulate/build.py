"""The real model class, built on the meta device: quantised layers, adapters, checkpointing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from advisor.errors import SimulationError
from advisor.plan import Checkpointing
from advisor.simulate import flash, quantized
from advisor.simulate.profile import Structure, with_depth
from advisor.tasks import find_task


def build_on_meta(structure: Structure, depth: int) -> nn.Module:
    """The model as the trainer builds it, adapters included, without any memory.

    Raises:
        SimulationError: the class cannot be built or a method is not simulated.
    """
    import transformers

    config = hf_config(with_depth(structure.config_dict(), depth))
    auto_class = getattr(transformers, find_task(structure.task).auto_class)
    flashes = structure.attn_implementation == flash.NAME
    if flashes:
        flash.check(structure)
    try:
        with torch.device("meta"):
            model = auto_class.from_config(
                config,
                dtype=getattr(torch, structure.dtype),
                attn_implementation="sdpa" if flashes else structure.attn_implementation,
            )
    except (ValueError, KeyError, AttributeError, ImportError) as error:
        raise SimulationError(
            "build.cannot_build", model_type=config.model_type, reason=error
        ) from error
    if flashes:
        flash.switch_on(model)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    if structure.quantization is not None:
        model = _quantised(model, structure)
    if structure.lora is not None:
        model = _with_adapters(model, structure)
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


def hf_config(config: Mapping[str, Any]) -> Any:
    """A dict with model_type as a transformers config.

    Raises:
        SimulationError: transformers does not know the model_type.
    """
    from transformers import AutoConfig

    values = dict(config)
    model_type = values.pop("model_type", None)
    for name in ("auto_map", "quantization_config", "architectures", "dtype", "torch_dtype"):
        values.pop(name, None)
    try:
        return AutoConfig.for_model(model_type, **values)
    except ValueError as error:
        raise SimulationError("build.unknown_type", model_type=model_type) from error


def _quantised(model: nn.Module, structure: Structure) -> nn.Module:
    """Linear layers replaced, then prepared as peft does for training."""
    from peft import prepare_model_for_kbit_training

    assert structure.quantization is not None
    if structure.lora is not None and structure.lora.use_dora:
        raise SimulationError("build.dora_quantised")
    quantized.replace_linears(model, structure.quantization)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _with_adapters(model: nn.Module, structure: Structure) -> nn.Module:
    from peft import LoraConfig, TaskType, get_peft_model

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
        task_type=TaskType.CAUSAL_LM,
    )
    with torch.device("meta"), quantized.standing_in():
        return get_peft_model(model, config)


def find_layers(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The repeated blocks: the largest ModuleList whose children share one class, and its name."""
    best: tuple[int, str, list[nn.Module]] = (0, "", [])
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) >= 2:
            children = list(module)
            size = sum(p.numel() for p in module.parameters())
            if len({type(c) for c in children}) == 1 and size > best[0]:
                best = (size, name, children)
    return best[1], best[2]


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
