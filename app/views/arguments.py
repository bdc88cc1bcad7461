"""Arguments: every field, why it has its value, and what it differs from."""

import json
from typing import Any

import streamlit as st

from advisor import training_arguments
from advisor.arguments import arguments_for
from advisor.errors import InputError
from advisor.export import export
from advisor.recommendation import Recommendation
from advisor.review.names import known_fields
from advisor.versions import installed
from app import answering, argument_rows, opened_file, plan_parts, proving, state, texts
from app.argument_card import argument_card
from app.components import heading, headline, notice
from app.texts import t

ROW_HEIGHT, MOST_ROWS = 34, 16


def written_by(found: Recommendation | None) -> tuple[dict[str, Any], InputError | None]:
    """The arguments file of the answer; empty with the reason where there is none."""
    if found is None or found.plan is None:
        return {}, None
    try:
        return arguments_for(found), None
    except InputError as error:
        return {}, error


def filters(every: tuple[argument_rows.Row, ...]) -> tuple[argument_rows.Row, ...]:
    """Search, group and what to show; the rows that are left."""
    groups = list(dict.fromkeys(row.field.group for row in every))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        search = st.text_input(
            t("arguments.search", lang),
            placeholder=t("arguments.search.hint", lang),
            key="arguments_search",
            width=300,
        )
        group = st.selectbox(
            t("arguments.group", lang),
            groups,
            index=None,
            placeholder=t("arguments.group.all", lang),
            format_func=lambda name: argument_rows.group_name(name, lang),
            key="arguments_group",
            width=240,
        )
        show = st.segmented_control(
            t("arguments.show", lang),
            argument_rows.SHOWS,
            default="advised" if any(row.advice for row in every) else "all",
            required=True,
            format_func=lambda name: t(f"arguments.show.{name}", lang, count=len(every)),
            key="arguments_show",
        )
        opened_file.open_button()
    # A search looks through everything: what is hidden by a filter would read as missing.
    show = "all" if search.strip() or group else show or "all"
    return argument_rows.chosen(every, search=search, group=group, show=show)


def table(shown: tuple[argument_rows.Row, ...]) -> None:
    """The rows; a selected one is opened in the card."""
    names = [row.name for row in shown]
    key = f"arguments_table_{hash((lang, *names))}"

    def select() -> None:
        cells = st.session_state[key]["selection"]["cells"]
        if cells:
            st.session_state["argument"] = names[cells[0][0]]

    small, wide = st.column_config.TextColumn(width=110), st.column_config.TextColumn(width=250)
    columns = {
        t("arguments.pin", lang): st.column_config.TextColumn(width=64),
        t("arguments.group", lang): small,
        t("arguments.argument", lang): st.column_config.TextColumn(width=210),
        t("arguments.value", lang): st.column_config.TextColumn(width=130),
        t("arguments.default", lang): small,
        t("arguments.why", lang): wide,
        t("arguments.type", lang): small,
    }
    order = ("argument", "pin", "value", "default", "why", "group", "type")
    st.dataframe(
        argument_rows.frame(shown, lang),
        hide_index=True,
        key=key,
        on_select=select,
        selection_mode="single-cell",
        row_height=ROW_HEIGHT,
        height=ROW_HEIGHT * (min(len(shown), MOST_ROWS) + 1) + 4,
        column_order=[t(f"arguments.{name}", lang) for name in order],
        column_config=columns,
        alt=t("arguments.alt", lang),
    )


def preview(found: Recommendation, written: dict[str, Any]) -> None:
    """The file as JSON and the command that trains it, to copy or to save."""
    changed_only = st.toggle(t("arguments.only_changed", lang), key="arguments_changed")
    defaults = {n: f.default for n, f in known_fields().items()}
    kept = {n: v for n, v in written.items() if not changed_only or v != defaults[n]}
    st.code(json.dumps(kept, indent=2, ensure_ascii=False), "json", height=360)
    file = export(found, "hf-json")
    st.download_button(
        t("action.download", lang, name=file.filename),
        file.text,
        file.filename,
        icon=":material/download:",
        on_click="ignore",
        key="arguments_download",
    )
    st.code(export(found, "command").text, "bash", wrap_lines=True)


lang = state.language()
asked = state.question()
notice()
top = st.container()
verdict = st.container(
    border=True,
    horizontal=True,
    horizontal_alignment="distribute",
    vertical_alignment="center",
    gap="small",
    key="arguments_verdict",
)
last, error = answering.answer(asked, answering.Waiting(asked, top, (verdict,)))
found = last.recommendation if last is not None else None
written, refused = written_by(found)
every = argument_rows.rows(found, written, asked, lang)
with top:
    differ = sum(row.changed for row in every)
    advised = sum(row.advice is not None for row in every)
    headline(
        t("arguments.headline", lang, advised=advised, total=len(every), changed=differ),
        t("arguments.caption", lang),
    )
    version = installed("transformers") or ""
    if not version.startswith(f"{training_arguments.TRANSFORMERS_VERSION}."):
        made_for = training_arguments.TRANSFORMERS_VERSION
        words = t("arguments.other_version", lang, table=made_for, installed=version)
        st.markdown(f":orange[:material/error: {words}]")
proof = None
with verdict:
    if error is not None:
        plan_parts.problem_in_values(asked, error)
    elif found is not None and found.plan is None:
        plan_parts.conflict_card(asked, found)
    elif refused is not None:
        plan_parts.problem_in_values(asked, refused)
    elif found is not None:
        proof = proving.latest(found)
        plan_parts.verdict_card(found, proof)
proving.panel(proof)
opened = st.container()
with opened:
    opened_file.review_given()
shown = filters(every)
review = state.opened()
if review is not None:
    with opened:
        opened_file.findings_card(review)
left, right = st.columns([11, 6], gap="medium")
with left:
    if shown:
        table(shown)
    else:
        words = st.session_state["arguments_search"].strip()
        kind = "arguments.none" if words else "arguments.none.shown"
        st.markdown(t(kind, lang, words=texts.escape(words)))
with right:
    names = [row.name for row in shown]
    if shown:
        if st.session_state.get("argument") not in names:
            st.session_state["argument"] = names[0]
        name = st.selectbox(t("arguments.argument", lang), names, key="argument")
        row = next(row for row in shown if row.name == name)
        problem = error or refused
        field = getattr(problem, "field", None)
        argument_card(row, problem if field and field in (row.name, row.pin) else None)
    if found is not None and written and error is None:
        heading(t("arguments.file", lang))
        preview(found, written)
