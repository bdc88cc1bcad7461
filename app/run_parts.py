"""The sections of Run; each is rebuilt from the run's directory at each look."""

import time
from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st

from advisor.units import format_learning_rate
from app import live_charts, run_texts, state
from app.components import STATES, badge, figure, heading
from app.run_data import MEMORY_SERIES, planned_rate
from app.run_texts import Run
from app.series import Floats, Series, smoothing_span
from app.texts import escape, t, upper_first
from trainer import record

MAX_NOTICES = 3


def title(run: Run) -> None:
    """The sentence and the facts under it."""
    lang, zone = state.language(), st.context.timezone
    with st.container(gap="xxsmall"):
        sentence = run_texts.title(run, lang, zone, time.time())
        st.markdown(f"# {escape(sentence)}", anchors=False)
        st.caption(escape(run_texts.caption(run, lang, zone)))


def progress(run: Run) -> None:
    """State and bar on one line."""
    color, icon = STATES[run.state]
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        badge(t(f"state.{run.state}", state.language()), color, icon)
        st.progress(run.progress())


def cause(run: Run) -> None:
    """Why a run failed: the first thing to read on its page."""
    lang = state.language()
    sentence = run_texts.cause(run, lang)
    with st.container(border=True, gap="xsmall"):
        st.markdown(f":red[:material/error: **{t('run.cause', lang)}**]  \n{escape(sentence)}")


def next_action(run: Run) -> None:
    """What a resume would do."""
    if sentence := run_texts.next_action(run, state.language()):
        st.caption(escape(sentence))


def notices(run: Run) -> None:
    """What the trainer warned of, the latest three."""
    lang = state.language()
    said = [text for text in map(run_texts.notice_text, run.data.notices) if text]
    latest = list(dict.fromkeys(reversed(said)))
    if not latest:
        return
    with st.grid(3, min_column_width=300, gap="small"):
        for text in latest[:MAX_NOTICES]:
            with st.container(border=True, height="stretch"):
                st.markdown(f":orange[:material/info:] {escape(text)}")
    if len(latest) > MAX_NOTICES:
        st.caption(t("run.more", lang, count=len(latest) - MAX_NOTICES))


def lanes(run: Run) -> None:
    """Loss, learning rate, gradient norm, tokens a second."""
    lang, total = state.language(), run.total_steps()
    series, plan = run.data.series, run.recommendation.plan if run.recommendation else None
    rows = run.recommendation.data if run.recommendation else None
    grid = st.grid(5, min_column_width=220, gap="small")
    loss = series["loss"]
    mean = loss.last_mean()
    last_eval = run.data.evals.last()
    metrics = run.data.task_metrics()
    with grid.cell(column_span=1 if metrics else 2):
        _lane(
            run,
            "loss",
            None if mean is None else f"{mean:.3f}",
            None if last_eval is None else t("live.eval_value", lang, loss=f"{last_eval:.3f}"),
            lambda: live_charts.line(loss, total, lang, smoothed=True, evals=run.data.evals),
            help_text=t("live.loss.help", lang, span=smoothing_span(len(loss))),
        )
    for name, values in list(metrics.items())[:1]:
        with grid.cell():
            _metric(run, name, values)
    planned = planned_rate(plan, rows.rows_of(plan).num_rows) if plan and rows else None
    rate = series["learning_rate"]
    now, at = rate.last(), rate.steps
    with grid.cell():
        _lane(
            run,
            "rate",
            None if now is None else format_learning_rate(now),
            _rate_note(now, planned(int(at[-1])) if planned and len(at) else None),
            lambda: live_charts.line(rate, total, lang, planned=planned, fmt=".2e"),
        )
    norm = series["grad_norm"]
    with grid.cell():
        _lane(
            run,
            "norm",
            None if norm.last() is None else f"{norm.last():.2f}",
            _clipped(norm.values, plan.max_grad_norm if plan else 0.0),
            lambda: live_charts.line(norm, total, lang, smoothed=True, fmt=".2f"),
        )
    speed = series["tokens_per_second"]
    predicted = (
        run.recommendation.time.tokens_per_second
        if run.recommendation and run.recommendation.time
        else None
    )
    recent = speed.last_mean()
    with grid.cell():
        _lane(
            run,
            "speed",
            None if recent is None else f"{recent:,.0f}",
            run_texts.change_to_plan(recent, predicted, lang),
            lambda: live_charts.line(
                speed,
                total,
                lang,
                smoothed=True,
                planned=None if predicted is None else lambda _step: predicted,
                fmt=",.0f",
                from_zero=True,
            ),
        )


