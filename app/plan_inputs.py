"""The three inputs of Plan: cards with facts, errors, and the way to change each."""

from typing import Any

import streamlit as st

from advisor.data import DataDescription
from advisor.errors import InputError
from advisor.hardware.catalogue import accelerator_names, machine_from_name
from advisor.locale import Message, render
from advisor.recommend import Question
from advisor.recommendation import Recommendation
from advisor.row_findings import is_warning
from app import cache, state, texts
from app.components import card
from app.texts import t

MODEL_FIELDS = frozenset({"model", "config", "model_type", "task"})
DATA_FIELDS = frozenset({"data", "text_column", "validation"})
MAX_DEVICES = 64
ICONS = {"machine": "memory", "model": "deployed_code", "data": "dataset"}


def problem_card(error: InputError) -> str | None:
    """Which input the error belongs to: machine, model or data; None where it is a pinned value."""
    root = (error.field or "").split(".")[0]
    if root == "machine":
        return "machine"
    if root in MODEL_FIELDS:
        return "model"
    return "data" if root in DATA_FIELDS else None


def input_names(asked: Question, shown: Recommendation | None) -> dict[str, str]:
    """The three inputs by name: as asked while nothing is known of them."""
    lang = state.language()
    if shown is not None:
        data = shown.data
        rows = t("data.name", lang, name=data.name, rows=data.num_rows) if data else "-"
        return {
            "machine": texts.machine_name(shown.machine),
            "model": shown.model.name,
            "data": rows,
        }
    return {
        "machine": asked.machine or t("machine.this", lang),
        "model": asked.model,
        "data": asked.data or "-",
    }


def loading_cards(slots: dict[str, Any], asked: Question) -> None:
    """The cards before anything is known of what they name."""
    lang = state.language()
    names = input_names(asked, None)
    for place, slot in slots.items():
        with slot.container():
            # The same elements as the finished card, which then takes their place one by one.
            card(ICONS[place], texts.escape(names[place]), (t("card.loading", lang),), ready=False)


def input_cards(
    slots: dict[str, Any], asked: Question, shown: Recommendation | None, error: InputError | None
) -> None:
    """Machine, model and data with their facts and the way to change each."""
    lang = state.language()
    bad = problem_card(error) if error else None
    names = input_names(asked, shown) | ({bad: input_names(asked, None)[bad]} if bad else {})
    facts: dict[str, tuple[str, ...]] = {}
    if shown is not None:
        length = shown.plan.max_length if shown.plan and not shown.plan.packing else None
        facts["machine"] = texts.machine_facts(shown.machine, lang)
        facts["model"] = texts.model_facts(shown.model, lang)
        if shown.data is not None:
            facts["data"] = texts.data_facts(shown.data, length, lang)
    editors = {"machine": _change_machine, "model": _change_model, "data": _change_data}
    for place, slot in slots.items():
        with slot.container():
            lines = tuple(map(texts.escape, facts.get(place, (t("card.unknown", lang),))))
            if place == "data" and shown is not None and shown.data is not None:
                lines += _alerts(shown.data, lang)
            sentence = texts.escape(error.sentence(lang)) if error and place == bad else None
            popover = card(ICONS[place], texts.escape(names[place]), lines, sentence)
        assert popover is not None
        with popover:
            editors[place](asked, shown)


def _alerts(data: DataDescription, lang: str) -> tuple[str, ...]:
    """What may be wrong with the rows, as a line of the card; the rest is where they are chosen."""
    found = [finding for finding in data.findings if is_warning(finding)]
    if not found:
        return ()
    more = f" {t('data.more', lang, count=len(found) - 1)}" if len(found) > 1 else ""
    return (f"{_finding(found[0], lang)}{more}",)


def _finding(finding: Message, lang: str) -> str:
    """A finding in Markdown, with a mark where somebody should look."""
    sentence = texts.escape(render(finding, lang))
    return f":orange[:material/error: {sentence}]" if is_warning(finding) else sentence


def _change_machine(asked: Question, shown: Recommendation | None) -> None:
    lang = state.language()
    this = t("machine.this", lang)
    names = [this, *accelerator_names()]
    current, count = this, 1
    if asked.machine:
        try:
            machine = machine_from_name(asked.machine)
            current, count = machine.gpus[0].name, len(machine.gpus)
        except InputError:
            current = this  # a name that is in no catalogue: its sentence stands on the card
    st.session_state["machine_name"] = current if current in names else this
    st.session_state["machine_count"] = min(max(count, 1), MAX_DEVICES)

    def change() -> None:
        name, n = st.session_state["machine_name"], st.session_state["machine_count"]
        chosen = None if name == this else f"{name} x {n}" if n > 1 else name
        state.change_question(machine=chosen)

    st.selectbox(t("machine.choose", lang), names, key="machine_name", on_change=change)
    if st.session_state["machine_name"] != this:
        st.number_input(
            t("machine.count", lang), 1, MAX_DEVICES, step=1, key="machine_count", on_change=change
        )
    else:
        st.button(
            t("machine.probe", lang),
            icon=":material/refresh:",
            key="probe_again",
            on_click=_probe_again,
        )
        for sentence in shown.machine.notes if shown else ():
            st.caption(texts.escape(sentence))


def _probe_again() -> None:
    cache.machine(refresh=True)
    state.forget_answer()


def _change_model(asked: Question, shown: Recommendation | None) -> None:
    lang = state.language()
    st.session_state["model_path"] = asked.model

    def change() -> None:
        state.change_question(model=st.session_state["model_path"].strip() or "demo")

    st.text_input(
        t("model.path", lang), key="model_path", help=t("model.path.help", lang), on_change=change
    )
    if shown is not None:
        st.caption(f"{shown.model.architecture}{texts.DOT}{texts.escape(shown.model.path)}")
        for sentence in shown.model.notes:
            st.caption(texts.escape(sentence))


def _change_data(asked: Question, shown: Recommendation | None) -> None:
    lang = state.language()
    data = shown.data if shown else None
    st.session_state["data_path"] = asked.data or "demo"
    st.session_state["data_validation"] = asked.validation or ""

    def change() -> None:
        path = st.session_state["data_path"].strip() or "demo"
        changes: dict[str, Any] = {"data": path}
        if path != asked.data:
            changes["text_column"] = None  # a column of the old file says nothing about the new one
        else:
            changes["validation"] = st.session_state["data_validation"].strip() or None
        state.change_question(**changes)

    st.text_input(
        t("data.path", lang), key="data_path", help=t("data.path.help", lang), on_change=change
    )
    if data is not None and len(data.columns) > 1:
        st.session_state["data_column"] = asked.text_column or data.text_column

        def change_column() -> None:
            state.change_question(text_column=st.session_state["data_column"])

        columns = list(dict.fromkeys((*data.columns, st.session_state["data_column"])))
        st.selectbox(t("data.column", lang), columns, key="data_column", on_change=change_column)
    elif asked.text_column:
        st.button(
            t("data.any_column", lang, column=texts.escape(asked.text_column)),
            on_click=state.change_question,
            kwargs={"text_column": None},
        )
    st.text_input(
        t("data.validation", lang),
        key="data_validation",
        help=t("data.validation.help", lang),
        on_change=change,
    )
    for finding in data.findings if data is not None else ():
        st.caption(_finding(finding, lang))
    if data is not None and data.preview:
        st.caption(t("data.preview", lang))
        st.code(data.preview[0], language=None, wrap_lines=True)
