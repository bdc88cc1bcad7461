"""The rules and the pins become a plan; search.py tries several of them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from advisor.errors import PlanError
from advisor.pins import LORA_FIELDS, PLAN_FIELDS
from advisor.plan import LoraSettings, Method, TrainingPlan
from advisor.rules import cadence, learning, optimizer, precision
from advisor.rules.facts import Facts

LEAST_BLOCK = 1024
"""Tokens of a packed block where the model has room for it."""
LONGEST_WITHOUT_CONTEXT = 2048


def base_plan(
    facts: Facts, method: Method, pins: Mapping[str, Any], batch: int, micro: int
) -> TrainingPlan:
    """The plan the rules make for a method, an effective batch and a micro-batch, pins applied.

    Raises:
        PlanError: the pins cannot run together.
    """
    max_length = pins.get("max_length") or default_length(facts, pins)
    on_all = micro * pins.get("devices", 1)
    accumulation = pins.get("gradient_accumulation_steps") or max(batch // on_all, 1)
    values: dict[str, Any] = {
        "task": facts.task,
        "method": method,
        "lora": None if method == "full" else _lora(pins),
        "quantization": precision.quantization(facts) if method == "qlora" else None,
        "max_length": max_length,
        "use_cpu": facts.gpu() is None,
        "attention_mask": needs_padding(facts, pins, micro, max_length),
        "attn_implementation": "sdpa" if facts.model.has_sdpa else "eager",
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        **precision.values(facts, method),
    }
    held = {k: v for k, v in pins.items() if k in PLAN_FIELDS and k not in ("method", "lora")}
    values.update(held)
    if held.get("fp16"):
        values["bf16"] = held.get("bf16", False)
    if held.get("bf16"):
        values["fp16"] = held.get("fp16", False)
    epochs = pins.get("num_train_epochs") or learning.epochs(facts, method)
    values["num_train_epochs"] = None if values.get("max_steps", -1) > 0 else epochs
    shape = TrainingPlan(**values)
    updates = shape.optimizer_steps(facts.num_rows())
    effective = shape.effective_batch_size()
    optim = held.get("optim", optimizer.DEFAULT)
    rate = learning.learning_rate(facts, method, effective, optim)
    rows = facts.rows()
    padding = 0.0
    if rows is not None and needs_padding(facts, pins, micro, max_length):
        padding = rows.padding_share(micro, max_length)
    evaluation = cadence.evaluation(facts, updates, effective)
    rules: dict[str, Any] = {
        "learning_rate": rate.value,
        "weight_decay": rate.base.weight_decay,
        "max_grad_norm": rate.base.max_grad_norm,
        "lr_scheduler_type": rate.base.lr_scheduler_type,
        "warmup_steps": learning.warmup_steps(facts, method, updates, optim),
        "adam_beta2": learning.adam_beta2(facts, method, effective),
        "optim": optim,
        "logging_steps": cadence.logging_steps(updates),
        **evaluation,
        **cadence.saving(updates, evaluation["eval_steps"]),
        **cadence.loading(facts, updates, padding),
    }
    merged: dict[str, Any] = {**values, **{k: v for k, v in rules.items() if k not in held}}
    if merged["dataloader_num_workers"] == 0:
        merged.update(dataloader_prefetch_factor=None, dataloader_persistent_workers=False)
    merged["logging_steps"] = min(merged["logging_steps"], max(updates // 10, 1))
    return TrainingPlan(**merged)


def default_length(facts: Facts, pins: Mapping[str, Any]) -> int:
    """No row is cut: the longest row rounded up to 16, within the model's context.

    Packed blocks are at least LEAST_BLOCK long, so that short rows fill them.
    """
    context = facts.model.max_position_embeddings or LONGEST_WITHOUT_CONTEXT
    if facts.data is None:
        return min(context, LONGEST_WITHOUT_CONTEXT)
    longest = -(-facts.data.max_tokens // 16) * 16
    return min(context, max(longest, LEAST_BLOCK) if pins.get("packing") else longest)


def needs_padding(facts: Facts, pins: Mapping[str, Any], micro: int, max_length: int) -> bool:
    """Whether batches of `micro` rows are padded."""
    return micro > 1 and not pins.get("padding_free") and facts.lengths_differ(max_length)


def packed(facts: Facts, pins: Mapping[str, Any]) -> Facts:
    """The facts with their rows packed, where that is pinned."""
    if not pins.get("packing"):
        return facts
    length = pins.get("max_length") or default_length(facts, pins)
    return dataclasses.replace(facts, block_length=length)


def _lora(pins: Mapping[str, Any]) -> LoraSettings:
    held = {k.removeprefix("lora."): v for k, v in pins.items() if k in LORA_FIELDS}
    if isinstance(held.get("target_modules"), list):
        held["target_modules"] = tuple(held["target_modules"])
    return LoraSettings(**held)


def effective_batch(facts: Facts, method: Method, pins: Mapping[str, Any]) -> int:
    """Rows an update: pinned, or both of its factors pinned, or the rule's.

    Raises:
        PlanError: the pinned factors do not make the pinned product.
    """
    micro = pins.get("per_device_train_batch_size")
    accumulation = pins.get("gradient_accumulation_steps")
    devices = pins.get("devices", 1)
    wanted = pins.get("effective_batch_size")
    if wanted is not None:
        factors = {
            "per_device_train_batch_size": micro or 1,
            "gradient_accumulation_steps": accumulation or 1,
            "devices": devices,
        }
        for name, part in factors.items():
            if wanted % part:
                raise PlanError("solve.not_divisible", part=part, wanted=wanted, field=name)
        product = math.prod(factors.values())
        is_whole = micro is not None and accumulation is not None
        if wanted % product or (is_whole and wanted != product):
            raise PlanError(
                "solve.product",
                micro=micro or 1,
                accumulation=accumulation or 1,
                devices=devices,
                wanted=wanted,
                field="effective_batch_size",
            )
        return wanted
    if micro is not None and accumulation is not None:
        return micro * accumulation * devices
    epochs = pins.get("num_train_epochs") or learning.epochs(facts, method)
    size = learning.effective_batch_size(facts, method, epochs)[0]
    for part in (micro, accumulation):
        if part is not None and size % part:
            size = max(size // part, 1) * part
    return -(-size // devices) * devices


def micro_batches(batch: int, pins: Mapping[str, Any]) -> list[int]:
    """Divisors of a device's share of the effective batch, largest first."""
    batch = max(batch // pins.get("devices", 1), 1)
    held = pins.get("per_device_train_batch_size")
    if held is not None:
        return [held]
    accumulation = pins.get("gradient_accumulation_steps")
    if accumulation is not None:
        return [batch // accumulation]
    return [m for m in range(batch, 0, -1) if batch % m == 0]
