"""Field specs of the values on Plan: their order, how they read and are edited. Pure."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from advisor import units
from advisor.locale import catalogue
from advisor.plan import TrainingPlan
from advisor.recommendation import Advice
from app.texts import PACKAGE, TIMES, t


@dataclass(frozen=True, kw_only=True)
class Field:
    """How one plan field is shown and edited."""

    name: str
    """TrainingPlan field, dotted for a nested one, or a derived quantity."""
    widget: Literal["choice", "switch", "integer", "number"]
    main: bool = False
    """Stands beside the charts, not among the rest below."""
    options: tuple[Any, ...] = ()
    """Values of a choice when the advice itself offers none."""
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    format: str = "%d"
    """printf format of the number editor."""
    style: Literal["plain", "rate", "share_or_count", "tokens"] = "plain"


def _integer(name: str, *, minimum: int = 1, **kw: Any) -> Field:
    return Field(name=name, widget="integer", minimum=minimum, step=1, **kw)


def _number(name: str, *, minimum: float = 0.0, step: float, **kw: Any) -> Field:
    return Field(name=name, widget="number", minimum=minimum, step=step, **kw)


_SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial")
_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd")

FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field(name="method", widget="choice", main=True, options=("full", "lora")),
        _integer("effective_batch_size", main=True),
        _integer("per_device_train_batch_size", main=True),
        _integer("max_length", main=True, style="tokens"),
        Field(name="activation_checkpointing", widget="switch", main=True),
        Field(name="bf16", widget="switch", main=True),
        Field(name="fp16", widget="switch", main=True),
        Field(
            name="dtype",
            widget="choice",
            main=True,
            options=("float32", "bfloat16", "float16"),
        ),
        Field(name="optim", widget="choice", main=True, options=_OPTIMIZERS),
        _number(
            "learning_rate",
            main=True,
            minimum=1e-8,
            maximum=1.0,
            step=1e-5,
            format="%.1e",
            style="rate",
        ),
        Field(name="lr_scheduler_type", widget="choice", main=True, options=_SCHEDULES),
        _number("warmup_steps", main=True, step=0.01, format="%g", style="share_or_count"),
        _number("num_train_epochs", main=True, minimum=0.1, step=1.0, format="%g"),
        _integer("max_steps", main=True),
        _integer("lora.r", main=True),
        _integer("lora.lora_alpha"),
        _number("lora.lora_dropout", maximum=0.99, step=0.05, format="%.2f"),
        Field(name="lora.use_dora", widget="switch"),
        Field(name="lora.use_rslora", widget="switch"),
        _integer("gradient_accumulation_steps"),
        _integer("per_device_eval_batch_size"),
        Field(name="attn_implementation", widget="choice", options=("sdpa", "eager")),
        Field(name="tf32", widget="switch"),
        Field(name="packing", widget="switch"),
        _number("weight_decay", maximum=1.0, step=0.01, format="%g"),
        _number("adam_beta1", maximum=0.9999, step=0.01, format="%g"),
        _number("adam_beta2", maximum=0.99999, step=0.001, format="%g"),
        _number("adam_epsilon", maximum=1.0, step=1e-8, format="%.0e", style="rate"),
        _number("max_grad_norm", step=0.1, format="%g"),
        _integer("logging_steps"),
        Field(name="eval_strategy", widget="choice", options=("no", "steps", "epoch")),
        _integer("eval_steps"),
        Field(name="save_strategy", widget="choice", options=("no", "steps", "epoch")),
        _integer("save_steps"),
        _integer("save_total_limit"),
        _integer("dataloader_num_workers", minimum=0),
        Field(name="dataloader_pin_memory", widget="switch"),
        _integer("dataloader_prefetch_factor"),
        Field(name="dataloader_persistent_workers", widget="switch"),
        Field(
            name="train_sampling_strategy",
            widget="choice",
            options=("random", "sequential", "group_by_length"),
        ),
        _integer("seed", minimum=0),
    )
}
READ_ONLY = frozenset({"devices", "use_cpu", "task", "lora", "quantization", "attention_mask"})
"""Advice that follows from the question: shown, not edited here."""


def ordered(advice: Iterable[Advice]) -> tuple[list[Advice], list[Advice]]:
    """The rows beside the charts and the rest, each in the order of FIELDS; unknown ones last."""
    place = {name: i for i, name in enumerate(FIELDS)}
    rows = sorted(advice, key=lambda a: place.get(a.field, len(place)))
    main = [a for a in rows if a.field in FIELDS and FIELDS[a.field].main]
    return main, [a for a in rows if a not in main]


def label(name: str, lang: str) -> str:
    """The field in words; a field without a name of its own keeps its argument's."""
    key = f"field.{name}"
    return t(key, lang) if key in catalogue(PACKAGE, lang) else name


def format_value(name: str, value: Any, lang: str, plan: TrainingPlan | None = None) -> str:
    """A value as the page shows it.

    Args:
        name: the field.
        value: its value.
        lang: en or zh.
        plan: for the micro-batch, which reads as a product with its accumulation.
    """
    key = f"value.{name}.{value}"
    if isinstance(value, str) and key in catalogue(PACKAGE, lang):
        return t(key, lang)
    if value is None:
        return t("value.none", lang)
    if isinstance(value, bool):
        return t("value.on" if value else "value.off", lang)
    if name == "per_device_train_batch_size" and plan is not None:
        parts = [value, plan.gradient_accumulation_steps]
        return TIMES.join(str(p) for p in (*parts, *((plan.devices,) if plan.devices > 1 else ())))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    style = FIELDS[name].style if name in FIELDS else "plain"
    if isinstance(value, (int, float)):
        return _format_number(value, style)
    return str(value)


def _format_number(value: float, style: str) -> str:
    if style == "rate":
        return units.format_learning_rate(value)
    if style == "share_or_count" and 0 < value < 1:
        return f"{100 * value:g} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def length_options(longest_row: int | None, context: int | None, current: int) -> list[int]:
    """Where it makes sense to cut rows: powers of two up to the longest row or the model's context.

    Args:
        longest_row: tokens of the longest row; None where there is no data.
        context: the model's context length in tokens, None when unknown.
        current: the plan's own value, always among the options.
    """
    limit = context or 131_072
    if longest_row is not None:
        limit = min(limit, 1 << max(longest_row - 1, 1).bit_length())
    options = {current}
    power = 64
    while power <= limit:
        options.add(power)
        power *= 2
    return sorted(options)