def _lane(
    run: Run,
    key: str,
    value: str | None,
    note: str | None,
    draw: Callable[[], go.Figure],
    help_text: str | None = None,
    name: str | None = None,
) -> None:
    lang = state.language()
    name = name or t(f"live.{key}", lang)
    with st.container(border=True, gap=None, height="stretch"):
        st.metric(
            name,
            value or t("live.none", lang),
            note,
            delta_color="off",
            delta_arrow="off",
            help=help_text,
        )
        if value is None:
            st.caption(t("live.not_logged", lang))
        else:
            figure(draw(), f"lane_{key}", t("live.alt", lang, name=name, value=value), run.name)


def _metric(run: Run, name: str, values: Series) -> None:
    """What evaluations report beside the loss, with the best so far."""
    lang, last = state.language(), values.last()
    at, found = values.both()
    best = max(range(len(at)), key=found.__getitem__)
    _lane(
        run,
        "metric",
        None if last is None else f"{last:.3f}",
        t("live.best", lang, value=f"{found[best]:.3f}", step=at[best]),
        lambda: live_charts.line(values, run.total_steps(), lang),
        name=upper_first(run_texts.metric_name(name, lang)),
    )


def _rate_note(now: float | None, planned: float | None) -> str | None:
    if now is None or planned is None:
        return None
    lang = state.language()
    if abs(now - planned) <= 0.02 * max(planned, now):
        return t("live.as_planned", lang)
    return t("live.planned_value", lang, rate=planned)


def _clipped(norms: Floats, limit: float) -> str | None:
    if not len(norms) or not limit:
        return None
    share = float((norms > limit).mean())
    return t("live.clipped", state.language(), share=share)


def memory(run: Run) -> None:
    """The memory lane: like compared with like, named where it is not the process' total."""
    lang = state.language()
    predicted = run.recommendation.memory if run.recommendation else None
    quantity = next((n for n in MEMORY_SERIES if len(run.data.series[n])), None)
    with st.container(border=True, gap="xxsmall"):
        heading(t("live.memory", lang), "GiB", level=5)
        if quantity is None:
            st.caption(t("live.memory.none", lang))
            return
        measured = run.data.series[quantity]
        highest = measured.highest()
        peak = getattr(predicted, quantity) if predicted else None
        alt = t("live.memory.alt", lang, highest=highest, peak=peak)
        fig = live_charts.memory_lane(measured, predicted, quantity, run.total_steps(), lang)
        figure(fig, "memory_lane", alt, run.name)
        text = t("live.memory.text", lang, highest=highest, peak=peak)
        if run.data.process_source == "reserved+context":
            text += " " + t("live.memory.with_context", lang)
        elif quantity == "reserved_bytes":
            text += " " + t("live.memory.reserved", lang)
        elif quantity == "allocated_bytes":
            text += " " + t("live.memory.allocated", lang)
        st.caption(text)


def log(run: Run) -> None:
    """The end of what the process printed."""
    lang = state.language()
    with st.container(border=True, gap="xxsmall"):
        heading(t("run.log", lang), level=5)
        tail = run_texts.log_tail(run.status.run_dir / record.OUTPUT)
        if tail:
            with st.container(height=262, border=False, autoscroll=True):
                st.code(tail, language=None, wrap_lines=True)
        else:
            st.caption(t("run.log.none", lang))


def facts(run: Run) -> None:
    """The line under the bar; a run without a plan says so."""
    lang = state.language()
    st.caption(escape(run_texts.facts(run, lang, time.time())))
    if run.recommendation is None:
        st.caption(t("run.no_plan", lang))
