"""How runs differ: what was asked for, what was sent to the trainer, what it really used. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.run_texts import Run
from trainer import record

Level = Literal["asked", "sent", "effective"]
LEVELS: tuple[Level, ...] = ("asked", "sent", "effective")
_EFFECTIVE = {
    "weights_dtype": "dtype",
    "optimizer_class": "optim",
    "world_size": "devices",
}
"""What the trainer calls a fact -> the argument that asked for it."""
_OFF = "off"
_ALWAYS = (
    "dtype",
    "autocast",
    "attn_implementation",
    "optim",
    "effective_batch_size",
    "activation_checkpointing",
    "devices",
)
"""Where what is used is not simply what was sent; shown for every run."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One argument of some runs, as text; "" where a run does not have it."""

    level: Level
    name: str
    texts: tuple[str, ...]


def levels(run: Run) -> dict[Level, dict[str, str]]:
    """Each level's values of one run as text, under the names of the arguments."""
    directory = run.status.run_dir
    sent = record.read_object(directory / record.ARGUMENTS) or {}
    used = (record.read_object(directory / record.RECORD) or {}).get("effective") or {}
    plan = run.recommendation
    # Without a plan somebody wrote the arguments by hand: they are what was asked for.
    asked = sent if plan is None else {a.field: a.value for a in plan.advice if a.pinned}
    return {
        "asked": _text(_with_autocast(asked)),
        "sent": _text({**_batch(sent), **_with_autocast(sent)}),
        "effective": _text(
            {_EFFECTIVE.get(n, n): _OFF if v is None else v for n, v in used.items()}
        ),
    }


def differing(found: Sequence[Run]) -> list[Row]:
    """What is not the same in all these runs, level by level."""
    each = [levels(run) for run in found]
    rows = []
    for level in LEVELS:
        for name in sorted({name for values in each for name in values[level]}):
            texts = tuple(one[level].get(name, "") for one in each)
            if len(set(texts)) > 1:
                rows.append(Row(level=level, name=name, texts=texts))
    return rows


def of_one(run: Run) -> list[tuple[str, str, str, str]]:
    """(argument, asked, sent, effective) of what was asked for and of what the trainer recorded."""
    found = levels(run)
    asked = [] if run.recommendation is None else sorted(found["asked"])
    names = dict.fromkeys([*_ALWAYS, *asked, *found["effective"]])
    rows = []
    for name in names:
        first, second, third = (found[level].get(name, "") for level in LEVELS)
        if first or second or third:
            rows.append((name, first, second, third))
    return rows


def _with_autocast(values: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"bf16": "bfloat16", "fp16": "float16"}
    if not values.keys() & kinds:
        return dict(values)
    used = next((kind for name, kind in kinds.items() if values.get(name)), _OFF)
    return {**values, "autocast": used}


def _batch(sent: Mapping[str, Any]) -> dict[str, Any]:
    micro, times = (
        sent.get(n) for n in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    return {"effective_batch_size": micro * (times or 1)} if isinstance(micro, int) else {}


def _text(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in values.items()
        if value is not None
    }
