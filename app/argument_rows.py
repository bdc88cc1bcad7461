"""Every argument as a row: value, default, advice, and whether and how it is set. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from advisor import own_arguments, records, training_arguments
from advisor.argument_checks import NEVER_WRITTEN
from advisor.arguments import CONSTANTS, QUANTIZATION_NAMES
from advisor.errors import InputError
from advisor.locale import catalogue, render
from advisor.pins import check_pins
from advisor.recommend import Question
from advisor.recommendation import Advice, Recommendation
from advisor.review.pins import QUESTION_NAMES, pin_name
from app.texts import PACKAGE, t

SHOWS = ("advised", "changed", "pinned", "all")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One argument of the three classes."""

    field: training_arguments.Field
    value: Any
    """As the arguments file holds it; the default where it is not written."""
    written: bool
    """Whether the arguments file names it."""
    pin: str | None
    """The pin that holds it; None where it is not set here."""
    pinned: bool
    advice: Advice | None
    why: str
    """The reason of the value, or why it cannot be set here; empty where there is none."""

    @property
    def name(self) -> str:
        """The argument, as TrainingArguments spells it."""
        return self.field.name

    @property
    def changed(self) -> bool:
        """Whether the value differs from the class's default."""
        return self.value != self.field.default


def rows(
    recommendation: Recommendation | None,
    written: Mapping[str, Any],
    asked: Question,
    lang: str,
) -> tuple[Row, ...]:
    """All arguments in the order of the classes, the model's and the data's first.

    Args:
        recommendation: the last answer; None before there is one.
        written: the arguments file of that answer; empty where there is none.
        asked: the question, for its pins.
        lang: en or zh.
    """
    advice = {a.field: a for a in recommendation.advice} if recommendation else {}
    known = {**own_arguments.fields(), **training_arguments.fields()}
    return tuple(_row(field, advice, written, asked, lang) for field in known.values())


def _row(
    field: training_arguments.Field,
    advice: Mapping[str, Advice],
    written: Mapping[str, Any],
    asked: Question,
    lang: str,
) -> Row:
    pin = "method" if field.name == "method" else pin_name(field.name)
    held = pin in asked.pins or (pin == "method" and asked.method != "auto")
    found = advice.get(pin) if pin else None
    value = written.get(field.name, field.default)
    if not written and pin in asked.pins:
        value = records.encode(asked.pins[pin])
    if found is not None:
        why = render(found.reason, lang)
    elif held:
        why = t("arguments.set", lang)
    elif pin is None:
        why = t(_locked(field.name), lang)
    elif field.name in CONSTANTS and field.name in written:
        why = t("arguments.constant", lang)
    else:
        why = ""
    return Row(
        field=field,
        value=value,
        written=field.name in written,
        pin=pin,
        pinned=held,
        advice=found,
        why=why,
    )


def _locked(name: str) -> str:
    """Why an argument is not set here."""
    if name in NEVER_WRITTEN:
        return "arguments.locked.never"
    if name in training_arguments.RENAMED:
        return "arguments.locked.alias"
    if name in QUESTION_NAMES:
        return "arguments.locked.question"
    if name in QUANTIZATION_NAMES:
        return "arguments.locked.method"
    return "arguments.locked.follows"


def chosen(
    every: tuple[Row, ...], *, search: str = "", group: str | None = None, show: str = "all"
) -> tuple[Row, ...]:
    """The rows that the filters leave, in their order."""
    wanted = search.strip().lower()

    def fits(row: Row) -> bool:
        if group is not None and row.field.group != group:
            return False
        if show == "advised" and row.advice is None:
            return False
        if show == "changed" and not row.changed:
            return False
        if show == "pinned" and not row.pinned:
            return False
        text = f"{row.name} {text_of(row.value)} {row.why} {row.field.help}".lower()
        return all(word in text for word in wanted.split())

    return tuple(row for row in every if fits(row))


def frame(shown: tuple[Row, ...], lang: str) -> pd.DataFrame:
    """The rows as the table shows them."""
    columns = ("group", "argument", "value", "default", "why", "type")
    values = [
        (
            group_name(row.field.group, lang),
            row.name,
            text_of(row.value),
            text_of(row.field.default) if row.changed else "=",
            row.why,
            row.field.type,
        )
        for row in shown
    ]
    table = pd.DataFrame(values, columns=[t(f"arguments.{c}", lang) for c in columns])
    marks = [t("arguments.pinned", lang) if row.pinned else "" for row in shown]
    table.insert(0, t("arguments.pin", lang), marks)
    return table


def group_name(group: str, lang: str) -> str:
    """A section of the class in the reader's language; in English the class's own words."""
    key = f"group.{group}"
    return t(key, lang) if key in catalogue(PACKAGE, lang) else group


def text_of(value: Any) -> str:
    """A JSON value as it is typed: text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parse(row: Row, text: str) -> Any:
    """What somebody typed, as a value of the field.

    Raises:
        InputError: the field, or the plan, cannot hold it.
    """
    field = row.field
    value: Any = text.strip()
    takes_text = "str" in training_arguments.options(field.type)
    try:
        value = json.loads(value)
    except ValueError:
        if value in ("True", "False", "None"):
            value = {"True": True, "False": False, "None": None}[value]
    else:
        if takes_text and isinstance(value, (int, float)) and not isinstance(value, bool):
            is_number = {"int", "float"} & set(training_arguments.options(field.type))
            value = value if is_number else text.strip()
    wrong = training_arguments.problem(field.name, value, field.type, field.choices, field.default)
    if wrong:
        raise InputError("pins.wrong_value", problem=wrong, field=field.name)
    assert row.pin is not None
    check_pins({row.pin: value})
    return value


def kinds(field: training_arguments.Field) -> tuple[Any, ...] | None:
    """All values of a field that is chosen, not typed; None for the others."""
    allowed = set(training_arguments.options(field.type))
    empty: tuple[Any, ...] = (None,) if "None" in allowed else ()
    if field.choices and allowed <= {"str", "None"}:
        return (*field.choices, *empty)
    if allowed <= {"bool", "None"}:
        return (True, False, *empty)
    return None
