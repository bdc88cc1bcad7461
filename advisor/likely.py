"""Which plan will probably be chosen, before anything is traced.

Rough shares of the memory, only to trace the likeliest plan first and to skip what another profile
already rules out: no number of this module is ever shown.
"""

from collections.abc import Sequence
from typing import Any

from advisor.plan import DTYPE_BYTES, Method, TrainingPlan
from advisor.rules import optimizer
from advisor.rules.facts import Facts

_QUANTISED_BYTES = 0.6
"""Per weight in four bits, with its scales and what stays in 16 bits."""
_FULL = 0.9
"""Share of what is free that a guess may take."""
SURE = 0.9
"""Share of a peak that is there whatever the accumulation, padding and rows of the batch."""
_LOGITS_BYTES = 14
"""Per logit: as computed, in float32, and their gradients."""


def weights_bytes(facts: Facts, plan: TrainingPlan) -> float:
    """Weights; of a full tuning also gradients in their dtype and the optimizer's states."""
    size: float = DTYPE_BYTES[plan.dtype]
    if plan.method == "full":
        states = optimizer.STATE_BYTES.get(plan.optim, 0.0)
        size = 2 * size + (2 * size if states is None else states)
    elif plan.method == "qlora":
        size = 0.5
    shares = plan.devices if plan.is_sharded() else 1
    return size * facts.model.num_parameters / shares


def gradients_bytes(facts: Facts, plan: TrainingPlan) -> float:
    """Gradients of a full tuning: what an update of one micro-batch may not hold in its forward."""
    if plan.method != "full":
        return 0.0
    return float(DTYPE_BYTES[plan.dtype] * facts.model.num_parameters)


def micro_batch(
    facts: Facts, plans: Sequence[TrainingPlan], longest: int, free: int | None
) -> TrainingPlan | None:
    """The first of the plans, largest micro-batch first, that probably fits; None: none does."""
    if free is None:
        return plans[0]
    for plan in plans:
        if _bytes(facts, plan, longest) <= _FULL * free:
            return plan
    return None


def _bytes(facts: Facts, plan: TrainingPlan, longest: int) -> float:
    held = weights_bytes(facts, plan)
    if plan.method == "qlora":
        held *= _QUANTISED_BYTES / 0.5
    return held + plan.per_device_train_batch_size * longest * _bytes_of_token(facts, plan)


def _bytes_of_token(facts: Facts, plan: TrainingPlan) -> float:
    """Of activations, as a transformer of the usual shape keeps them for the backward."""
    config, model = facts.model.config, facts.model
    hidden, layers = model.hidden_size or 0, model.num_trainable_layers or 0
    inner = _number(config, ("intermediate_size", "n_inner", "ffn_dim")) or 4 * hidden
    width = 1.0 if plan.bf16 or plan.fp16 or plan.dtype != "float32" else 2.0
    layer = width * (_kept(plan.method, hidden, 34, 18) + _kept(plan.method, inner, 8, 3))
    logits = float(_LOGITS_BYTES * (model.vocab_size or 0)) if plan.task == "causal-lm" else 0.0
    if plan.activation_checkpointing:
        return layers * 2 * width * hidden + layer + logits
    return layers * layer + logits


def _kept(method: Method, size: int, alone: int, adapted: int) -> int:
    """Bytes of 16-bit activations; adapters keep inputs and dropout masks of their own."""
    return size * (alone if method == "full" else alone + adapted)


def _number(config: dict[str, Any], names: tuple[str, ...]) -> int:
    return next((config[n] for n in names if isinstance(config.get(n), int)), 0)
