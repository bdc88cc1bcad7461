"""Well-known formulas for training memory, each with its source, to compare with.

Every formula gives one number of bytes for tensors, so it is compared with the allocated peak. They
are evaluated as published: what a formula does not know (adapters, kernels, loss) it leaves out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_AUTO_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "translation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
"""Tasks of the measured rows."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the formulas need of a model and its adapters; counted on the meta device."""

    params: int
    """Parameters of the model without adapters."""
    adapter_params: int
    layers: int
    hidden: int
    heads: int
    vocab: int
    """Entries of the output; 0 where the model has no language-model head."""


def shape_of(config: Mapping[str, Any], plan: Mapping[str, Any]) -> Shape:
    """Count a model from its config: no weights are made."""
    import torch
    import transformers

    name = _AUTO_CLASSES[plan["task"]]
    kind = config["model_type"]
    fields = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(kind, **fields)
    with torch.device("meta"):
        model = getattr(transformers, name).from_config(settings)
    lora = plan.get("lora")
    return Shape(
        params=sum(p.numel() for p in model.parameters()),
        adapter_params=_adapter_params(model, lora) if lora else 0,
        layers=settings.num_hidden_layers,
        hidden=settings.hidden_size,
        heads=settings.num_attention_heads,
        vocab=settings.vocab_size if "LM" in name else 0,
    )


def _adapter_params(model: Any, lora: Mapping[str, Any]) -> int:
    targets = lora.get("target_modules", "all-linear")
    total = 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.dim() != 2:
            continue
        leaf = name.rsplit(".", 1)[-1]
        is_head = module is model.get_output_embeddings() or leaf.startswith("embed")
        if leaf in targets or (targets == "all-linear" and not is_head):
            total += lora["r"] * sum(weight.shape)
    return total


def accelerate(shape: Shape, plan: Mapping[str, Any]) -> float:
    """`accelerate estimate-memory`: "Training using Adam", four times the model in float32.

    Hugging Face accelerate, commands/estimate.py; the installed package's own function is called,
    with the model's size in float32 and the dtype, as its command does.
    """
    from accelerate.commands.estimate import estimate_training_usage

    dtype = "bfloat16" if plan.get("bf16") else "float16" if plan.get("fp16") else plan["dtype"]
    return max(estimate_training_usage(4 * shape.params, dtype).values())


def korthikanti(shape: Shape, plan: Mapping[str, Any]) -> float:
    """16 bytes a trained parameter and the activations of Korthikanti et al.

    States: Rajbhandari et al. 2020, ZeRO (arXiv 1910.02054), section 3.1. Activations: Korthikanti
    et al. 2022 (arXiv 2205.05198), equations 1, 2 and 6 and section 4.3, in 16 bits: 34 sbh and
    5 abs^2 a layer, the latter not with a fused attention; with full recomputation 2 sbh a layer
    and one layer's activations; 4 sbh(1 + v/h) for the output. Frozen weights take their own size.
    """
    tokens = plan["per_device_train_batch_size"] * plan["max_length"]
    layer = 34.0 * tokens * shape.hidden
    if plan["attn_implementation"] == "eager":
        layer += 5.0 * shape.heads * tokens * plan["max_length"]
    if plan["activation_checkpointing"]:
        activations = 2 * tokens * shape.hidden * shape.layers + layer
    else:
        activations = layer * shape.layers
    if plan["dtype"] == "float32" and not plan.get("bf16") and not plan.get("fp16"):
        activations *= 2
    if shape.vocab:
        activations += 4 * tokens * (shape.hidden + shape.vocab)
    if plan["method"] == "full":
        return 16 * shape.params + activations
    return _frozen_bytes(plan) * shape.params + 16 * shape.adapter_params + activations


def llama_factory(shape: Shape, plan: Mapping[str, Any]) -> float:
    """The hardware table of LLaMA-Factory's README, gigabytes for a billion parameters.

    hiyouga/LLaMA-Factory, README.md, "Hardware Requirement", column "xB": full 18, full in pure
    16 bits 8, LoRA 2, QLoRA of 8 bits 1, of 4 bits 0.5.
    """
    if plan["method"] == "full":
        return shape.params * (18.0 if plan["dtype"] == "float32" else 8.0)
    if plan["method"] == "lora":
        return shape.params * 2.0
    return shape.params * _frozen_bytes(plan)


def _frozen_bytes(plan: Mapping[str, Any]) -> float:
    quantization = plan.get("quantization")
    if not quantization:
        return BYTES[plan["dtype"]]
    return 0.5 if quantization.get("load_in_4bit") else 1.0


FORMULAS: dict[str, Callable[[Shape, Mapping[str, Any]], float]] = {
    "accelerate estimate-memory": accelerate,
    "16 B a parameter + Korthikanti": korthikanti,
    "LLaMA-Factory's table": llama_factory,
}
