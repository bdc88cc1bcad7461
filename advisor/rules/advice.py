"""The chosen plan, field by field: value, reason, source, counterfactual, options."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from advisor import not_simulated, training_arguments
from advisor.locale import Message
from advisor.memory import MemoryEstimate
from advisor.plan import TrainingPlan
from advisor.recommendation import Advice, Source
from advisor.rules import learning, optimizer, precision
from advisor.rules.facts import Facts
from advisor.tasks import find_task

ORDER = (
    "method", "effective_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps",
    "activation_checkpointing", "dtype", "bf16", "fp16", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "optim", "num_train_epochs", "max_steps", "max_length", "packing",
    "weight_decay", "max_grad_norm", "adam_beta2", "per_device_eval_batch_size", "eval_strategy",
    "eval_steps", "save_strategy", "save_steps", "save_total_limit", "logging_steps",
    "dataloader_num_workers", "dataloader_pin_memory", "train_sampling_strategy",
    "attn_implementation",
)  # fmt: skip
"""Order of the rows on the page."""

_PLAN_FIELDS = frozenset(f.name for f in dataclasses.fields(TrainingPlan))

_OPTIONS: dict[str, tuple[Any, ...]] = {
    "activation_checkpointing": (True, False),
    "bf16": (True, False),
    "fp16": (True, False),
    "dtype": ("float32", "bfloat16", "float16"),
    "lr_scheduler_type": ("cosine", "linear", "constant_with_warmup"),
    "num_train_epochs": (1.0, 2.0, 3.0),
    "attn_implementation": ("sdpa", "eager"),
    "packing": (True, False),
    "eval_strategy": ("no", "steps", "epoch"),
    "save_strategy": ("no", "steps", "epoch"),
    "train_sampling_strategy": ("random", "group_by_length"),
}
_SIMULATED = (
    "method", "per_device_train_batch_size", "gradient_accumulation_steps",
    "activation_checkpointing",
    "optim", "per_device_eval_batch_size",
)  # fmt: skip
_READ = ("dtype", "bf16", "fp16", "max_length")


def advise(
    facts: Facts,
    plan: TrainingPlan,
    pins: Mapping[str, Any],
    others: Mapping[str, MemoryEstimate | Message],
) -> tuple[Advice, ...]:
    """One Advice for each argument of the plan.

    Args:
        facts: the question.
        plan: the chosen plan.
        pins: the user's.
        others: memory of neighbouring plans: "larger" (next micro-batch), "checkpointing"
            (switched), "method" (the other one), "optim" (AdamW in the place of another), or the
            sentence why it was not simulated; absent is unknown.
    """
    values: dict[str, Any] = {name: getattr(plan, name, None) for name in ORDER}
    values["effective_batch_size"] = plan.effective_batch_size()
    skip = "num_train_epochs" if plan.max_steps > 0 else "max_steps"
    result = []
    for name in ORDER:
        if name == skip or (name == "packing" and not find_task(plan.task).ends_texts):
            continue
        held = name in pins
        source: Source = (
            "user"
            if held
            else "simulated"
            if name in _SIMULATED
            else "read"
            if name in _READ
            else "rule"
        )
        reason, rule, reference = _reason(facts, plan, name)
        kept = name == "effective_batch_size" or values[name] == "sgd"
        if held and not kept:  # the contract and the warning are worth more than the remark
            reason, rule, reference = Message(id="why.pinned"), None, None
        result.append(
            Advice(
                field=name,
                value=values[name],
                reason=reason,
                source=source,
                counterfactual=_counterfactual(plan, name, others),
                pinned=held,
                rule=rule,
                reference=reference,
                options=_options(facts, plan, name, values[name]),
            )
        )
    return (*result, *(set_by_user(n, v) for n, v in pins.items() if is_outside(n)))


def is_outside(name: str) -> bool:
    """Whether a pin is of TrainingArguments alone: no plan holds it."""
    return name in training_arguments.fields() and name not in _PLAN_FIELDS


def set_by_user(name: str, value: Any) -> Advice:
    """The row of a pin that goes to the arguments as it is."""
    reason = not_simulated.reason(name, value)
    return Advice(field=name, value=value, reason=reason, source="user", pinned=True)


def _options(facts: Facts, plan: TrainingPlan, name: str, value: Any) -> tuple[Any, ...]:
    effective = plan.effective_batch_size()
    if name == "method":
        return facts.methods()
    if name == "optim":
        found = optimizer.choices(facts, plan.method)
        return found if value in found else (*found, value)
    if name == "effective_batch_size":
        return tuple(sorted({8, 16, 32, 64, 128, effective}))
    if name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        return tuple(d for d in (1, 2, 4, 8, 16, 32, 64) if effective % d == 0 and d <= effective)
    if name == "learning_rate":
        return tuple(sorted({float(f"{value * f:.1e}") for f in (0.25, 0.5, 1, 2, 4)}))
    found = _OPTIONS.get(name, ())
    return found if not found or value in found else (*found, value)


def _reason(facts: Facts, plan: TrainingPlan, name: str) -> tuple[Message, str | None, str | None]:
    """(sentence, id of the rule, where it was read)."""
    if name in ("dtype", "bf16", "fp16"):
        return precision.reason(facts, plan.method, name), "R-PR-01", precision.REFERENCE
    if name == "method":
        key = "scratch" if facts.from_scratch(plan.method) else plan.method
        return (
            Message(id=f"method.{key}", params={"parameters": facts.model.num_parameters}),
            None,
            None,
        )
    if name == "effective_batch_size":
        rows = facts.rows()
        mean = rows.mean_tokens_cut(plan.max_length) if rows else plan.max_length
        return (
            Message(id="contract.tokens", params={"tokens": plan.tokens_per_update(mean)}),
            "R-BS-03",
            learning.recipe(facts, plan.method).reference,
        )
    if name == "learning_rate":
        batch = plan.effective_batch_size()
        return rate_reason(learning.learning_rate(facts, plan.method, batch, plan.optim))
    if name == "attn_implementation" and not facts.model.has_sdpa:
        return Message(id="attention.eager"), None, None
    if name == "optim":
        found = optimizer.reason(plan.optim)
        return found.message, found.rule, found.reference
    if name == "max_length":
        if plan.packing:
            return Message(id="length.packed"), None, None
        share = facts.data.share_cut(plan.max_length) if facts.data else None
        key = "length.cut" if share else "length.whole"
        return Message(id=key, params={"share": share or 0.0}), None, None
    if name == "warmup_steps":
        steps = plan.warmup_updates(facts.num_rows())
        return Message(id="why.warmup_steps", params={"steps": steps}), "R-LR-12", None
    if name == "num_train_epochs":
        steps = plan.optimizer_steps(facts.num_rows())
        params = {"steps": steps, "rows": facts.num_rows()}
        return (
            Message(id="why.num_train_epochs", params=params),
            "R-EP",
            "Muennighoff et al. 2023; Zhang et al. 2021",
        )
    if name == "train_sampling_strategy":
        share = 0.0
        rows = facts.rows()
        if rows is not None and not plan.padding_free:
            share = rows.padding_share(plan.per_device_train_batch_size, plan.max_length)
        return Message(id="why.train_sampling_strategy", params={"share": share}), "R-DL-03", None
    if name == "activation_checkpointing":
        return (
            Message(id=f"checkpointing.{'on' if plan.activation_checkpointing else 'off'}"),
            None,
            None,
        )
    return Message(id=f"why.{name}"), None, None


def rate_reason(rate: learning.LearningRate) -> tuple[Message, str, str]:
    """Why a learning rate is what it is: (sentence, id of the rule, where it was read)."""
    if rate.kind in ("sgd", "lion"):
        rule = "R-LR-02" if rate.kind == "sgd" else "R-LR-10"
        return Message(id=f"rate.{rate.kind}"), rule, rate.base.reference
    key = "rate.recipe" if rate.factor == 1 else "rate.scaled"
    params = {"rate": rate.base_rate, "batch": rate.base.effective_batch_size}
    return Message(id=key, params=params), "R-LR-01", rate.base.reference


def _counterfactual(
    plan: TrainingPlan, name: str, others: Mapping[str, MemoryEstimate | Message]
) -> Message | None:
    key = {
        "per_device_train_batch_size": "larger",
        "activation_checkpointing": "checkpointing",
        "method": "method",
        "optim": "optim",
    }.get(name)
    memory = others.get(key) if key else None
    if isinstance(memory, Message):
        return memory
    if key is None or memory is None or memory.process_bytes is None:
        return None
    params: dict[str, Any] = {"peak": memory.process_bytes}
    if memory.capacity_bytes is not None and memory.process_bytes > memory.capacity_bytes:
        params["over"] = memory.process_bytes - memory.capacity_bytes
        return Message(id=f"other.{key}.over", params=_named(plan, key, params))
    return Message(id=f"other.{key}", params=_named(plan, key, params))


def _named(plan: TrainingPlan, key: str, params: dict[str, Any]) -> dict[str, Any]:
    if key == "larger":
        params["value"] = plan.per_device_train_batch_size * 2
    if key == "optim":
        params["name"] = optimizer.DEFAULT
    return params
