"""Runs: what ran and what runs; select some to compare them, note or delete them."""

import streamlit as st

from app import runs_parts, state
from app.components import heading, notice, read_whole
from app.texts import t
from trainer.runs import ACTIVE

lang = state.language()
notice()
drawn_for = state.compared_runs()


def overview() -> None:
    """The table by itself, at each look; a changed selection draws the whole page again."""
    if state.compared_runs() != drawn_for:
        st.rerun()
    runs_parts.overview()


st.fragment(overview, run_every="3s")()
chosen = runs_parts.chosen_runs()
if chosen:
    for run in chosen:
        read_whole(run.data, run.name)
    heading(t("compare.title", lang, count=len(chosen)))
    every = "3s" if any(run.state in ACTIVE for run in chosen) else None
    names = [run.name for run in chosen]
    st.fragment(lambda: runs_parts.compared(names), run_every=every)()
    runs_parts.differences(chosen)
    runs_parts.actions(chosen)
