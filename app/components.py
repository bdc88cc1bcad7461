"""Pieces used by more than one page, drawn with Streamlit."""

import ipaddress
from typing import Any, Literal

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from advisor.locale import LANGUAGES
from advisor.memory import Verdict
from app import state
from app.run_data import RunData
from app.texts import escape, t
from trainer.runs import State

READ_SECONDS = 0.3
"""Between two signs of life while a long file is read."""
SOURCES = {
    "measured": ":material/straighten:",
    "simulated": ":material/account_tree:",
    "read": ":material/description:",
    "rule": ":material/menu_book:",
    "user": ":material/person:",
}
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "fits": ("green", ":material/check_circle:"),
    "tight": ("orange", ":material/error:"),
    "does_not_fit": ("red", ":material/block:"),
    "unknown": ("gray", ":material/help:"),
}


Color = Literal["green", "gray", "orange", "red"]
STATES: dict[State, tuple[Color, str]] = {
    "starting": ("gray", ":material/hourglass_top:"),
    "running": ("green", ":material/play_circle:"),
    "stopping": ("orange", ":material/stop_circle:"),
    "finished": ("green", ":material/check_circle:"),
    "stopped": ("gray", ":material/pause_circle:"),
    "failed": ("red", ":material/error:"),
    "lost": ("orange", ":material/help:"),
}


def headline(sentence: str, caption: str) -> None:
    """The one sentence a page says, and the facts under it."""
    with st.container(gap="xxsmall"):
        st.markdown(f"# {sentence}", anchors=False)
        st.caption(caption)


def card(
    icon: str, name: str, facts: tuple[str, ...], error: str | None = None, *, ready: bool = True
) -> DeltaGenerator | None:
    """An input in three lines; turns red with the sentence of what is wrong with it.

    Returns:
        The popover that holds the way to change it; None while it is not `ready` to be changed.
    """
    change, lang = None, state.language()
    with st.container(border=True, height="stretch", gap=None):
        with st.container(horizontal=True, vertical_alignment="center", wrap=False, gap="xsmall"):
            if error:
                st.markdown(f":red[:material/error: **{name}**]", width="stretch")
            else:
                st.markdown(f":gray[:material/{icon}:] **{name}**", width="stretch")
            if ready:
                change = st.popover(t("action.change", lang), type="tertiary", key=f"change_{icon}")
        if error:
            st.markdown(f":red[{error}]")
        else:
            st.caption("  \n".join(facts))
    return change


def verdict(kind: Verdict, text: str, detail: str) -> None:
    """Icon, word and sentence; the detail stands under it."""
    color, icon = VERDICTS[kind]
    word = t(f"verdict.{kind}", state.language())
    # A width in pixels: on a phone the actions wrap below instead of squeezing the sentence.
    with st.container(width=720, gap="xxsmall"):
        st.markdown(f"## :{color}[{icon} {word}] {text}", anchors=False)
        st.caption(detail)


def heading(title: str, note: str = "", help: str | None = None, level: int = 3) -> None:  # noqa: A002
    """A section's title with its unit or reading help in grey."""
    grey = f" :small[:gray[{note}]]" if note else ""
    st.markdown(f"{'#' * level} {title}{grey}", help=help, anchors=False)


def figure(fig: go.Figure, key: str, alt: str, revision: str = "") -> None:
    """A chart; the mode is part of its key, so that a change of mode draws it in its colours.

    Args:
        fig: the figure.
        key: constant per place on the page.
        alt: the takeaway, for who does not see it.
        revision: zoom is kept as long as this stays the same.
    """
    fig.update_layout(uirevision=revision or key)
    config: dict[str, Any] = {"displayModeBar": False}
    st.plotly_chart(fig, config=config, key=f"{key}-{state.mode()}", alt=alt)


def notice() -> None:
    """What an action left to be said, once."""
    if sentence := state.notice():
        st.markdown(f":red[:material/error: {escape(sentence)}]")


def footer() -> None:
    """Where the program says where it stands, and the switch of language."""
    lang = state.language()
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.caption(t("footer", lang), width="stretch")
        chosen = st.menu_button(
            t("footer.language", lang),
            list(LANGUAGES),
            format_func=lambda name: t("language.name", name),
            icon=":material/translate:",
            type="tertiary",
            key="language_menu",
        )
    if chosen and chosen != lang:
        state.set_language(chosen)
        st.rerun()


def may_launch() -> bool:
    """Whether this server may start processes: only when no other machine can reach it."""
    address = st.get_option("server.address")
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address or "0.0.0.0").is_loopback  # noqa: S104
    except ValueError:
        return False


def read_whole(data: RunData, name: str) -> None:
    """Go through a long event file for the first time, saying how far it is."""
    before = data.share_read()
    if before == 1:
        return
    lang = state.language()
    bar = st.progress(before)
    while (share := data.update(READ_SECONDS).share_read()) < 1:
        if share == before:
            break  # the file is gone, or cannot be read
        bar.progress(share, t("compare.reading", lang, name=escape(name), share=share))
        before = share
    bar.empty()


def badge(word: str, color: Color, icon: str) -> None:
    """A state: icon, word and colour, never colour alone."""
    st.badge(word, icon=icon, color=color)
