"""Effective batch, learning rate, epochs, schedule: what decides how well it learns.

R-BS-03, R-LR-01, R-LR-04, R-LR-05, R-LR-08, R-LR-09, R-LR-12, R-LR-13, R-EP.
"""

import math
from dataclasses import dataclass

from advisor.locale import Message
from advisor.plan import Method
from advisor.rules import optimizer
from advisor.rules.facts import Facts
from advisor.tasks import Recipe

MIN_UPDATES = 300
"""A run needs hundreds of updates (arXiv 2006.05987); the number is a judgement."""


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """A learning rate and where it comes from."""

    value: float
    base: Recipe
    factor: float
    """What the scaling from the recipe's batch made of it."""
    kind: optimizer.Kind = "adam"


_SCRATCH = (  # parameters up to, rate: arXiv 2005.14165 table 2.1; below 100 M SmolLM's recipe
    (100e6, 1e-3),
    (200e6, 6e-4),
    (500e6, 3e-4),
    (1e9, 2.5e-4),
    (2e9, 2e-4),
    (5e9, 1.6e-4),
    (10e9, 1.2e-4),
    (math.inf, 1e-4),
)
_FULL = ((0.5e9, 1e-3), (2e9, 3e-4), (10e9, 1e-5), (math.inf, 5e-6))
"""SmolLM and SmolLM2 (alignment-handbook), LLaMA-Factory and ms-swift, Tulu 3."""


def _step(table: tuple[tuple[float, float], ...], size: float) -> float:
    return next(rate for limit, rate in table if size <= limit)


def recipe(facts: Facts, method: Method, optim: str = optimizer.DEFAULT) -> Recipe:
    """The base recipe of this kind of run."""
    if optimizer.kind(facts, optim) == "adafactor_t5":
        return Recipe(
            learning_rate=1e-3, effective_batch_size=128, num_train_epochs=3,
            warmup_steps=0, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
            reference="Raffel et al. 2020 (arXiv 1910.10683), fine-tuning with Adafactor",
        )  # fmt: skip
    size = facts.model.num_parameters
    if facts.from_scratch(method):
        return Recipe(
            learning_rate=_step(_SCRATCH, size), effective_batch_size=16, num_train_epochs=3,
            warmup_steps=0.03, lr_scheduler_type="cosine", weight_decay=0.1, max_grad_norm=1.0,
            reference="Brown et al. 2020 (arXiv 2005.14165) table 2.1; SmolLM recipes below 100 M",
        )  # fmt: skip
    if method == "full":
        return Recipe(
            learning_rate=_step(_FULL, size), effective_batch_size=64, num_train_epochs=2,
            warmup_steps=0.1, lr_scheduler_type="cosine", weight_decay=0.0, max_grad_norm=1.0,
            reference="alignment-handbook, LLaMA-Factory, ms-swift and Tulu 3 recipes",
        )  # fmt: skip
    return Recipe(
        learning_rate=2e-4 if size < 30e9 else 1e-4, effective_batch_size=16, num_train_epochs=2,
        warmup_steps=0.03, lr_scheduler_type="cosine", weight_decay=0.0, max_grad_norm=1.0,
        reference="QLoRA (arXiv 2305.14314), unsloth, axolotl; LoRA Without Regret (2025)",
    )  # fmt: skip


def effective_batch_size(facts: Facts, method: Method, epochs: float) -> tuple[int, Message]:
    """Recipe's batch, halved until the run has MIN_UPDATES updates, at least 8."""
    size = recipe(facts, method).effective_batch_size
    wanted = size
    while size > 8 and facts.num_rows() * epochs / size < MIN_UPDATES:
        size //= 2
    if size < wanted:
        return size, Message(id="batch.steps", params={"wanted": wanted, "updates": MIN_UPDATES})
    return size, Message(id="batch.recipe", params={"size": size})


def epochs(facts: Facts, method: Method) -> float:
    """R-EP: by number of rows (Muennighoff et al. 2023, Zhang et al. 2021, Tulu 3)."""
    rows = facts.num_texts()
    if facts.from_scratch(method):
        return 2.0 if rows < 100_000 else 1.0
    if rows < 10_000:
        return 3.0
    return 2.0 if rows < (1_000_000 if method == "full" else 100_000) else 1.0


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
    factor = optimizer.factor(which, ratio)
    value = float(f"{base.learning_rate * factor:.1e}")
    return LearningRate(value=value, base=base, factor=factor, kind=which)


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
