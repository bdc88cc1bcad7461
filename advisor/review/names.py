"""Names and types: every argument of the file becomes one that the installed class takes."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from advisor import own_arguments, training_arguments
from advisor.argument_checks import NEVER_WRITTEN, is_code, is_secret, nearest_names
from advisor.errors import words
from advisor.locale import Message
from advisor.review import former
from advisor.review.finding import Draft

LOG_IN = words("training_arguments.remove_token")


def known_fields() -> dict[str, training_arguments.Field]:
    """The fields of all three classes."""
    return {**own_arguments.fields(), **training_arguments.fields()}


def mend_names(draft: Draft) -> None:
    """Names that no class has: earlier ones are converted, the others left out."""
    for name, value in list(draft.values.items()):
        if not _is_finite(value):
            draft.mend("error", name, words("review.not_finite"), {name: None})
    given = {name: value for name, value in draft.values.items() if value is not None}
    for name, value in list(draft.values.items()):
        if is_code(name):
            draft.mend("error", name, words("review.code"), {name: None})
        elif name in NEVER_WRITTEN:
            _mend_never_written(draft, name, value)
        elif is_secret(name, value):
            draft.mend("error", name, words("review.secret"), {name: None}, LOG_IN)
        elif name in training_arguments.RENAMED:
            _mend_former(draft, name, value, given)
        elif name not in known_fields():
            _mend_unknown(draft, name)


def _is_finite(value: Any) -> bool:
    """Whether JSON can hold the value: NaN and Infinity come through Python's reader."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _mend_never_written(draft: Draft, name: str, value: Any) -> None:
    if name == "hub_token":
        draft.mend("error", name, words("review.secret"), {name: None}, LOG_IN)
    elif value in (None, -1, 0):  # what to_dict() of a single process writes
        draft.values.pop(name)
    else:
        draft.mend("change", name, words("review.not_from_file"), {name: None})


def _mend_former(draft: Draft, name: str, value: Any, given: Mapping[str, Any]) -> None:
    """Convert one former argument; `given` is the file without its nulls, which say nothing."""
    changes: dict[str, Any] = {}
    for new, converted in former.CONVERSIONS[name](value, given).items():
        old = given.get(new)
        if new not in given or _gives_way(name, old):
            changes[new] = converted
        elif isinstance(converted, dict) and isinstance(old, dict):
            changes[new] = {**converted, **old}
    last = former.last_releases().get(name)
    if name.startswith("gradient_checkpointing"):
        text = words("review.alias")
    elif last is None:
        text = words("review.neighbour")
    else:
        text = words("review.former", last=last, version=training_arguments.TRANSFORMERS_VERSION)
    is_lost = name == "warmup_ratio" and not changes and not given.get("warmup_steps") and value
    do = training_arguments.RENAMED[name]
    draft.mend("error" if is_lost else "change", name, text, {name: None, **changes}, do)


def _gives_way(name: str, new_value: Any) -> bool:
    """Whether the former argument held in its releases, though today's name is there too."""
    if name == "warmup_ratio":  # it is converted only where warmup_steps is 0, as to_dict() wrote
        return True
    if name in ("per_gpu_train_batch_size", "per_gpu_eval_batch_size"):  # the first that was set
        return True
    return name == "adafactor" and new_value in ("adamw_torch", "adamw_hf")


def _mend_unknown(draft: Draft, name: str) -> None:
    if name in former.EXAMPLE_SCRIPTS:
        draft.mend("warning", name, words("review.example_script"), {name: None})
        return
    nearest = nearest_names(name, (*known_fields(), *training_arguments.RENAMED))
    text = words("review.nearest", names=nearest) if nearest else words("review.unknown")
    draft.mend("error", name, text, {name: None})


def mend_types(draft: Draft) -> None:
    """Values that the field cannot hold: converted where their meaning is plain, else left out."""
    for name, value in list(draft.values.items()):
        known = known_fields()[name]

        def problem(v: Any, known: training_arguments.Field = known) -> Message | None:
            return training_arguments.problem(
                known.name, v, known.type, known.choices, known.default
            )

        wrong = problem(value)
        if wrong is None:
            continue
        if name in former.VALUES and _is_key(value, former.VALUES[name]):
            new = former.VALUES[name][value]
            draft.mend("change", name, words("review.former_value"), {name: new})
            continue
        rule = wrong.params.get("rule")
        text = words("review.rule", rule=rule) if rule else words("review.problem", problem=wrong)
        fits = (v for v in _meanings(value, known) if problem(v) is None)
        meant = next(fits, None)
        if meant is None and value not in (None, "", "None", "null"):
            do = words("training_arguments.leave_out_default", default=json.dumps(known.default))
            draft.mend("error", name, text, {name: None}, do)
        else:
            draft.mend("error", name, text, {name: meant})


def _is_key(value: Any, table: Mapping[Any, Any]) -> bool:
    return isinstance(value, (str, bool, type(None))) and value in table


def _meanings(value: Any, known: training_arguments.Field) -> Iterator[Any]:
    """What a value of another type most likely says, most literal first."""
    if isinstance(value, str):
        text = value.strip()
        with contextlib.suppress(ValueError):
            inner = json.loads(text.lower())
            yield inner
            if isinstance(inner, float) and inner.is_integer():
                yield int(inner)
        yield text.lower().rpartition(".")[2]  # "IntervalStrategy.STEPS"
        if text:
            yield [text]
        if text.lower() in ("", "none"):
            yield None
    elif isinstance(value, bool):
        return
    elif isinstance(value, float) and value.is_integer():
        yield int(value)
    if value in (0, 1) and "bool" in known.type:
        yield bool(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield " ".join(value)
