"""Run: reality drawn over the prediction, and what to do."""

import streamlit as st

from app import launching, run_parts, run_source, run_texts, state
from app.components import headline, notice, read_whole
from app.run_texts import Run
from app.texts import escape, t
from trainer.runs import ACTIVE

lang = state.language()
name = state.selected_run()
everything = [] if name else run_source.listed()
run = run_source.find(name) if name else run_source.current(everything)

notice()
if run is None:
    state.select_run(None)
    caption = t("run.missing", lang, name=escape(name)) if name else t("run.none.caption", lang)
    headline(t("run.none", lang), caption)
    with st.container(horizontal=True, gap="small"):
        last = (everything or run_source.listed())[:1]
        if last:
            st.page_link(
                launching.RUN_PAGE,
                label=t("run.none.last", lang),
                icon=":material/history:",
                query_params={"run": last[0].name},
            )
        st.page_link(
            launching.PLAN_PAGE,
            label=t("run.none.plan", lang),
            icon=":material/balance:",
        )
    st.stop()

read_whole(run.data, run.name)
active = run.state in ACTIVE
shown_state = run.state
chosen = run


def again() -> Run:
    """The run as it is now; a change of state, or its end by deletion, draws the whole page."""
    now = run_source.find(chosen.name)
    if now is None or now.state != shown_state:
        st.rerun()
    return now


every = "2s" if active else None
st.fragment(lambda: run_parts.title(again()), run_every=every)()
with st.container(horizontal=True, vertical_alignment="center", gap="small"):
    with st.container(width="stretch"):
        st.fragment(lambda: run_parts.progress(again()), run_every=every)()
    if active:
        st.button(
            t("action.stop", lang),
            icon=":material/stop_circle:",
            key="stop",
            on_click=launching.stop_dialog,
            args=(run.status.run_dir, run.step),
            disabled=run.state == "stopping",
        )
    elif run_texts.can_resume(run):
        st.button(
            t("action.resume", lang),
            type="primary",
            icon=":material/play_arrow:",
            key="resume",
            on_click=launching.resume_run,
            args=(run.status.run_dir,),
        )


def live() -> None:
    """Everything below the bar."""
    now = again()
    run_parts.facts(now)
    if now.state in ("failed", "lost"):
        run_parts.cause(now)
    run_parts.next_action(now)
    run_parts.notices(now)
    run_parts.lanes(now)
    run_parts.memory(now)
    run_parts.log(now)


st.fragment(live, run_every=every)()
