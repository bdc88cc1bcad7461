"""Typed access to the URL and the session: the only module that knows their keys.

The question and the chosen run live in the URL, so that a link opens the same page; the session
keeps a copy, because a click on another page drops the parameters.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from advisor.locale import LANGUAGES
from advisor.plan import Method, TrainingPlan
from advisor.recommend import Question
from advisor.recommendation import Recommendation
from advisor.review import Review
from advisor.rules.facts import Facts
from app.cache import Asking

_TEXT = ("model", "data", "task", "text_column", "label_column", "validation", "machine")
_CHOICES = {"method": ("auto", "full", "lora", "qlora"), "goal": ("fastest", "smallest")}
_KEYS = (*_TEXT, *_CHOICES, "pin")
MAX_URL_TEXT = 1000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question with its recommendation."""

    question: Question
    recommendation: Recommendation
    rest: Asking | None = None
    """Has the plans beside the chosen one later; None where they are there."""


def language() -> str:
    """En or zh: what the reader switched to, else the browser's."""
    chosen = st.query_params.get("lang") or st.session_state.get("language")
    if chosen in LANGUAGES:
        st.session_state["language"] = chosen
        return chosen
    return "zh" if (st.context.locale or "").lower().startswith("zh") else "en"


def set_language(lang: str) -> None:
    """Show every page in `lang` from now on."""
    st.session_state["language"] = lang
    st.query_params["lang"] = lang


def mode() -> str:
    """Light or dark, as the browser shows the page now."""
    return st.context.theme.type or "light"


def question() -> Question:
    """The question in the URL; without one there, the last of this session, else the demo."""
    if any(key in st.query_params for key in _KEYS):
        asked = _parse()
    else:
        asked = st.session_state.get("question", Question())
        _write(asked)
    st.session_state["question"] = asked
    return asked


def change_question(**changes: Any) -> None:
    """Ask something else from the next run on; call it from a widget's callback."""
    asked = replace(question(), **changes)
    st.session_state["question"] = asked
    _write(asked)


def pin(field: str, value: Any) -> None:
    """Hold a value; the method is part of the question, and steps and epochs exclude each other."""
    if field == "method":
        change_question(method=value)
        return
    pins = {**question().pins, field: value}
    other = {"max_steps": "num_train_epochs", "num_train_epochs": "max_steps"}.get(field)
    change_question(pins={k: v for k, v in pins.items() if k != other})


def unpin(field: str) -> None:
    """Let the advisor choose the value again."""
    if field == "method":
        change_question(method="auto")
    change_question(pins={k: v for k, v in question().pins.items() if k != field})


def apply_pins(pins: Mapping[str, Any]) -> None:
    """Hold all values of another plan at once."""
    held = {k: v for k, v in pins.items() if k != "method"}
    method = pins.get("method", question().method)
    change_question(method=method, pins={**question().pins, **held})


def is_pinned(asked: Question, field: str) -> bool:
    """Whether the reader holds this value."""
    return field in asked.pins or (field == "method" and asked.method != "auto")


def last_answer() -> Answer | None:
    """The last good answer of this session."""
    return st.session_state.get("answer")


def keep_answer(answer: Answer, values: dict[str, str]) -> None:
    """Remember an answer and how its rows read, so that the next one can say what moved."""
    last = last_answer()
    if last is None or last.question != answer.question:
        st.session_state["was"] = st.session_state.get("values", {})
    st.session_state["answer"] = answer
    st.session_state.pop("given_up", None)
    asked, found = answer.question, answer.recommendation
    task = found.plan.task if found.plan else asked.task or TrainingPlan.task
    facts = Facts(machine=found.machine, model=found.model, data=found.data, task=task)
    known = {(asked.model, asked.machine): facts.methods()}
    st.session_state["methods"] = st.session_state.get("methods", {}) | known
    st.session_state["values"] = values


def methods(asked: Question) -> tuple[Method, ...]:
    """What the last answer said can be asked for; a model not answered for yet may have weights."""
    likely = ("full",) if asked.model == "demo" else ("full", "lora")
    return st.session_state.get("methods", {}).get((asked.model, asked.machine), likely)


def forget_answer() -> None:
    """Solve again at the next run, e.g. after the machine was probed anew.

    What was worked out from the answer goes with it.
    """
    for name in ("answer", "given_up", "sweep", "elsewhere"):
        st.session_state.pop(name, None)


def asking() -> Asking | None:
    """What this session asked last."""
    return st.session_state.get("asking")


def keep_asking(asked: Asking) -> None:
    """Remember what is being worked out for this session, so that it can be given up."""
    st.session_state["asking"] = asked


def give_up(asked: Question) -> None:
    """Go back to the last answer's question; without one, leave `asked` open."""
    last = last_answer()
    if last is None:
        st.session_state["given_up"] = asked
    else:
        st.session_state["question"] = last.question
        _write(last.question)


def is_given_up(asked: Question) -> bool:
    """Whether the reader gave this question up and nothing else was asked since."""
    return st.session_state.get("given_up") == asked


