"""The loss that the trainer takes itself, of tasks that say so; simulated as it is trained.

Many heads take the mean over their micro-batch whatever Trainer asks of them, and Trainer goes by
the forward's signature and does not divide (transformers 5.23, `model_accepts_loss_kwargs`): with 4
micro-batches an update, loss and gradient are 4 times what they are with one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def class_loss(
    outputs: Any,
    labels: "torch.Tensor",
    num_items_in_batch: "torch.Tensor | int | None" = None,
    *,
    label_smoothing: float = 0.0,
) -> "torch.Tensor":
    """Cross entropy of a micro-batch as its share of the mean over all rows of the update.

    Args:
        outputs: of the model, with logits (rows, classes).
        labels: (rows,).
        num_items_in_batch: rows of the update, over all its micro-batches; None: this one alone.
        label_smoothing: as TrainingArguments' label_smoothing_factor.
    """
    from torch.nn import functional

    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = functional.cross_entropy(
        logits, labels.view(-1), reduction=reduction, label_smoothing=label_smoothing
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def class_of(logits: "torch.Tensor | tuple[torch.Tensor, ...]") -> "torch.Tensor":
    """The likeliest class of each row: all of a batch's output that an evaluation keeps."""
    first = logits[0] if isinstance(logits, tuple) else logits
    return first.argmax(-1)
