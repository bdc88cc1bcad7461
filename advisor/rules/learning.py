"""Effective batch, learning rate, epochs, schedule: what decides how well it learns.

R-BS-03, R-LR-01, R-LR-04, R-LR-05, R-LR-08, R-LR-09, R-LR-12, R-LR-13, R-EP.
"""

import math
from dataclasses import dataclass

from advisor.locale import Message
from advisor.plan import Method
from advisor.rules import optimizer
from advisor.rules.facts import Facts
from advisor.tasks import Recipe, find_trainable_task

MIN_UPDATES = 300
"""A run needs hundreds of updates (arXiv 2006.05987); the number is a judgement."""


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """A learning rate and where it comes from."""

    value: float
    base: Recipe
    base_rate: float
    """The recipe's for a model of this size."""
    factor: float
    """What the scaling from the recipe's batch made of it."""
    kind: optimizer.Kind = "adam"


_ADAFACTOR_T5 = Recipe(
    learning_rates=((math.inf, 1e-3),),
    effective_batch_size=128,
    epochs=((math.inf, 3.0),),
    warmup_steps=0,
    lr_scheduler_type="constant",
    weight_decay=0.0,
    reference="Raffel et al. 2020 (arXiv 1910.10683), fine-tuning with Adafactor",
)


def recipe(facts: Facts, method: Method, optim: str = optimizer.DEFAULT) -> Recipe:
    """The task's recipe for this kind of run."""
    recipes = find_trainable_task(facts.task).recipes
    assert recipes is not None
    if optimizer.kind(facts, optim) == "adafactor_t5":
        return _ADAFACTOR_T5
    if facts.from_scratch(method):
        return recipes.scratch
    return recipes.full if method == "full" else recipes.lora


def effective_batch_size(facts: Facts, method: Method, epochs: float) -> tuple[int, Message]:
    """Recipe's batch, halved until the run has MIN_UPDATES updates, at least 8.

    The task's recipe for every optimizer: those that are tried in turn share one batch, and
    `learning_rate` scales an optimizer's own recipe to it.
    """
    size = recipe(facts, method).effective_batch_size
    wanted = size
    while size > 8 and facts.num_rows() * epochs / size < MIN_UPDATES:
        size //= 2
    if size < wanted:
        return size, Message(id="batch.steps", params={"wanted": wanted, "updates": MIN_UPDATES})
    return size, Message(id="batch.recipe", params={"size": size})


def epochs(facts: Facts, method: Method) -> float:
    """R-EP: by number of rows, for every optimizer."""
    return recipe(facts, method).num_train_epochs(facts.num_texts())


def learning_rate(
    facts: Facts, method: Method, batch: int, optim: str = optimizer.DEFAULT
) -> LearningRate:
    """Recipe's rate times sqrt(batch / recipe's batch), the ratio clamped to [1/8, 8].

    Source: Malladi et al. 2022, arXiv 2205.10287. SGD goes with the ratio itself (Goyal et al.
    2017, arXiv 1706.02677).
    """
    base = recipe(facts, method, optim)
    which = optimizer.kind(facts, optim)
    ratio = min(max(batch / base.effective_batch_size, 1 / 8), 8)
    factor, rate = optimizer.factor(which, ratio), base.learning_rate(facts.model.num_parameters)
    value = float(f"{rate * factor:.1e}")
    return LearningRate(value=value, base=base, base_rate=rate, factor=factor, kind=which)


def adam_beta2(facts: Facts, method: Method, batch: int) -> float:
    """R-LR-05: below an eighth of the recipe's batch keep the half-life in rows.

    Source: Marek et al. 2025, arXiv 2507.07101.
    """
    base = recipe(facts, method).effective_batch_size
    return 0.999 if batch >= base / 8 else round(0.999 ** (batch / base), 6)


def warmup_steps(
    facts: Facts, method: Method, updates: int, optim: str = optimizer.DEFAULT
) -> float:
    """The recipe's share, at least ten updates of a run that has a hundred."""
    base = recipe(facts, method, optim)
    if base.lr_scheduler_type == "constant":
        return 0.0
    share = base.warmup_steps
    if share * updates < 10:
        return float(min(10, max(updates // 10, 1)))
    return share
