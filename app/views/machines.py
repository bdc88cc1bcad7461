"""Machines: the same plan elsewhere, the contract held; what this machine has now."""

import streamlit as st

from advisor.hardware.catalogue import accelerator_names
from app import answering, cache, machine_parts, state
from app.components import headline
from app.texts import t

lang = state.language()
asked = state.question()
LIVE_SECONDS = 5

top = st.container()
waits = st.container()
here = st.container()
rest = st.container()

waiting = answering.Waiting(asked, top, (waits,), words="machines.loading")
last, error = answering.answer(asked, waiting)
shown = last.recommendation if last is not None and error is None else None
planned = shown is not None and shown.plan is not None
found = machine_parts.known(asked, shown)
complete = not planned or all(name in found for name in machine_parts.wanted(asked))


@st.fragment(run_every=None if complete else 1)
def answers() -> None:
    """Title and cards; asks for a few more machines each time until all are known."""
    if shown is None or shown.plan is None:
        headline(t("machines.no_plan", lang), t("machines.no_plan.caption", lang))
        if error is not None:
            machine_parts.problem(error)
        else:
            machine_parts.no_plan()
        return
    machine_parts.title_and_cards(asked, shown)
    if not complete and machine_parts.fill(asked, shown):
        st.rerun()  # without the timers


@st.fragment(run_every=LIVE_SECONDS)
def live() -> None:
    """This machine, probed anew."""
    machine_parts.this_machine(cache.live_machine(), asked)


@st.fragment(run_every=None if complete else 3)
def table() -> None:
    """The catalogue, filled in as answers come."""
    machine_parts.table(asked, shown)


with here:
    live()
with rest:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.markdown(f"### {t('machines.catalogue', lang)}", anchors=False, width="stretch")
        st.text_input(
            t("machines.search", lang),
            key="machines_search",
            placeholder=t("machines.search.example", lang),
            icon=":material/search:",
            width=300,
        )
        added = st.selectbox(
            t("machines.add", lang),
            accelerator_names(),
            index=None,
            key="machines_add",
            placeholder=t("machines.add.example", lang),
            width=300,
        )
        if added and added not in machine_parts.cards(asked):
            machine_parts.add_card(added)
            st.rerun()
    table()
    st.caption(t("machines.table.note", lang))
with top:
    answers()  # last: it takes its time, and the rest of the page does not wait for it
