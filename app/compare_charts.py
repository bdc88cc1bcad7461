"""Curves of several runs over each other. Pure, like app.live_charts."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from advisor import units
from app.frames import AMBER, BLUE, BRICK, INK, frame, note
from app.run_data import SECONDS, TOKENS, RunData
from app.texts import t

Axis = Literal["step", "tokens", "time"]
AXES: tuple[Axis, ...] = ("step", "tokens", "time")
COLORS = (INK, BLUE, AMBER, BRICK, "#000008")
"""By the order of selection; the fifth is drawn dashed."""
MAX_RUNS = len(COLORS)
SMOOTHED = frozenset({"loss", "grad_norm", "tokens_per_second", "step_seconds"})
"""What differs from step to step; its raw values stand pale behind the mean."""
HEIGHT = 320
_LABEL_PIXELS = 17
_MARGIN = {"l": 56, "r": 12, "t": 8, "b": 36}


def overlay(named: Sequence[tuple[str, RunData]], metric: str, axis: Axis, lang: str) -> go.Figure:
    """One metric of up to MAX_RUNS runs.

    Args:
        named: a short name and the events of each; the place gives the colour.
        metric: name of a series; runs without it are left out.
        axis: steps, tokens seen or time trained; a run that did not count tokens has no curve then.
        lang: language of the names.
    """
    fig = go.Figure()
    is_bytes = metric.endswith("_bytes")
    ends: list[tuple[float, str, str]] = []
    for (name, data), color in zip(named, COLORS, strict=False):
        series = data.get(metric)
        smoothed = metric in SMOOTHED and len(series) > 2
        xs, ys = _placed(data, axis, *series.drawn(smoothed=smoothed), is_bytes=is_bytes)
        if not xs:
            continue
        if smoothed:
            raw_xs, raw_ys = _placed(data, axis, *series.drawn(), is_bytes=is_bytes)
            fig.add_scatter(
                x=np.asarray(raw_xs),
                y=np.asarray(raw_ys),
                mode="lines",
                line={"color": color, "width": 1},
                opacity=0.22,
                hoverinfo="skip",
            )
        style = {"color": color, "width": 1.8, "dash": "dash" if color == COLORS[-1] else "solid"}
        few = len(xs) <= 30
        fig.add_scatter(
            x=np.asarray(xs),
            y=np.asarray(ys),
            name=name,
            mode="lines+markers" if few else "lines",
            marker={"size": 5, "color": color},
            line=style,
            connectgaps=False,
            hovertemplate="%{y:.4~g}",
        )
        end = next((y for y in reversed(ys) if not math.isnan(y)), None)
        if end is not None:
            ends.append((end, name, color))
    frame(fig, HEIGHT)
    fig.update_layout(margin=_MARGIN)
    _label_ends(fig, ends)
    fig.update_xaxes(title_text=t(f"compare.axis.{axis}", lang), nticks=7, tickformat="~s")
    if axis == "time":
        fig.update_xaxes(tickformat=None)
    fig.update_yaxes(fixedrange=True, rangemode="tozero" if is_bytes else "normal")
    if metric == "learning_rate":
        fig.update_yaxes(tickformat=".0e")
    return fig


def _placed(
    data: RunData, axis: Axis, steps: list[int], values: list[float], *, is_bytes: bool
) -> tuple[list[float], list[float]]:
    """Points on the axis, memory in GiB; none where the run does not know the axis."""
    xs: list[float] = [float(step) for step in steps]
    if axis != "step":
        known = data.get(TOKENS if axis == "tokens" else SECONDS)
        if not len(known):
            return [], []
        scale = 1.0 if axis == "tokens" else 60.0
        xs = [float(x) / scale for x in known.at(steps)]
    ys = [v / units.GIB for v in values] if is_bytes else values
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if not math.isnan(x)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _label_ends(fig: go.Figure, ends: list[tuple[float, str, str]]) -> None:
    """Each run's name and last value at the right, the highest on top, a line apart."""
    for place, (value, name, color) in enumerate(sorted(ends, reverse=True)):
        note(
            fig,
            1,
            1,
            f"{name} <b>{value:.4g}</b>",
            color,
            xref="paper",
            yref="paper",
            xanchor="right",
            yanchor="top",
            yshift=-_LABEL_PIXELS * place,
        )
