"""Figures of Plan: records in, plotly figure out. Pure."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from advisor import units
from advisor.locale import format_duration
from advisor.memory import CATEGORIES, MemoryEstimate, StepTimeline
from app.frames import (
    ADVISOR,
    BRICK,
    FILL,
    INK,
    ON_FILL,
    PALE,
    PAPER,
    QUIET,
    SEQUENTIAL,
    TEXT_SIZE,
    frame,
    note,
)
from app.texts import half_width, t


def memory_bar(
    memory: MemoryEstimate,
    total_bytes: int | None,
    lang: str,
    *,
    measured_bytes: int | None = None,
) -> go.Figure:
    """One bar: categories up to the peak, the interval on top, the free line across.

    Args:
        memory: an estimate with categories.
        total_bytes: size of the device; what is not free of it is drawn grey. None is unknown.
        lang: language of the names.
        measured_bytes: peak of a proof of this very plan: a diamond on the interval.
    """
    sizes = {k: memory.categories[k] / units.GIB for k in CATEGORIES if memory.categories.get(k)}
    peak = sum(sizes.values())
    free = None if memory.capacity_bytes is None else memory.capacity_bytes / units.GIB
    total = max(total_bytes / units.GIB if total_bytes else 0, free or 0, peak)
    span = total if peak >= 0.3 * total else 1.6 * peak
    span = max(span, 1.02 * (measured_bytes or 0) / units.GIB)
    fig, start = go.Figure(), 0.0
    for name, size in sizes.items():
        label = t(f"category.{name}", lang)
        roomy = size > max(0.055, 0.0095 * len(label)) * span
        fig.add_bar(
            x=[size],
            y=[0],
            base=start,
            orientation="h",
            width=0.66,
            marker={"color": FILL[name], "line": {"color": PAPER, "width": 1}},
            text=f"{label}<br>{units.format_gib(size * units.GIB)}" if roomy else "",
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"size": TEXT_SIZE, "color": ON_FILL[name]},
            hovertemplate=f"{label}: {size:.2f} GiB<extra></extra>",
        )
        start += size
    _free_line(fig, peak, free, total, span, lang)
    _interval(fig, peak, half_width(memory), free, span, lang)
    if measured_bytes is not None:
        _diamond(fig, measured_bytes, lang)
    frame(fig, 132, barmode="overlay", bargap=0, uniformtext={"minsize": 9, "mode": "hide"})
    fig.update_layout(hovermode="closest", margin={"l": 10, "r": 10, "t": 4, "b": 22})
    fig.update_yaxes(visible=False, range=[-0.72, 0.95], fixedrange=True)
    fig.update_xaxes(range=[0, span * 1.004], nticks=8, fixedrange=True, showline=False)
    return fig


def _diamond(fig: go.Figure, measured_bytes: int, lang: str) -> None:
    """A measured peak, where the interval of the predicted one is drawn."""
    line = {"color": PAPER, "width": 1}
    fig.add_scatter(
        x=[measured_bytes / units.GIB],
        y=[0.44],
        mode="markers",
        marker={"symbol": "diamond", "size": 11, "color": INK, "line": line},
        hovertemplate=t("chart.measured", lang, peak=measured_bytes) + "<extra></extra>",
    )


def _free_line(
    fig: go.Figure, peak: float, free: float | None, total: float, span: float, lang: str
) -> None:
    if free is None:
        return
    text = t("chart.free", lang, free=free * units.GIB)
    if free > span:
        note(fig, span, -0.36, f"{text} \u2192", yanchor="top", xanchor="right")
        return
    box = {"type": "rect", "y0": -0.33, "y1": 0.33}
    fig.add_shape(**box, x0=0, x1=total, line={"color": QUIET, "width": 1}, layer="above")
    if max(free, peak) < total:
        fig.add_shape(
            **box, x0=max(free, peak), x1=total, fillcolor=QUIET, opacity=0.3, line_width=0
        )
    if peak > free:
        fig.add_shape(
            **box,
            x0=free,
            x1=peak,
            line={"color": BRICK, "width": 2},
            fillcolor=PAPER,
            opacity=0.55,
        )
    fig.add_shape(
        type="line", x0=free, x1=free, y0=-0.42, y1=0.46, line={"color": INK, "width": 1.5}
    )
    above = peak > free
    note(
        fig,
        free if above else total,
        0.55 if above else -0.36,
        text,
        yanchor="bottom" if above else "top",
        xanchor="right",
    )
    if free - peak > 0.12 * span:
        spare = t("chart.spare", lang, spare=(free - peak) * units.GIB)
        note(fig, (peak + free) / 2, 0, spare)


def _interval(
    fig: go.Figure, peak: float, half_bytes: int | None, free: float | None, span: float, lang: str
) -> None:
    text = t("chart.peak", lang, peak=peak * units.GIB)
    if half_bytes is not None:
        half = half_bytes / units.GIB
        low, high = peak - half, peak + half
        for x0, x1, y0, y1 in (
            (low, high, 0.44, 0.44),
            (low, low, 0.38, 0.5),
            (high, high, 0.38, 0.5),
        ):
            fig.add_shape(
                type="line", x0=x0, x1=x1, y0=y0, y1=y1, line={"color": ADVISOR, "width": 2}
            )
        text = t("chart.peak_interval", lang, peak=peak * units.GIB, half=half_bytes)
    over = free is not None and peak > free
    note(
        fig,
        peak if over else min(peak, 0.85 * span),
        0.55,
        text,
        ADVISOR,
        yanchor="bottom",
        xanchor="right" if over or peak > 0.6 * span else "center",
    )


def step_timeline(
    timeline: StepTimeline, memory: MemoryEstimate, step_seconds: float | None, lang: str
) -> go.Figure:
    """Memory through one step, stacked by category.

    Args:
        timeline: the series, bytes.
        memory: the estimate they belong to: what the process holds, what is free.
        step_seconds: length of the step where the axis may carry it; None shows shares.
        lang: language of the names.
    """
    scale, suffix = (100.0, " %") if step_seconds is None else (step_seconds, " s")
    if step_seconds is not None and step_seconds < 1:
        scale, suffix = 1000 * step_seconds, " ms"
    xs = [fraction * scale for fraction in timeline.time_fraction]
    end = scale
    names = [k for k in CATEGORIES if any(timeline.bytes_by_category.get(k, ()))]
    series = {k: [v / units.GIB for v in timeline.bytes_by_category[k]] for k in names}
    total = [sum(values) for values in zip(*series.values(), strict=True)]
    at = max(range(len(total)), key=total.__getitem__)
    held = None if memory.process_bytes is None else memory.process_bytes / units.GIB
    free = None if memory.capacity_bytes is None else memory.capacity_bytes / units.GIB
    highest = max(*total, held or 0)
    shows_free = free is not None and free < 2.2 * highest
    top = 1.1 * max(highest, free if shows_free and free is not None else 0)
    fig = go.Figure()
    for name in names:
        fig.add_scatter(
            x=xs,
            y=series[name],
            name=t(f"category.{name}", lang),
            stackgroup="memory",
            mode="lines",
            line={"width": 0, "shape": "hv", "color": FILL[name]},
            fillcolor=FILL[name],
            hovertemplate="%{y:.2f}",
        )
    fig.add_scatter(
        x=xs,
        y=total,
        name=t("chart.allocated.name", lang),
        mode="lines",
        line={"color": INK, "width": 1, "shape": "hv"},
        hovertemplate="<b>%{y:.2f} GiB</b>",
    )
    _name_areas(fig, xs, series, at, top, lang)
    if free is not None and shows_free:
        fig.add_hline(y=free, line={"color": INK, "width": 1, "dash": "dash"})
        text = t("chart.free", lang, free=memory.capacity_bytes)
        note(fig, end, free, text, xanchor="right", yanchor="bottom")
    if held is not None:
        fig.add_hline(y=held, line={"color": ADVISOR, "width": 1.5})
        text = t("chart.held", lang, held=memory.process_bytes)
        crowded = shows_free and free is not None and 0 <= free - held < 0.08 * top
        side = "top" if crowded else "bottom"
        note(fig, end, held, text, ADVISOR, xanchor="right", yanchor=side)
    text = t("chart.allocated", lang, allocated=total[at] * units.GIB)
    place = "right" if xs[at] > 0.8 * end else "left" if xs[at] < 0.2 * end else "center"
    note(fig, xs[at], total[at], text, INK, xanchor=place, yanchor="bottom")
    for phase, fraction in timeline.phase_starts.items():
        x, text = fraction * scale, t(f"phase.{phase}", lang)
        late = fraction > 0.88  # no room to the right of its mark
        side, shift = ("right", -3) if late else ("left", 3)
        note(fig, x, 0, text, yanchor="top", xanchor=side, xshift=shift, yshift=-2)
        line = {"color": QUIET, "width": 1}
        fig.add_shape(type="line", x0=x, x1=x, y0=-0.086 * top, y1=0, line=line)
    frame(fig, 276)
    fig.update_yaxes(range=[-0.094 * top, top], nticks=6, fixedrange=True)
    fig.update_xaxes(ticksuffix=suffix, range=[0, end], nticks=5, showline=False, fixedrange=True)
    return fig


def _name_areas(
    fig: go.Figure, xs: list[float], series: dict[str, list[float]], at: int, top: float, lang: str
) -> None:
    """Write each area's name where it has room: what stays at the left, the rest at the peak."""
    base = {"left": 0.0, "peak": 0.0}
    for name, values in series.items():
        stays = name in ("context", "weights", "optimizer", "gradients")
        where, height = ("left", values[0]) if stays else ("peak", values[at])
        label = t(f"category.{name}", lang)
        middle = base[where] + height / 2
        if height > 0.055 * top and stays:
            note(fig, 0.006 * xs[-1], middle, label, ON_FILL[name], xanchor="left")
        elif height > 0.055 * top:
            first, last = _extent(values, at, 0.7 * height)
            if xs[last] - xs[first] > 0.016 * len(label) * xs[-1]:
                note(fig, (xs[first] + xs[last]) / 2, middle, label, ON_FILL[name])
            elif xs[last] < 0.75 * xs[-1]:
                note(fig, xs[last], middle, label.lower(), xanchor="left", xshift=6)
            else:
                note(fig, xs[first], middle, label.lower(), xanchor="right", xshift=-6)
        base["left"] += values[0]
        base["peak"] += values[at]


