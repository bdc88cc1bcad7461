"""Trainer.evaluate on fake tensors: two batches, as evaluation_loop and prediction_step go."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from advisor.simulate.losses import LossRules
from advisor.simulate.trace import GLOBAL, Recorder

EVALUATION = "evaluation"
"""How the marks after each batch start."""


def evaluate(
    model: nn.Module, make_batch: Callable[[], dict[str, Any]], recorder: Recorder
) -> None:
    """Record two batches with prediction_loss_only, as Trainer has it without compute_metrics.

    The second one comes while the first is still held; only losses are collected.
    """
    rules = LossRules.of(model)
    model.eval()
    recorder.phase = "forward"
    inputs: dict[str, Any] = {}
    losses = collected = None
    for number in range(2):
        with recorder.in_phase("forward"):
            inputs = make_batch()
            losses = _prediction_step(model, inputs, rules)
            losses = losses.repeat(len(inputs["labels"]))
            collected = losses if collected is None else torch.cat((collected, losses), dim=0)
        recorder.layer = GLOBAL
        recorder.in_head = False
        recorder.mark(f"{EVALUATION}{number}")
    recorder.mark("end")
    recorder.close()  # before this frame lets go of the last batch


def _prediction_step(model: nn.Module, inputs: dict[str, Any], rules: LossRules) -> torch.Tensor:
    """The output, logits included, lives until the loss is made, and no longer."""
    with torch.no_grad():
        items = rules.count([inputs])
        loss, _output = rules.compute(model, inputs, items)
        return loss.detach().mean()