def sweep(
    asked: Question,
    plan: TrainingPlan,
    compute: Callable[[Question, TrainingPlan], tuple[Any, ...]],
) -> tuple[Any, ...]:
    """The map's cells for this question and plan, computed once per change."""
    kept = st.session_state.get("sweep")
    if kept is None or kept[0] != (asked, plan):
        kept = ((asked, plan), compute(asked, plan))
        st.session_state["sweep"] = kept
    return kept[1]


def was(field: str) -> str | None:
    """How the row read before the last change of the question."""
    return st.session_state.get("was", {}).get(field)


def selected_run() -> str | None:
    """Name of the run directory the URL asks for, else the last one opened in this session."""
    name = st.query_params.get("run") or st.session_state.get("run")
    if name is not None:
        st.session_state["run"] = name
    return name


def select_run(name: str | None) -> None:
    """Show this run on Run."""
    if name is None:
        st.session_state.pop("run", None)
        return
    st.session_state["run"] = name


def allow_start(what: str = "run") -> None:
    """One run, or one proof, may be started, from what is drawn now."""
    st.session_state[f"may_start_{what}"] = True


def take_start(what: str = "run") -> bool:
    """Whether it may be started; a second click of a double click finds it taken."""
    return st.session_state.pop(f"may_start_{what}", False)


def open_dialog(name: str) -> None:
    """Have Plan show this dialog until it is closed, however often the page is drawn again."""
    st.session_state["dialog"] = name


def close_dialog() -> None:
    """Show no dialog from now on."""
    st.session_state.pop("dialog", None)


def dialog() -> str | None:
    """Name of the dialog that is open on Plan."""
    return st.session_state.get("dialog")


def compared_runs() -> list[str]:
    """Names of the runs that are selected on Runs: of the URL, else of this session."""
    names = st.query_params.get_all("compare") or st.session_state.get("compared", [])
    st.session_state["compared"] = names
    return names


def compare_runs(names: list[str]) -> None:
    """Select these runs; call it from a widget's callback.

    Those that stay selected keep their place, and with it their colour.
    """
    kept = [name for name in compared_runs() if name in names]
    names = [*kept, *(name for name in names if name not in kept)]
    st.session_state["compared"] = names
    if names:
        st.query_params["compare"] = names
    else:
        st.query_params.pop("compare", None)


def opened() -> Review | None:
    """The review of the arguments file that this session has open."""
    return st.session_state.get("opened")


def keep_opened(review: Review | None) -> None:
    """Show this review on Arguments; None closes it."""
    st.session_state["opened"] = review
    if review is not None:
        st.session_state["opened_files"] = opened_files() + 1


def opened_files() -> int:
    """How many arguments files this session has opened."""
    return st.session_state.get("opened_files", 0)


def keep_given_file(arguments: dict[str, Any] | None) -> None:
    """Have the page review these arguments; None when it has."""
    st.session_state["given_file"] = arguments


def given_file() -> dict[str, Any] | None:
    """The arguments that were read and not yet reviewed."""
    return st.session_state.get("given_file")


def refused_file() -> str | None:
    """Why the last file that was given could not be opened."""
    return st.session_state.get("refused_file")


def keep_refused_file(sentence: str | None) -> None:
    """Show why a file could not be opened; None forgets it."""
    st.session_state["refused_file"] = sentence


def refused_value() -> tuple[str, str, str] | None:
    """(argument, what was typed, why it was refused) of the last value that was."""
    return st.session_state.get("refused_value")


def keep_refused_value(refused: tuple[str, str, str] | None) -> None:
    """Show beside the field why its value was refused; None forgets it."""
    st.session_state["refused_value"] = refused


def notice() -> str | None:
    """A sentence an action left for the page, shown once."""
    return st.session_state.pop("notice", None)


def leave_notice(sentence: str) -> None:
    """Have the page show `sentence` at its next run."""
    st.session_state["notice"] = sentence


def _parse() -> Question:
    values: dict[str, Any] = {}
    for key in _TEXT:
        if text := st.query_params.get(key, "")[:MAX_URL_TEXT].strip():
            values[key] = text
    for key, allowed in _CHOICES.items():
        if st.query_params.get(key) in allowed:
            values[key] = st.query_params[key]
    pins = {}
    for item in st.query_params.get_all("pin"):
        field, _, text = item[:MAX_URL_TEXT].partition("=")
        if field and text:
            pins[field] = _value(text)
    return Question(**values, pins=pins)


def _write(asked: Question) -> None:
    """Bring the URL to the question; what is at its default is left out."""
    default = Question()
    for key in (*_TEXT, *_CHOICES):
        value = getattr(asked, key)
        if value is None or value == getattr(default, key):
            st.query_params.pop(key, None)
        else:
            st.query_params[key] = value
    pins = [f"{field}={_text(value)}" for field, value in asked.pins.items()]
    if pins:
        st.query_params["pin"] = pins
    else:
        st.query_params.pop("pin", None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
