"""What a run really uses, read from the live objects; arguments only say what was wished for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerState, TrainingArguments


def effective(
    model: "nn.Module", optimizer: Any, args: "TrainingArguments", state: "TrainerState"
) -> dict[str, Any]:
    """Facts of a training loop that is about to begin, under the names the pages show.

    Args:
        model: as it trains, adapters on it.
        optimizer: as accelerate prepared it.
        args: of the Trainer.
        state: of the Trainer; its batch is the one that the data loader was built with.
    """
    from accelerate.state import AcceleratorState

    precision = AcceleratorState().mixed_precision
    batch = state.train_batch_size or args.per_device_train_batch_size
    return {
        "device": str(args.device),
        "world_size": args.world_size,
        "weights_dtype": _dtypes(model, trained=False),
        "trained_dtype": _dtypes(model, trained=True),
        "autocast": {"bf16": "bfloat16", "fp16": "float16", "no": None}.get(precision, precision),
        "attn_implementation": getattr(
            getattr(model, "config", None), "_attn_implementation", None
        ),
        "activation_checkpointing": bool(getattr(model, "is_activation_checkpointing", False)),
        "optimizer_class": _optimizer(optimizer),
        "effective_batch_size": batch * args.gradient_accumulation_steps * args.world_size,
    }


def _dtypes(model: "nn.Module", *, trained: bool) -> str | None:
    """Types of all weights or of the trained ones, the one that holds most numbers first."""
    numbers: dict[str, int] = {}
    for weight in model.parameters():
        if weight.requires_grad or not trained:
            name = str(weight.dtype).removeprefix("torch.")
            numbers[name] = numbers.get(name, 0) + weight.numel()
    return ", ".join(sorted(numbers, key=lambda name: -numbers[name])) or None


def _optimizer(optimizer: Any) -> str:
    while hasattr(optimizer, "optimizer"):  # accelerate's wrapper
        optimizer = optimizer.optimizer
    name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    return f"{name} (fused)" if optimizer.defaults.get("fused") else name
