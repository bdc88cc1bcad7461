"""Values that load and run, beside those that the rules give for this model and data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from advisor import units
from advisor.errors import words
from advisor.locale import Message
from advisor.recommendation import Advice, Recommendation
from advisor.review.finding import Finding, to_do
from advisor.review.names import known_fields
from advisor.rules import learning
from advisor.rules.advice import rate_reason
from advisor.rules.facts import Facts

FAR_RATE = 3
"""A learning rate this many times another is another one; below, runs hardly differ."""
FAR_BATCH = 4
"""The same of the effective batch: the rate for it moves by its square root, a factor of 2."""


def suggestions(
    arguments: Mapping[str, Any], recommendation: Recommendation
) -> tuple[Finding, ...]:
    """Findings on values far from the recommended ones; nothing where there is no plan.

    Args:
        arguments: the mended arguments.
        recommendation: for the same model, data and method, with nothing pinned.
    """
    plan = recommendation.plan
    if plan is None:
        return ()
    advice = {a.field: a for a in recommendation.advice}
    found = [
        _rate(arguments, recommendation, advice["learning_rate"]),
        _batch(arguments, recommendation, advice["effective_batch_size"]),
        _warmup(arguments, recommendation, advice["warmup_steps"]),
        _precision(arguments, advice),
        _length(arguments, advice["max_length"]),
    ]
    return tuple(finding for finding in found if finding is not None)


def _got(arguments: Mapping[str, Any], name: str) -> Any:
    return arguments.get(name, known_fields()[name].default)


def _better(
    arguments: Mapping[str, Any], name: str, changes: dict[str, Any], advice: Advice, value: str
) -> Finding:
    if name in arguments:
        text = words("review.better", value=value)
    else:
        text = words("review.better_than_default", value=value)
    return Finding(
        severity="advice",
        field=name,
        got=arguments.get(name),
        text=text,
        do=to_do(changes),
        replacement=changes,
        reason=advice.reason,
        reference=advice.reference,
    )


def _effective(arguments: Mapping[str, Any], devices: int) -> int:
    micro = _got(arguments, "per_device_train_batch_size")
    return micro * _got(arguments, "gradient_accumulation_steps") * devices


def _facts(recommendation: Recommendation, task: str) -> Facts:
    return Facts(
        machine=recommendation.machine,
        model=recommendation.model,
        data=recommendation.data,
        task=task,
    )


def _rate(
    arguments: Mapping[str, Any], recommendation: Recommendation, advice: Advice
) -> Finding | None:
    """The rate is judged at the batch and for the optimizer of the file, not at ours.

    SGD has no recipe, so that none of its rates is far from one.
    """
    plan = recommendation.plan
    assert plan is not None
    facts, batch = _facts(recommendation, plan.task), _effective(arguments, plan.devices)
    rate = learning.learning_rate(facts, plan.method, batch, _got(arguments, "optim"))
    given, best = _got(arguments, "learning_rate"), rate.value
    if rate.kind == "sgd" or best / FAR_RATE <= given <= best * FAR_RATE:
        return None
    reason, _, reference = rate_reason(rate)
    advice = dataclasses.replace(advice, reason=reason, reference=reference)
    value = units.format_learning_rate(given)
    return _better(arguments, "learning_rate", {"learning_rate": best}, advice, value)


def _batch(
    arguments: Mapping[str, Any], recommendation: Recommendation, advice: Advice
) -> Finding | None:
    plan = recommendation.plan
    assert plan is not None
    given, best = _effective(arguments, plan.devices), advice.value
    if best / FAR_BATCH < given < best * FAR_BATCH:
        return None
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    changes = {name: getattr(plan, name) for name in names}
    name = names[1] if names[1] in arguments else names[0]
    finding = _better(arguments, name, changes, advice, "")
    return dataclasses.replace(finding, text=words("review.batch", given=given, best=best))


def _warmup(
    arguments: Mapping[str, Any], recommendation: Recommendation, advice: Advice
) -> Finding | None:
    """The recipe of the file's optimizer says whether there is a warm-up."""
    plan = recommendation.plan
    assert plan is not None
    facts, optim = _facts(recommendation, plan.task), _got(arguments, "optim")
    if optim != plan.optim:
        updates = plan.optimizer_steps(facts.num_rows())
        plan = plan.replace(warmup_steps=learning.warmup_steps(facts, plan.method, updates, optim))
        params = {"steps": plan.warmup_updates(facts.num_rows())}
        reason = Message(id="why.warmup_steps", params=params)
        advice = dataclasses.replace(advice, value=plan.warmup_steps, reason=reason)
    given, schedule = _got(arguments, "warmup_steps"), _got(arguments, "lr_scheduler_type")
    if given or not advice.value:
        return None
    changes = {"warmup_steps": advice.value}
    if schedule == "constant":  # it has no warm-up, whatever warmup_steps says
        changes["lr_scheduler_type"] = "constant_with_warmup"
    return _better(arguments, "warmup_steps", changes, advice, "0")


def _precision(arguments: Mapping[str, Any], advice: Mapping[str, Advice]) -> Finding | None:
    if _got(arguments, "bf16") or _got(arguments, "fp16"):
        return None
    for name in ("bf16", "fp16"):
        if name in advice and advice[name].value is True:
            if _got(arguments, "use_cpu"):
                return None
            return _better(arguments, name, {name: True}, advice[name], "false")
    return None


def _length(arguments: Mapping[str, Any], advice: Advice) -> Finding | None:
    """A limit that cuts rows which the recommended one keeps."""
    if "max_seq_length" not in arguments or arguments["max_seq_length"] >= advice.value:
        return None
    changes = {"max_seq_length": advice.value}
    value = str(arguments["max_seq_length"])
    return _better(arguments, "max_seq_length", changes, advice, value)
