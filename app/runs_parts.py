"""The sections of Runs: the table, what can be done with the chosen ones, how they compare."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from advisor.units import GIB
from app import compare_charts, launching, run_diff, run_source, run_texts, state
from app.components import STATES, figure, heading, headline
from app.run_data import MEMORY_SERIES, TOKENS
from app.run_texts import Run
from app.series import thin
from app.texts import DOT, escape, listing, t
from trainer import keeping
from trainer.runs import ACTIVE

COMMON = ("loss", "eval_loss", "learning_rate", "grad_norm", *MEMORY_SERIES, "tokens_per_second")
"""Metrics in the order they are offered; those of a task alone come after."""
CURVE_POINTS = 90


def overview() -> None:
    """The sentence and the table; looks at the directories, so that new runs appear."""
    lang = state.language()
    found = run_source.listed()
    normal = [run for run in found if run.status.kind == "run"]
    headline(
        run_texts.summary([run.state for run in normal], lang),
        t("runs.caption" if found else "run.none.caption", lang),
    )
    if not found:
        st.page_link(launching.PLAN_PAGE, label=t("run.none.plan", lang), icon=":material/balance:")
        return
    proofs = [run for run in found if run.status.kind == "proof"]
    shown = normal
    if proofs:
        kinds = {"run": normal, "proof": proofs}
        kind = st.segmented_control(
            t("runs.kind", lang),
            list(kinds),
            default="run" if normal else "proof",
            required=True,
            key="runs_kind",
            format_func=lambda k: t(f"runs.kind.{k}", lang, count=len(kinds[k])),
            label_visibility="collapsed",
        )
        shown = kinds[kind or "run"]
    if shown:
        _table(shown)


def _table(shown: Sequence[Run]) -> None:
    lang, names = state.language(), [run.name for run in shown]
    # Rows are selected by their place: a table with other rows is another table.
    key = "runs_table_" + hashlib.sha256("/".join(names).encode()).hexdigest()[:12]
    chosen = state.compared_runs()

    def select() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        state.compare_runs([names[row] for row in rows])

    column = st.column_config
    st.dataframe(
        pd.DataFrame([_row(run) for run in shown]),
        hide_index=True,
        row_height=38,
        on_select=select,
        selection_mode="multi-row",
        selection_default={
            "selection": {"rows": [i for i, name in enumerate(names) if name in chosen]}
        },
        placeholder="",
        key=key,
        alt=t("runs.alt", lang),
        column_config={
            "state": column.MultiselectColumn(
                t("runs.column.state", lang),
                width=100,
                options=[t(f"state.{name}", lang) for name in STATES],
                color=[color for color, _ in STATES.values()],
            ),
            "run": column.TextColumn(t("runs.column.run", lang), width=280),
            "what": column.TextColumn(t("runs.column.what", lang), width=170),
            "done": column.ProgressColumn(
                t("runs.column.done", lang), format="percent", width=110,
                min_value=0.0, max_value=1.0,
            ),
            "curve": column.LineChartColumn(t("runs.column.curve", lang), width=110),
            "loss": column.NumberColumn(t("runs.column.loss", lang), format="%.3f", width=70),
            "metric": column.TextColumn(t("runs.column.metric", lang), width=110),
            "predicted": column.NumberColumn(
                t("runs.column.predicted", lang), format="%.2f", width=110
            ),
            "measured": column.NumberColumn(
                t("runs.column.measured", lang), format="%.2f", width=110
            ),
            "seconds": column.NumberColumn(
                t("runs.column.time", lang), format="%.1f", width=90
            ),
            "task": column.TextColumn(t("runs.column.task", lang), width=90),
            "notes": column.TextColumn(t("runs.column.notes", lang), width=200),
        },
    )  # fmt: skip


def _row(run: Run) -> dict[str, object]:
    """One line of the table."""
    loss, plan = run.data.series["loss"], run.recommendation
    _, curve = thin(*loss.drawn(smoothed=True), limit=CURVE_POINTS)
    quantity = next((n for n in MEMORY_SERIES if len(run.data.series[n])), "process_bytes")
    predicted = run.status.predicted.get(quantity)
    measured = run.data.series[quantity].highest() or run.status.measured.get(quantity)
    notes = keeping.read_notes(run.status.run_dir)
    return {
        "state": [t(f"state.{run.state}", state.language())],
        "run": run.name,
        "what": run_texts.what(run),
        "done": run.progress(),
        "curve": [v for v in curve if not math.isnan(v)],
        "loss": loss.last_mean(),
        "metric": run_texts.metric(run, state.language()),
        "predicted": None if predicted is None else predicted / GIB,
        "measured": None if measured is None else measured / GIB,
        "seconds": run.data.active_seconds if run.data.num_events else None,
        "task": plan.plan.task if plan and plan.plan else "",
        "notes": " ".join(notes.split()),
    }


def chosen_runs() -> list[Run]:
    """The selected runs that are still there, in the order they were selected."""
    found = (run_source.find(name) for name in state.compared_runs())
    return [run for run in found if run is not None]


def actions(chosen: Sequence[Run]) -> None:
    """Open, note, delete."""
    lang = state.language()
    for run in chosen:
        name = escape(run.name)
        with (
            st.container(border=True, gap="xsmall"),
            st.container(horizontal=True, vertical_alignment="center", gap="small"),
        ):
            facts = DOT.join(filter(None, (t(f"state.{run.state}", lang), run_texts.what(run))))
            st.markdown(f"**{name}**  \n:small[:gray[{escape(facts)}]]", width="stretch")
            notes = keeping.read_notes(run.status.run_dir)
            with st.popover(
                t("runs.notes", lang), icon=":material/edit_note:", key=f"notes_{run.name}"
            ):
                st.text_area(
                    t("runs.notes.label", lang),
                    notes,
                    key=f"notes_text_{run.name}",
                    max_chars=keeping.MAX_NOTES,
                    height=140,
                    on_change=_keep_notes,
                    args=(run,),
                )
                st.caption(t("runs.notes.caption", lang, file=keeping.NOTES))
            st.page_link(
                launching.RUN_PAGE,
                label=t("runs.open", lang),
                icon=":material/open_in_full:",
                query_params={"run": run.name},
            )
            st.button(
                t("runs.delete", lang),
                icon=":material/delete:",
                key=f"delete_{run.name}",
                type="tertiary",
                on_click=launching.delete_dialog,
                args=(run.status.run_dir,),
                disabled=run.state in ACTIVE,
                help=t("runs.delete.running", lang) if run.state in ACTIVE else None,
            )


def _keep_notes(run: Run) -> None:
    text = st.session_state[f"notes_text_{run.name}"]
    launching.keep_notes(run.status.run_dir, text)


def compared(selected: Sequence[str]) -> None:
    """Curves of the chosen runs over each other."""
    lang = state.language()
    chosen = [run for run in map(run_source.find, selected) if run is not None]
    metrics = _metrics(chosen)
    if not metrics:
        st.caption(t("compare.none", lang))
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        metric = st.selectbox(
            t("compare.metric", lang),
            metrics,
            key="compare_metric",
            format_func=lambda name: _metric_name(name, lang),
            width=240,
        )
        axis: Any = st.segmented_control(
            t("compare.axis", lang),
            compare_charts.AXES,
            default="tokens" if all(len(r.data.get(TOKENS)) for r in chosen) else "step",
            required=True,
            key="compare_axis",
            format_func=lambda name: t(f"compare.by.{name}", lang),
        )
    shown = chosen[: compare_charts.MAX_RUNS]
    short = _short_names([run.name for run in shown])
    named = [(short[run.name], run.data) for run in shown]
    fig = compare_charts.overlay(named, metric, axis, lang)
    alt = t(
        "compare.alt", lang, metric=_metric_name(metric, lang), names=listing(short.values(), lang)
    )
    figure(fig, "compare", alt, f"{metric}-{axis}")
    for run in shown:
        _said_of(run, metric, axis)
    if len(chosen) > len(shown):
        st.caption(t("compare.many", lang, shown=len(shown), count=len(chosen)))


def _said_of(run: Run, metric: str, axis: str) -> None:
    """Why a run has no curve, or not all of it yet."""
    lang, name = state.language(), escape(run.name)
    if not len(run.data.get(metric)):
        st.caption(t("compare.no_metric", lang, name=name, metric=_metric_name(metric, lang)))
    elif axis == "tokens" and not len(run.data.get(TOKENS)):
        st.caption(t("compare.no_tokens", lang, name=name))
    bad = run.data.get(metric).bad_steps()
    if bad:
        st.caption(t("compare.nonfinite", lang, name=name, count=len(bad), step=bad[0]))


def _metrics(chosen: Sequence[Run]) -> list[str]:
    present = dict.fromkeys(name for run in chosen for name in run.data.metrics())
    return [*(n for n in COMMON if n in present), *(n for n in sorted(present) if n not in COMMON)]


def _metric_name(name: str, lang: str) -> str:
    return t(f"metric.{name}", lang) if name in COMMON else name


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Without the start time where that is enough to tell them apart."""
    short = {name: name.split("-", 1)[-1] for name in names}
    return short if len(set(short.values())) == len(names) else {name: name for name in names}


def differences(chosen: Sequence[Run]) -> None:
    """One run: asked, sent and effective side by side; several: only what differs."""
    lang = state.language()
    if len(chosen) == 1:
        heading(t("diff.one", lang), help=t("diff.help", lang))
        columns = [
            t("diff.argument", lang),
            *(t(f"diff.{level}", lang) for level in run_diff.LEVELS),
        ]
        rows = run_diff.of_one(chosen[0])
        st.dataframe(pd.DataFrame(rows, columns=columns), hide_index=True, key="diff_one")
        return
    heading(t("diff.several", lang), help=t("diff.help", lang))
    found = run_diff.differing(chosen)
    if not found:
        st.caption(t("diff.none", lang))
        return
    short = _short_names([run.name for run in chosen])
    columns = [t("diff.level", lang), t("diff.argument", lang), *short.values()]
    lines = [(t(f"diff.{row.level}", lang), row.name, *row.texts) for row in found]
    st.dataframe(pd.DataFrame(lines, columns=columns), hide_index=True, key="diff_several")
