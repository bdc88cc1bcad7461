"""What peft leaves of a model's dtypes: for the trainer and for the simulation of it."""

from typing import Any


def train_in_float32(model: Any) -> None:
    """Make float32 of every trained parameter, heads as well: peft casts its adapters alone.

    Only under autocast, where float16 gradients stop GradScaler and a head of bfloat16 would lose
    small updates. Without autocast a float32 head does not take the half hidden states.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
