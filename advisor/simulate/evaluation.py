"""Trainer.evaluate on fake tensors: two batches, as evaluation_loop and prediction_step go."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from advisor.simulate.losses import LossRules
from advisor.simulate.trace import GLOBAL, Recorder
from advisor.task_losses import class_of
from advisor.tasks import find_task

EVALUATION = "evaluation"
"""How the marks after each batch start."""


def evaluate(
    model: nn.Module, make_batch: Callable[[], dict[str, Any]], recorder: Recorder, task: str
) -> None:
    """Record two batches, as Trainer has them with prediction_loss_only and, for a metric, without.

    The second one comes while the first is still held; losses are collected, and for a metric the
    answers and the labels.
    """
    rules = LossRules.of(model, task)
    predicts = rules.own_loss and find_task(task).predicts
    model.eval()
    recorder.phase = "forward"
    inputs: dict[str, Any] = {}
    losses = answers = labels = None
    collected: list[torch.Tensor | None] = [None, None, None]
    for number in range(2):
        with recorder.in_phase("forward"):
            inputs = make_batch()
            losses, logits, labels = _prediction_step(model, inputs, rules, predicts=predicts)
            losses = losses.repeat(len(inputs["labels"]))
            collected[0] = _joined(collected[0], losses)
            if predicts:
                _look_at_sizes(logits)
                answers = class_of(logits)
                del logits
                collected[1] = _joined(collected[1], answers)
                collected[2] = _joined(collected[2], labels)
        recorder.layer = GLOBAL
        recorder.in_head = False
        recorder.mark(f"{EVALUATION}{number}")
    recorder.mark("end")
    recorder.close()  # before this frame lets go of the last batch


def _joined(before: torch.Tensor | None, now: torch.Tensor) -> torch.Tensor:
    return now if before is None else torch.cat((before, now), dim=0)


def _look_at_sizes(tensors: tuple[torch.Tensor, ...]) -> None:
    """Accelerate's pad_across_processes in one process: it looks at each, and pads nothing."""
    for tensor in tensors:
        if tensor.dim() > 1:
            sizes = torch.tensor(tensor.shape, device=tensor.device)[None].cpu()
            _is_longest = max(size[1] for size in sizes) == tensor.shape[1]


def _prediction_step(
    model: nn.Module, inputs: dict[str, Any], rules: LossRules, *, predicts: bool
) -> tuple[torch.Tensor, Any, Any]:
    """Without `predicts` the output, logits included, lives until the loss is made, no longer."""
    with torch.no_grad():
        items = rules.count([inputs])
        loss, output = rules.compute(model, inputs, items)
        loss = loss.detach().mean()
        if not predicts:
            return loss, None, None
        left_out = ("loss", *getattr(model.config, "keys_to_ignore_at_inference", ()))
        kept = tuple(v.detach() for k, v in output.items() if k not in left_out)
        return loss, kept, inputs["labels"].detach()
