"""How Trainer counts the items of its batches and calls the model for a loss."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advisor.task_losses import class_loss
from advisor.tasks import find_task


@dataclass(frozen=True, kw_only=True)
class LossRules:
    """What Trainer.__init__ finds out about a model."""

    accepts_items: bool
    """Its forward takes num_items_in_batch."""
    shifts_labels: bool
    """Its loss leaves the first label out."""
    own_loss: bool = False
    """Trainer has a compute_loss_func, which takes the labels."""

    @staticmethod
    def of(model: nn.Module, task: str) -> "LossRules":
        """Read them as Trainer.__init__ does."""
        from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        accepts = getattr(base, "accepts_loss_kwargs", None)
        if accepts is None:
            parameters = inspect.signature(base.forward).parameters.values()
            accepts = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        shifts = LOSS_MAPPING.get(str(getattr(base, "loss_type", None))) is ForCausalLMLoss
        shifts = shifts and not getattr(base.config, "is_encoder_decoder", False)
        own_loss = find_task(task).takes_loss
        return LossRules(accepts_items=accepts, shifts_labels=shifts, own_loss=own_loss)

    def is_scaled(self) -> bool:
        """Whether the loss is a share of the update's, so that Trainer does not divide it."""
        return self.accepts_items or self.own_loss

    def count(self, batches: list[dict[str, Any]]) -> torch.Tensor | None:
        """Trainer._get_num_items_in_batch on one device."""
        if not self.is_scaled() or "labels" not in batches[0]:
            return None
        labels = [b["labels"][..., 1:] if self.shifts_labels else b["labels"] for b in batches]
        return sum(each.ne(-100).sum() for each in labels) / 1  # type: ignore[return-value]

    def compute(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        items: torch.Tensor | None,
        handed_out: Callable[[Any], Any] = lambda output: output,
    ) -> tuple[torch.Tensor, Any]:
        """Trainer.compute_loss: the loss, and the output as the model's wrapper hands it out."""
        labels = inputs.get("labels") if self.own_loss else None
        if labels is not None:
            inputs = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        more = {} if items is None or not self.accepts_items else {"num_items_in_batch": items}
        output = handed_out(model(**inputs, **more))
        if labels is not None:
            loss = class_loss(output, labels, items)
        else:
            loss = output["loss"] if isinstance(output, dict) else output[0]
        if items is not None:
            loss *= 1  # average_tokens_across_devices, one device
        return loss, output
