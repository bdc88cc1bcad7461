"""The rows of Plan: padlock, name and reason, value; the value opens the why and the editor."""

import streamlit as st

from advisor.locale import render
from advisor.recommend import Question
from advisor.recommendation import Advice, Recommendation
from app import forms, state, texts
from app.components import SOURCES
from app.texts import t


def values(
    advice: list[Advice], recommendation: Recommendation, asked: Question, *, live: bool
) -> None:
    """Rows of values; `live` is False for the plan before a change that could not be answered."""
    with st.container(gap="xxsmall"):
        for a in advice:
            advice_row(a, recommendation, asked, live=live)


def advice_row(a: Advice, recommendation: Recommendation, asked: Question, *, live: bool) -> None:
    """Padlock, name and reason, value. The value opens the why and the way to change it."""
    lang = state.language()
    name, value = forms.label(a.field, lang), shown_value(a, recommendation)
    pinned = a.pinned or state.is_pinned(asked, a.field)
    reason = render(a.reason, lang)
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", wrap=False):
        _padlock(a, name, pinned=pinned, live=live)
        before = state.was(a.field)
        moved = before is not None and before != value
        badge = f" :green-badge[{t('was', lang, value=before)}]" if live and moved else ""
        st.markdown(
            f"**{name}**{badge}  \n:small[:gray[{SOURCES[a.source]} {texts.escape(reason)}]]",
            width="stretch",
        )
        text = f"**{value}**" if live else f":gray[{value}]"
        text = f":green[{text}]" if live and pinned else text
        with st.popover(text, type="tertiary", key=f"why_{a.field}", disabled=not live):
            _why(a, name, reason)


def shown_value(a: Advice, recommendation: Recommendation) -> str:
    """The value of a row as text."""
    return forms.format_value(a.field, a.value, state.language(), recommendation.plan)


def pins(asked: Question) -> None:
    """What the reader holds, where there is no plan to show it in."""
    lang = state.language()
    with st.container(gap="xxsmall"):
        for field, value in asked.pins.items():
            name = forms.label(field, lang)
            with st.container(
                horizontal=True, vertical_alignment="center", gap="xsmall", wrap=False
            ):
                st.button(
                    ":green[:material/lock:]",
                    key=f"pin_{field}",
                    type="tertiary",
                    width=32,
                    help=t("action.unpin", lang, field=name),
                    on_click=state.unpin,
                    args=(field,),
                )
                st.markdown(f"**{texts.escape(name)}**", width="stretch")
                shown = texts.escape(forms.format_value(field, value, lang))
                st.markdown(f":green[**{shown}**]", width="content")


def _padlock(a: Advice, name: str, *, pinned: bool, live: bool) -> None:
    lang = state.language()
    # What Arguments set is let go here, too.
    fixed = a.field in forms.READ_ONLY or (a.field not in forms.FIELDS and not pinned)
    if fixed:
        st.markdown(":gray[:material/remove:]", width=32)
        return
    st.button(
        ":green[:material/lock:]" if pinned else ":gray[:material/lock_open_right:]",
        key=f"pin_{a.field}",
        type="tertiary",
        width=32,
        help=t("action.unpin" if pinned else "action.pin", lang, field=name),
        disabled=not live,
        on_click=state.unpin if pinned else state.pin,
        args=(a.field,) if pinned else (a.field, a.value),
    )


def _why(a: Advice, name: str, reason: str) -> None:
    lang = state.language()
    st.markdown(f"**{name}** `{a.field}`")
    st.markdown(texts.escape(texts.full_stop(texts.upper_first(reason), lang)))
    if a.counterfactual is not None:
        other = texts.full_stop(texts.upper_first(render(a.counterfactual, lang)), lang)
        st.markdown(texts.escape(other))
    if a.field in forms.FIELDS and a.field not in forms.READ_ONLY:
        _editor(a, forms.FIELDS[a.field])
    source = [f"{SOURCES[a.source]} {t(f'source.{a.source}', lang)}"]
    source += [a.rule] if a.rule else []
    source += [texts.escape(a.reference)] if a.reference else []
    st.caption(texts.DOT.join(source))


def _editor(a: Advice, spec: forms.Field) -> None:
    lang = state.language()
    options = (True, False) if spec.widget == "switch" else (a.options or spec.options)
    if options:
        key = f"set_{a.field}"
        options = tuple(dict.fromkeys((*options, a.value))) if a.value is not None else options
        st.session_state[key] = a.value
        st.pills(
            t("pin.to", lang),
            options,
            key=key,
            format_func=lambda v: forms.format_value(a.field, v, lang),
            on_change=_pin_from,
            args=(a.field, key),
        )
    if spec.widget in ("integer", "number"):
        kind = int if spec.widget == "integer" else float
        key, current = f"type_{a.field}", None if a.value is None else kind(a.value)
        low = None if spec.minimum is None else kind(spec.minimum)
        high = None if spec.maximum is None else kind(spec.maximum)
        if current is not None and low is not None:
            low = min(low, current)
        st.session_state[key] = current
        st.number_input(
            t("pin.other" if options else "pin.to", lang),
            min_value=low,
            max_value=high,
            value=None,
            step=kind(spec.step or 1),
            format=spec.format,
            key=key,
            on_change=_pin_from,
            args=(a.field, key),
        )


def _pin_from(field: str, key: str) -> None:
    """Pin what the widget holds; clearing it lets the advisor choose again."""
    value = st.session_state[key]
    if value is None:
        state.unpin(field)
    else:
        state.pin(field, value)
