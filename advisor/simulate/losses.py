"""How Trainer counts the items of its batches and calls the model for a loss."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class LossRules:
    """What Trainer.__init__ finds out about a model."""

    accepts_items: bool
    """Its forward takes num_items_in_batch."""
    shifts_labels: bool
    """Its loss leaves the first label out."""

    @staticmethod
    def of(model: nn.Module) -> "LossRules":
        """Read them as Trainer.__init__ does."""
        from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        accepts = getattr(base, "accepts_loss_kwargs", None)
        if accepts is None:
            parameters = inspect.signature(base.forward).parameters.values()
            accepts = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        shifts = LOSS_MAPPING.get(str(getattr(base, "loss_type", None))) is ForCausalLMLoss
        shifts = shifts and not getattr(base.config, "is_encoder_decoder", False)
        return LossRules(accepts_items=accepts, shifts_labels=shifts)

    def count(self, batches: list[dict[str, Any]]) -> torch.Tensor | None:
        """Trainer._get_num_items_in_batch on one device."""
        if not self.accepts_items or "labels" not in batches[0]:
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
        more = {} if items is None else {"num_items_in_batch": items}
        output = handed_out(model(**inputs, **more))
        loss = output["loss"] if isinstance(output, dict) else output[0]
        if items is not None:
            loss *= 1  # average_tokens_across_devices, one device
        return loss, output
