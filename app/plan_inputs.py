"""The three inputs of Plan: cards with facts, errors, and the way to change each."""

from typing import Any

import streamlit as st

from advisor.data import DataDescription
from advisor.errors import InputError
from advisor.hardware.catalogue import accelerator_names, machine_from_name
from advisor.hardware.choice import is_local
from advisor.locale import Message, render, say
from advisor.recommend import Question
from advisor.recommendation import Recommendation
from advisor.row_findings import is_warning
from advisor.tasks import find_task, trainable_tasks
from app import cache, machine_texts, state, texts
from app.components import card
from app.texts import t

MODEL_FIELDS = frozenset({"model", "config", "model_type", "task"})
DATA_FIELDS = frozenset({"data", "text_column", "label_column", "validation"})
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
            if place == "data" and error and place == bad and error.params.get("names"):
                _offer_columns(asked, error)
            else:
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
    local = machine_texts.local_gpus(shown.machine, lang) if shown else {}
    names = [this, *local, *accelerator_names()]
    current, count = this, 1
    if asked.machine and is_local(asked.machine):
        current = (shown.machine.chosen_uuid if shown else None) or this
    elif asked.machine:
        try:
            machine = machine_from_name(asked.machine)
            current, count = machine.gpus[0].name, len(machine.gpus)
        except InputError:
            current = this  # a name that is in no catalogue: its sentence stands on the card
    st.session_state["machine_name"] = current if current in names else this
    st.session_state["machine_count"] = min(max(count, 1), MAX_DEVICES)

    def change() -> None:
        name, n = st.session_state["machine_name"], st.session_state["machine_count"]
        several = n > 1 and name not in local
        chosen = None if name == this else f"{name} x {n}" if several else name
        state.change_question(machine=chosen)

    st.selectbox(
        t("machine.choose", lang),
        names,
        key="machine_name",
        format_func=lambda name: local.get(name, name),
        on_change=change,
    )
    if st.session_state["machine_name"] not in (this, *local):
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
            st.caption(texts.escape(say(sentence, lang)))


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
    tasks = ("", *trainable_tasks())
    st.session_state["model_task"] = asked.task if asked.task in tasks else ""
    st.selectbox(
        t("model.task", lang),
        tasks,
        key="model_task",
        format_func=lambda task: task or t("model.task.any", lang),
        on_change=lambda: state.change_question(
            task=st.session_state["model_task"] or None, label_column=None, text_column=None
        ),
    )
    if shown is not None:
        st.caption(f"{shown.model.architecture}{texts.DOT}{texts.escape(shown.model.path)}")
        for sentence in shown.model.notes:
            st.caption(texts.escape(say(sentence, lang)))


def _offer_columns(asked: Question, error: InputError) -> None:
    """The columns that the refusal names; those of another file are not shown."""
    field = error.field or ""
    _data_path(asked)
    if field in ("text_column", "label_column"):
        key = f"offer_{field}"
        st.session_state[key] = None
        st.selectbox(
            t(f"data.{field}", state.language()),
            tuple(error.params["names"]),
            key=key,
            on_change=lambda: state.change_question(**{field: st.session_state[key]}),
        )
    for name in ("text_column", "label_column"):
        _forget_column(name, asked)


def _choose_column(field: str, found: str, names: tuple[str, ...], asked: Question) -> None:
    """A column of the file, or a pair of them."""
    key = f"data_{field}"
    st.session_state[key] = getattr(asked, field) or found
    st.selectbox(
        t(f"data.{field}", state.language()),
        list(dict.fromkeys((*names, st.session_state[key]))),
        key=key,
        on_change=lambda: state.change_question(**{field: st.session_state[key]}),
    )


def _forget_column(field: str, asked: Question) -> None:
    """The way back from a column that the file has not."""
    column = getattr(asked, field)
    if column is not None:
        st.button(
            t("data.any_column", state.language(), column=texts.escape(column)),
            key=f"any_{field}",
            on_click=state.change_question,
            kwargs={field: None},
        )


def _data_path(asked: Question) -> None:
    """The file, and the one to evaluate on."""
    lang = state.language()
    st.session_state["data_path"] = asked.data or "demo"
    st.session_state["data_validation"] = asked.validation or ""

    def change() -> None:
        path = st.session_state["data_path"].strip() or "demo"
        changes: dict[str, Any] = {"data": path}
        if path != asked.data:
            # a column of the old file says nothing about the new one
            changes |= {"text_column": None, "label_column": None}
        else:
            changes["validation"] = st.session_state["data_validation"].strip() or None
        state.change_question(**changes)

    st.text_input(
        t("data.path", lang), key="data_path", help=t("data.path.help", lang), on_change=change
    )
    st.text_input(
        t("data.validation", lang),
        key="data_validation",
        help=t("data.validation.help", lang),
        on_change=change,
    )


def _change_data(asked: Question, shown: Recommendation | None) -> None:
    lang = state.language()
    data = shown.data if shown else None
    _data_path(asked)
    if data is not None and len(data.columns) > 1:
        pairs = find_task(shown.plan.task).text_pairs if shown and shown.plan else ()
        there = [",".join(pair) for pair in pairs if set(pair) <= set(data.columns)]
        _choose_column("text_column", data.text_column, (*data.columns, *there), asked)
        if data.label_column is not None:
            _choose_column("label_column", data.label_column, data.columns, asked)
            if data.labels:
                st.caption(texts.escape(texts.class_counts(data, lang)))
    else:
        for field in ("text_column", "label_column"):
            _forget_column(field, asked)
    for finding in data.findings if data is not None else ():
        st.caption(_finding(finding, lang))
    if data is not None and data.preview:
        st.caption(t("data.preview", lang))
        st.code(data.preview[0], language=None, wrap_lines=True)
