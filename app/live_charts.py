"""Figures of Run: reality in ink, drawn over the prediction in teal. Pure, like app.charts."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from advisor import units
from advisor.memory import CATEGORIES, MemoryEstimate
from app.frames import ADVISOR, BLUE, BRICK, FILL, INK, PAPER, frame, note
from app.series import Series
from app.texts import t

HEIGHT = 172


def line(
    series: Series,
    total_steps: int | None,
    lang: str,
    *,
    smoothed: bool = False,
    planned: Callable[[int], float] | None = None,
    evals: Series | None = None,
    fmt: str = ",.3f",
    from_zero: bool = False,
) -> go.Figure:
    """One measured quantity over the steps of the run.

    Args:
        series: what was measured.
        total_steps: planned end of the run: the axis ends there, the empty part is the time left.
        lang: language of the names.
        smoothed: draw the raw values pale and their exponential mean over them.
        planned: predicted value after a number of steps, drawn dotted.
        evals: evaluation points, drawn as diamonds.
        fmt: d3 format of the values.
        from_zero: whether the value axis starts at 0.
    """
    fig = go.Figure()
    end = total_steps or _last_step(series)
    if planned is not None:
        xs = sorted({round(i * end / 200) for i in range(201)})
        _measured(fig, xs, [planned(x) for x in xs], t("live.planned", lang), fmt, planned=True)
    steps, values = series.drawn()
    mean = series.drawn(smoothed=True) if smoothed else (steps, values)
    if smoothed:
        fig.add_scatter(
            x=np.asarray(steps),
            y=np.asarray(values),
            mode="lines",
            line={"color": INK, "width": 1},
            opacity=0.22,
            hoverinfo="skip",
        )
    _measured(fig, *mean, t("live.smoothed" if smoothed else "live.measured", lang), fmt)
    if evals is not None and len(evals):
        _diamonds(fig, evals, fmt, lang)
    if mean[0] and not math.isnan(mean[1][-1]):
        dot = {"size": 6, "color": INK}
        fig.add_scatter(
            x=[mean[0][-1]], y=[mean[1][-1]], mode="markers", marker=dot, hoverinfo="skip"
        )
    _mark_bad(fig, series, lang)
    frame(fig, HEIGHT)
    layout: Any = fig.layout
    x_axis, y_axis = layout.xaxis, layout.yaxis
    layout.margin = {"l": 44, "r": 8, "t": 6, "b": 24}
    x_axis.range, x_axis.nticks, x_axis.tickformat = [0, end], 6, "~s"
    y_axis.fixedrange = True
    if from_zero or "e" in fmt:
        y_axis.rangemode = "tozero"
    if "e" in fmt:
        y_axis.tickformat, y_axis.nticks = ".0e", 3
    return fig


def _last_step(series: Series) -> int:
    steps = series.steps
    return int(steps[-1]) if len(steps) else 1


def _measured(
    fig: go.Figure,
    xs: Sequence[int],
    ys: Sequence[float],
    name: str,
    fmt: str,
    *,
    planned: bool = False,
) -> None:
    style = (
        {"color": ADVISOR, "width": 1.5, "dash": "dot"} if planned else {"color": INK, "width": 1.8}
    )
    fig.add_scatter(
        x=np.asarray(xs),  # plotly looks at each item of a list
        y=np.asarray(ys),
        name=name,
        mode="lines",
        line=style,
        connectgaps=False,
        hovertemplate=f"%{{y:{fmt}}}",
    )


def _diamonds(fig: go.Figure, evals: Series, fmt: str, lang: str) -> None:
    mark = {"symbol": "diamond", "size": 8, "color": BLUE, "line": {"color": PAPER, "width": 1}}
    name = t("live.evaluation", lang)
    xs, ys = evals.drawn()
    fig.add_scatter(
        x=xs,
        y=ys,
        name=name,
        mode="markers",
        marker=mark,
        hovertemplate=f"%{{y:{fmt}}}",
    )
    if not math.isnan(ys[-1]):
        note(fig, xs[-1], ys[-1], name, BLUE, xanchor="right", xshift=4, yanchor="bottom", yshift=5)


def _mark_bad(fig: go.Figure, series: Series, lang: str) -> None:
    """A red line where the value was not a number; never thinned away below 50 marks."""
    bad = series.bad_steps()
    for step in bad[:50]:
        fig.add_vline(x=step, line={"color": BRICK, "width": 1})
    if bad:
        text = t("live.nonfinite", lang, step=bad[0])
        fig.add_annotation(
            x=bad[0],
            y=1,
            yref="paper",
            text=text,
            showarrow=False,
            font={"size": 11, "color": BRICK},
            xanchor="left",
            yanchor="top",
            xshift=3,
        )


def memory_lane(
    measured: Series,
    predicted: MemoryEstimate | None,
    quantity: str,
    total_steps: int | None,
    lang: str,
) -> go.Figure:
    """Measured peaks over the predicted band; the predicted stack beside them on the same axis.

    Args:
        measured: peak of each reading, bytes.
        predicted: the estimate of the plan that runs, None where nothing was predicted.
        quantity: which of process_bytes, reserved_bytes, allocated_bytes is compared.
        total_steps: planned end of the run.
        lang: language of the names.
    """
    stack = predicted is not None and quantity == "process_bytes" and bool(predicted.categories)
    fig = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.955, 0.045],
        horizontal_spacing=0.01,
    )
    end = total_steps or _last_step(measured)
    peak = getattr(predicted, quantity) if predicted else None
    free = predicted.capacity_bytes if predicted and quantity != "allocated_bytes" else None
    steps, readings = measured.drawn()
    values = [v / units.GIB for v in readings]
    highest = max([*(v for v in values if not math.isnan(v)), (peak or 0) / units.GIB], default=1.0)
    shows_free = free is not None and free / units.GIB < 2.2 * highest
    top = 1.12 * max(highest, free / units.GIB if shows_free and free else 0, 0.001)
    if predicted is not None and peak is not None:
        lines = [max((v for v in values if not math.isnan(v)), default=0.0)]
        lines += [free / units.GIB] if shows_free and free else []
        _predicted_band(fig, predicted, quantity, peak, end, top, lines, lang)
    dots = {"size": 3, "color": INK, "opacity": 0.5}
    hover = "%{y:.2f} GiB"
    fig.add_scatter(
        x=np.asarray(steps), y=np.asarray(values), name=t("live.memory.step", lang),
        mode="markers", marker=dots, hovertemplate=hover, row=1, col=1,
    )  # fmt: skip
    stair = {"color": INK, "width": 1.6, "shape": "hv"}
    fig.add_scatter(
        x=np.asarray(steps), y=np.asarray(_highest_so_far(values)),
        name=t("live.memory.highest", lang), mode="lines", line=stair,
        hovertemplate=hover, row=1, col=1,
    )  # fmt: skip
    if shows_free and free is not None:
        y = free / units.GIB
        fig.add_hline(y=y, line={"color": INK, "width": 1, "dash": "dash"}, row=1, col=1)
        text = t("live.free_at_start", lang, free=free)
        note(fig, end, y, text, xanchor="right", yanchor="bottom")
    if stack and predicted is not None:
        _stack(fig, predicted, top, lang)
    frame(fig, 210, barmode="stack", bargap=0)
    fig.update_layout(margin={"t": 4, "b": 24, "r": 104 if stack else 12})
    fig.update_yaxes(range=[0, top], fixedrange=True)
    fig.update_yaxes(showgrid=False, row=1, col=2)
    fig.update_xaxes(range=[0, end], tickformat="~s", row=1, col=1)
    fig.update_xaxes(visible=False, fixedrange=True, row=1, col=2)
    return fig


def _predicted_band(
    fig: go.Figure,
    predicted: MemoryEstimate,
    quantity: str,
    peak: int,
    end: int,
    top: float,
    lines: Sequence[float],
    lang: str,
) -> None:
    """The band of the prediction, named on the side where none of the `lines` ends.

    Where one ends on either side, the name stands on the left, where little has been reached yet.
    """
    low, high = (v / units.GIB for v in predicted.interval.get(quantity, (peak, peak)))
    if high - low < 0.012 * top:  # a band thinner than a line would not be seen
        middle = (low + high) / 2
        low, high = middle - 0.006 * top, middle + 0.006 * top
    fig.add_shape(
        type="rect", x0=0, x1=end, y0=low, y1=high, fillcolor=ADVISOR, opacity=0.4, line_width=0,
        layer="below", row=1, col=1,
    )  # fmt: skip
    text = t("live.predicted_peak", lang, peak=peak)
    middle, room = (low + high) / 2, 0.1 * top
    if not any(middle < y < high + room for y in lines):
        note(fig, end, high, text, ADVISOR, xanchor="right", yanchor="bottom")
    elif not any(low - room < y <= middle for y in lines):
        note(fig, end, low, text, ADVISOR, xanchor="right", yanchor="top")
    else:
        note(fig, 0, low, text, ADVISOR, xanchor="left", yanchor="top")


def _stack(fig: go.Figure, predicted: MemoryEstimate, top: float, lang: str) -> None:
    base = 0.0
    for name in CATEGORIES:
        size = predicted.categories.get(name, 0) / units.GIB
        label = t(f"category.{name}", lang)
        fig.add_bar(
            x=[""],
            y=[size],
            marker={"color": FILL[name], "line": {"color": PAPER, "width": 1}},
            width=0.8,
            hovertemplate=f"{label}: {size:.2f} GiB<extra></extra>",
            row=1,
            col=2,
        )
        if size > 0.075 * top:
            note(
                fig, 1, base + size / 2, label.lower(), xref="x2 domain", yref="y2",
                xanchor="left", xshift=2,
            )  # fmt: skip
        base += size


def _highest_so_far(values: list[float]) -> list[float]:
    out, highest = [], -math.inf
    for value in values:
        highest = max(highest, value) if not math.isnan(value) else highest
        out.append(highest if highest > -math.inf else math.nan)
    return out
