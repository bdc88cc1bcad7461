"""Runs: what ran and what runs; select one to open it."""

import math

import pandas as pd
import streamlit as st

from advisor.units import GIB
from app import launching, run_source, run_texts, state
from app.components import headline
from app.run_data import MEMORY_SERIES, smooth, thin
from app.run_texts import Run
from app.texts import t

lang = state.language()
everything = run_source.listed()
headline(
    run_texts.summary([run.state for run in everything], lang),
    t("runs.caption" if everything else "run.none.caption", lang),
)
if not everything:
    st.page_link(
        launching.PLAN_PAGE,
        label=t("run.none.plan", lang),
        icon=":material/balance:",
    )
    st.stop()


def gib(num_bytes: float | None) -> float | None:
    """Bytes as GiB for a column."""
    return None if num_bytes is None else num_bytes / GIB


def row(run: Run) -> dict[str, object]:
    """One line of the table."""
    curve = smooth(run.data.series["loss"].values)
    _, curve = thin(list(range(len(curve))), curve, limit=90)
    finite = [v for v in curve if not math.isnan(v)]
    quantity = next((n for n in MEMORY_SERIES if run.data.series[n].steps), "process_bytes")
    memory = run.recommendation.memory if run.recommendation else None
    readings = run.data.series[quantity].finite()
    return {
        "state": [t(f"state.{run.state}", lang)],
        "run": run.name,
        "what": run_texts.what(run),
        "done": run.progress(),
        "curve": finite,
        "loss": finite[-1] if finite else None,
        "metric": run_texts.metric(run, lang),
        "predicted": gib(getattr(memory, quantity)) if memory else None,
        "measured": gib(max(readings)) if readings else None,
    }


def open_run() -> None:
    """Show the selected run on its page."""
    rows = st.session_state["runs_table"]["selection"]["rows"]
    if rows:
        chosen = everything[rows[0]].name
        state.select_run(chosen)
        st.switch_page(launching.RUN_PAGE, query_params={"run": chosen})


states = {"running": "green", "finished": "green", "starting": "gray", "stopping": "orange",
          "stopped": "gray", "failed": "red", "lost": "orange"}  # fmt: skip
column = st.column_config
st.dataframe(
    pd.DataFrame([row(run) for run in everything]),
    hide_index=True,
    row_height=38,
    on_select=open_run,
    selection_mode="single-row",
    placeholder="",
    key="runs_table",
    alt=t("runs.alt", lang),
    column_config={
        "state": column.MultiselectColumn(
            t("runs.column.state", lang),
            width=100,
            options=[t(f"state.{name}", lang) for name in states],
            color=list(states.values()),
        ),
        "run": column.TextColumn(t("runs.column.run", lang), width=300),
        "what": column.TextColumn(t("runs.column.what", lang), width=190),
        "done": column.ProgressColumn(
            t("runs.column.done", lang), format="percent", width=130, min_value=0.0, max_value=1.0
        ),
        "curve": column.LineChartColumn(t("runs.column.curve", lang), width=130),
        "loss": column.NumberColumn(t("runs.column.loss", lang), format="%.3f", width=70),
        "metric": column.TextColumn(t("runs.column.metric", lang), width=110),
        "predicted": column.NumberColumn(
            t("runs.column.predicted", lang), format="%.2f", width=110
        ),
        "measured": column.NumberColumn(t("runs.column.measured", lang), format="%.2f", width=110),
    },
)