def _extent(values: list[float], at: int, least: float) -> tuple[int, int]:
    """First and last place around `at` where the series stays above `least`."""
    first = last = at
    while first > 0 and values[first - 1] >= least:
        first -= 1
    while last < len(values) - 1 and values[last + 1] >= least:
        last += 1
    return first, min(last + 1, len(values) - 1)


def batch_length_map(cells: Sequence[Any], batch: int, length: int, lang: str) -> go.Figure:
    """Peak memory by micro-batch and length; stronger colour is faster; the line is the edge.

    Args:
        cells: advisor.recommend.SweepCell records.
        batch: micro-batch of the plan, outlined.
        length: its longest row in tokens, outlined with it where the grid holds it.
        lang: language of the axis names.
    """
    lengths, batches = sorted({c.length for c in cells}), sorted({c.batch for c in cells})
    by_place = {(c.batch, c.length): c for c in cells}
    fits = {place: c.verdict in ("fits", "tight") for place, c in by_place.items()}
    speeds = [c.tokens_per_second for c in cells if fits[c.batch, c.length] and c.tokens_per_second]
    low, high = (min(speeds), max(speeds)) if speeds else (0.0, 1.0)
    low = min(low, 0.8 * high)

    def shade(b: int, s: int) -> float | None:
        cell = by_place.get((b, s))
        if cell is None or not fits[b, s]:
            return None
        return ((cell.tokens_per_second or low) - low) / (high - low)

    z = [[shade(b, s) for s in lengths] for b in batches]
    fig = go.Figure(
        go.Heatmap(
            z=z,
            x=list(range(len(lengths))),
            y=list(range(len(batches))),
            xgap=2,
            ygap=2,
            showscale=False,
            colorscale=[[i / 9, color] for i, color in enumerate(SEQUENTIAL)],
            zmin=0,
            zmax=1,
            hoverinfo="skip",
        )
    )
    for i, s in enumerate(lengths):
        for j, b in enumerate(batches):
            if (b, s) not in by_place:
                continue
            strength = z[j][i]
            color = QUIET if strength is None else PAPER if strength > 0.72 else INK
            text = units.format_gib(by_place[b, s].process_bytes)
            if by_place[b, s].process_bytes is None:
                text = "?"
            note(fig, i, j, text, color)
    _edge(fig, [[fits.get((b, s), False) for b in batches] for s in lengths])
    if length in lengths and batch in batches:
        i, j = lengths.index(length), batches.index(batch)
        fig.add_shape(
            type="rect",
            x0=i - 0.41,
            x1=i + 0.41,
            y0=j - 0.36,
            y1=j + 0.36,
            line={"color": INK, "width": 2},
        )
    frame(fig, 84 + 32 * len(batches))
    fig.update_layout(hovermode="closest", margin={"l": 52, "b": 48})
    fig.update_xaxes(
        tickvals=list(range(len(lengths))),
        ticktext=[f"{s:,}" for s in lengths],
        title_text=t("chart.axis.length", lang),
        showline=False,
        ticks="",
        title_standoff=10,
        fixedrange=True,
    )
    fig.update_yaxes(
        tickvals=list(range(len(batches))),
        ticktext=[str(b) for b in batches],
        title_text=t("chart.axis.batch", lang),
        showgrid=False,
        title_standoff=10,
        fixedrange=True,
    )
    return fig


