"""Starts, stops and resumes training runs, from button callbacks only; asks first in a dialog."""

import re
import shlex
from pathlib import Path

import streamlit as st

from advisor.arguments import arguments_for
from advisor.errors import AdvisorError
from advisor.home import runs_dir
from advisor.recommendation import Recommendation
from app import state, texts
from app.components import may_launch
from app.texts import t
from trainer import launch, runs

PLAN_PAGE, RUN_PAGE = "views/plan.py", "views/run.py"
"""As Streamlit names pages: relative to the entry script."""


def start_dialog(recommendation: Recommendation) -> None:
    """Ask before a run is started: the numbers, the command, what is held."""
    lang = state.language()
    state.allow_start()
    st.dialog(t("start.title", lang), icon=":material/play_arrow:", width="medium")(_start_body)(
        recommendation
    )


def _start_body(recommendation: Recommendation) -> None:
    lang = state.language()
    plan, memory, time = recommendation.plan, recommendation.memory, recommendation.time
    assert plan is not None
    st.markdown(
        t(
            "start.body",
            lang,
            name=texts.escape(run_slug(recommendation)),
            device=texts.escape(texts.device_name(recommendation.machine, plan)),
            time=time.total_seconds if time else None,
            peak=memory.process_bytes if memory else None,
            steps=time.num_steps if time else None,
        )
    )
    busy = [status for status in runs.list_runs() if status.state in runs.ACTIVE]
    if busy:
        names = texts.listing((status.name for status in busy), lang)
        st.markdown(f":orange[:material/error: {t('start.busy', lang, names=texts.escape(names))}]")
    st.code(
        shlex.join(launch.command(runs_dir() / f"UTC-TIME-{run_slug(recommendation)}")),
        "bash",
        wrap_lines=True,
    )
    st.caption(f":green[:material/lock:] {texts.contract(recommendation, lang)}")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button(t("start.not_yet", lang)):
            st.rerun()
        st.button(
            t("start.go", lang),
            type="primary",
            key="start_go",
            on_click=start_run,
            args=(recommendation,),
        )


def run_slug(recommendation: Recommendation) -> str:
    """The readable part of the run directory's name."""
    assert recommendation.plan is not None
    data = recommendation.data.name if recommendation.data else ""
    words = f"{recommendation.model.name}-{Path(data).stem}-{recommendation.plan.method}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:60]


def start_run(recommendation: Recommendation) -> None:
    """Create the run directory and start its process; a button's callback.

    Ends on Run, or back on Plan with the sentence of what went wrong. A click that comes twice
    starts one run.
    """
    lang = state.language()
    if not state.take_start():
        return
    if not may_launch():
        state.leave_notice(t("start.not_loopback", lang))
        return
    try:
        run_dir = runs.create_run(
            run_slug(recommendation),
            plan=recommendation.to_dict(lang),
            arguments=arguments_for(recommendation),
        )
        launch.start(run_dir)
    except AdvisorError as error:
        state.leave_notice(error.sentence(lang))
        return
    except OSError as error:
        state.leave_notice(str(error))
        return
    state.select_run(run_dir.name)
    st.switch_page(RUN_PAGE, query_params={"run": run_dir.name})


def stop_dialog(run_dir: Path, step: int | None) -> None:
    """Ask before a run is stopped."""
    lang = state.language()
    st.dialog(t("stop.title", lang), icon=":material/stop_circle:", width="medium")(_stop_body)(
        run_dir, step
    )


def _stop_body(run_dir: Path, step: int | None) -> None:
    lang = state.language()
    st.markdown(t("stop.body", lang, step=None if step is None else step + 1))
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button(t("stop.keep", lang)):
            st.rerun()
        st.button(
            t("stop.go", lang), type="primary", key="stop_go", on_click=_act, args=("stop", run_dir)
        )


def resume_run(run_dir: Path) -> None:
    """Continue a run in its directory; a button's callback."""
    _act("resume", run_dir)


def _act(what: str, run_dir: Path) -> None:
    lang = state.language()
    if not may_launch():
        state.leave_notice(t("start.not_loopback", lang))
        return
    try:
        {"stop": launch.stop, "resume": launch.resume}[what](run_dir)
    except AdvisorError as error:
        state.leave_notice(error.sentence(lang))
    except OSError as error:
        state.leave_notice(str(error))
