"""Starts, stops and resumes training runs, from button callbacks only; asks first in a dialog."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from advisor.arguments import arguments_for
from advisor.errors import AdvisorError
from advisor.home import runs_dir
from advisor.recommendation import Recommendation
from advisor.units import format_bytes
from app import run_source, state, texts
from app.components import may_launch
from app.texts import t
from trainer import keeping, launch, record, runs

PLAN_PAGE, RUN_PAGE = "views/plan.py", "views/run.py"
"""As Streamlit names pages: relative to the entry script."""


START_DIALOG = "start"


def ask_to_start() -> None:
    """Open the dialog that asks before a run is started; a button's callback."""
    state.allow_start()
    state.open_dialog(START_DIALOG)


def start_dialog(recommendation: Recommendation) -> None:
    """Ask before a run is started: the numbers, the command, what is held."""
    st.dialog(
        t("start.title", state.language()),
        icon=":material/play_arrow:",
        width="medium",
        on_dismiss=state.close_dialog,
    )(_start_body)(recommendation)


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
    busy = [status.name for status in run_source.active()]
    if busy:
        names = texts.listing(busy, lang)
        st.markdown(f":orange[:material/error: {t('start.busy', lang, names=texts.escape(names))}]")
    st.code(
        shlex.join(launch.command(runs_dir() / f"UTC-TIME-{run_slug(recommendation)}")),
        "bash",
        wrap_lines=True,
    )
    st.caption(f":green[:material/lock:] {texts.contract(recommendation, lang)}")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button(t("start.not_yet", lang), key="start_not_yet"):
            state.close_dialog()
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
    state.close_dialog()
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


def delete_dialog(run_dir: Path) -> None:
    """Ask before a run is deleted: what goes, what stays."""
    lang = state.language()
    st.dialog(t("delete.title", lang), icon=":material/delete:", width="medium")(_delete_body)(
        run_dir
    )


def _delete_body(run_dir: Path) -> None:
    lang = state.language()
    st.markdown(
        t(
            "delete.body",
            lang,
            name=texts.escape(run_dir.name),
            size=format_bytes(keeping.size_bytes(run_dir)),
            path=texts.escape(str(run_dir)),
        )
    )
    arguments = record.read_object(run_dir / record.ARGUMENTS) or {}
    saved = runs.checkpoints_dir(run_dir, arguments)
    if not saved.is_relative_to(run_dir.absolute()):
        st.markdown(t("delete.stays", lang, path=texts.escape(str(saved))))
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button(t("delete.keep", lang)):
            st.rerun()
        st.button(
            t("delete.go", lang),
            type="primary",
            key="delete_go",
            on_click=_delete,
            args=(run_dir.name,),
        )


def _delete(name: str) -> None:
    if done(lambda: keeping.delete(name)):
        state.compare_runs([other for other in state.compared_runs() if other != name])


def keep_notes(run_dir: Path, text: str) -> None:
    """Write the notes of a run; a widget's callback."""
    done(lambda: keeping.write_notes(run_dir, text))


def done(act: Callable[[], None]) -> bool:
    """Whether it was done; else the page says why at its next run."""
    lang = state.language()
    if not may_launch():
        state.leave_notice(t("start.not_loopback", lang))
        return False
    try:
        act()
    except AdvisorError as error:
        state.leave_notice(error.sentence(lang))
        return False
    except OSError as error:
        state.leave_notice(str(error))
        return False
    return True


def resume_run(run_dir: Path) -> None:
    """Continue a run in its directory; a button's callback."""
    _act("resume", run_dir)


def _act(what: str, run_dir: Path) -> None:
    done(lambda: {"stop": launch.stop, "resume": launch.resume}[what](run_dir))