def _edge(fig: go.Figure, columns: list[list[bool]]) -> None:
    """The line between what fits and what does not, a staircase over the columns."""
    if all(all(column) for column in columns):
        return
    xs, ys = [], []
    for i, column in enumerate(columns):
        height = next((j for j, good in enumerate(column) if not good), len(column)) - 0.5
        xs += [i - 0.5, i + 0.5]
        ys += [height, height]
    line = {"color": INK, "width": 2}
    fig.add_scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip")


def alternatives(
    rows: Sequence[tuple[str, float | None, int | None]], free_bytes: int | None, lang: str
) -> go.Figure:
    """Two aligned lanes, time and peak; `rows` are (name, seconds, bytes), the best first."""
    fig = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05, column_widths=[0.5, 0.5]
    )
    names = [name for name, _, _ in rows][::-1]
    peaks = [peak / units.GIB if peak is not None else None for _, _, peak in rows][::-1]
    seconds = [time for _, time, _ in rows][::-1]
    colors = [ADVISOR if i == len(rows) - 1 else PALE for i in range(len(rows))]
    free = None if free_bytes is None else free_bytes / units.GIB
    highest = max((p for p in peaks if p is not None), default=1.0)
    shows_free = free is not None and free < 3 * highest
    limit = free if shows_free and free is not None else 1.1 * highest
    lanes = (
        (1, seconds, [format_duration(s, lang) for s in seconds]),
        (2, peaks, [""] * len(peaks)),
    )
    for column, values, texts in lanes:
        fig.add_bar(
            y=names,
            x=values,
            orientation="h",
            width=0.46,
            marker={"color": colors, "line_width": 0},
            text=texts,
            textposition="outside",
            textfont={"color": INK, "size": TEXT_SIZE},
            cliponaxis=False,
            hoverinfo="skip",
            row=1,
            col=column,
        )
    for name, peak in zip(names, peaks, strict=True):
        text = (
            f"{units.format_gib(peak * units.GIB)} GiB" if peak is not None else t("unknown", lang)
        )
        note(fig, limit, name, text, INK, xref="x2", yref="y2", xanchor="left", xshift=8)
    if shows_free:
        fig.add_vline(x=free, line={"color": INK, "width": 1, "dash": "dash"}, row=1, col=2)
        text = t("chart.free", lang, free=free_bytes)
        note(fig, limit, 1.0, text, xref="x2", yref="paper", yanchor="bottom", xanchor="right")
    note(
        fig, 0, 1.0, t("chart.time", lang), xref="x", yref="paper", yanchor="bottom", xanchor="left"
    )
    note(
        fig,
        0,
        1.0,
        t("chart.peak.lane", lang),
        xref="x2",
        yref="paper",
        yanchor="bottom",
        xanchor="left",
    )
    frame(fig, 30 * len(rows) + 30)
    fig.update_layout(hovermode="closest", margin={"l": 4, "t": 22, "b": 4, "r": 70})
    longest = max((s for s in seconds if s is not None), default=1.0)
    fig.update_xaxes(visible=False, fixedrange=True)
    fig.update_xaxes(range=[0, limit], row=1, col=2)
    fig.update_xaxes(range=[0, 2.1 * longest], row=1, col=1)
    fig.update_yaxes(
        showgrid=False,
        automargin=True,
        tickfont={"color": INK, "size": 12},
        nticks=None,
        fixedrange=True,
    )
    return fig
