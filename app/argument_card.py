"""The card of one argument: help, type, default, advice, and the way to set it."""

import json
from typing import Any

import streamlit as st

from advisor.errors import AdvisorError, InputError
from app import state, texts
from app.argument_rows import Row, group_name, kinds, parse, text_of
from app.components import SOURCES
from app.texts import t

EDITOR = "argument_editor"


def argument_card(row: Row, error: AdvisorError | None) -> None:
    """What is known of an argument; `error` is why its plan or file was refused, if it was."""
    lang = state.language()
    field = row.field
    with st.container(border=True, gap="xsmall", key="argument_card"):
        st.markdown(f"### `{row.name}`", anchors=False)
        facts = [
            texts.escape(group_name(field.group, lang)),
            f"`{field.type}`",
            t("arguments.default_is", lang, value=f"`{json.dumps(field.default)}`"),
        ]
        st.caption(texts.DOT.join(facts))
        st.markdown(f":small[{texts.escape(field.help)}]")
        if row.why:
            icon = SOURCES[row.advice.source] if row.advice else ":material/info:"
            sentence = texts.full_stop(texts.upper_first(row.why), lang)
            st.markdown(f":small[:gray[{icon} {texts.escape(sentence)}]]")
        if row.advice is not None and row.advice.reference:
            st.caption(texts.escape(row.advice.reference))
        if row.pin is not None:
            _editor(row)
        refused = state.refused_value()
        if refused is not None and refused[0] == row.name:
            st.markdown(f":red[:material/error: {texts.escape(refused[2])}]")
        elif error is not None:
            st.markdown(f":red[:material/error: {texts.escape(error.sentence(lang))}]")
        if row.pin is not None:
            _pin_button(row)


def _editor(row: Row) -> None:
    lang = state.language()
    options = kinds(row.field)
    key = f"{EDITOR}_{row.name}"
    label = t("arguments.value", lang)
    if options is not None:
        st.session_state[key] = row.value if row.value in options else None
        # The order of the class: it is the one in its documentation.
        st.selectbox(
            label,
            options,
            key=key,
            format_func=text_of,
            on_change=_set,
            args=(row, key),
        )
        return
    refused = state.refused_value()
    is_refused = refused is not None and refused[0] == row.name
    st.session_state[key] = refused[1] if refused and is_refused else text_of(row.value)
    st.text_input(
        label, key=key, help=t("arguments.value.help", lang), on_change=_set, args=(row, key)
    )


def _set(row: Row, key: str) -> None:
    """Pin what the editor holds, or keep why it was refused."""
    entered: Any = st.session_state[key]
    text = text_of(entered)
    assert row.pin is not None
    try:
        value = parse(row, text)
    except InputError as error:
        state.keep_refused_value((row.name, text, error.sentence(state.language())))
        return
    state.keep_refused_value(None)
    if row.pin == "method" and value == "auto":
        state.unpin("method")
    else:
        state.pin(row.pin, value)


def _pin_button(row: Row) -> None:
    lang = state.language()
    assert row.pin is not None
    if row.pinned:
        st.button(
            t("arguments.unpin", lang),
            icon=":material/lock:",
            key="argument_unpin",
            on_click=_unpin,
            args=(row.pin,),
        )
    else:
        st.button(
            t("arguments.hold", lang),
            icon=":material/lock_open_right:",
            key="argument_pin",
            on_click=_hold,
            args=(row.pin, row.value),
        )


def _unpin(pin: str) -> None:
    state.keep_refused_value(None)
    state.unpin(pin)


def _hold(pin: str, value: Any) -> None:
    state.keep_refused_value(None)
    state.pin(pin, value)
