"""Figures of Run as data: reality over prediction, the empty part is the time left."""

import dataclasses
import math

import pytest

from app import frames, live_charts
from app.series import Series

GIB = 2**30


def series(values, start=1):
    return Series(steps=list(range(start, start + len(values))), values=list(values))


def colored(fig, color):
    return [t for t in fig.data if getattr(t, "line", None) and t.line.color == color]


def test_axis_ends_at_the_planned_end():
    assert live_charts.line(series([2.0, 1.9]), 500, "en").layout.xaxis.range == (0, 500)


def test_prediction_is_drawn_below_reality():
    fig = live_charts.line(series([1.0, 1.1]), 10, "en", planned=lambda _s: 1.0)
    assert fig.data[0].line.color == frames.ADVISOR
    assert fig.data[0].line.dash == "dot"
    assert colored(fig, frames.INK)
    assert not colored(live_charts.line(series([1.0]), 10, "en"), frames.ADVISOR)


def test_smoothed_line_keeps_the_raw_one_pale_beneath():
    fig = live_charts.line(series([1.0, 3.0, 1.0, 3.0]), 10, "en", smoothed=True)
    raw, mean = fig.data[0], fig.data[1]
    assert raw.opacity < 0.3
    assert list(raw.y) == [1.0, 3.0, 1.0, 3.0]
    assert max(mean.y) < 3.0


def test_evaluations_are_diamonds():
    fig = live_charts.line(series([1.0, 1.0]), 10, "en", evals=series([1.2], start=2))
    diamonds = [t for t in fig.data if t.mode == "markers" and t.marker.symbol == "diamond"]
    assert [list(t.x) for t in diamonds] == [[2]]


def test_not_a_number_is_a_gap_and_a_red_mark():
    fig = live_charts.line(series([2.0, math.nan, 1.8]), 10, "en")
    marks = [s for s in fig.layout.shapes if s.line.color == frames.BRICK]
    assert [s.x0 for s in marks] == [2]
    line = colored(fig, frames.INK)[0]
    assert line.connectgaps is False
    assert not live_charts.line(series([2.0, 1.8]), 10, "en").layout.shapes


def test_long_runs_stay_light():
    fig = live_charts.line(series([1.0] * 50_000), 50_000, "en", smoothed=True)
    assert max(len(t.x) for t in fig.data) <= 2000


def test_memory_lane_shows_band_highest_and_stack(records):
    memory = records.recommendation().memory
    measured = series([9 * GIB, 11 * GIB, 10 * GIB])
    fig = live_charts.memory_lane(measured, memory, "process_bytes", 100, "en")
    assert any(s.fillcolor == frames.ADVISOR for s in fig.layout.shapes)
    stairs = next(t for t in fig.data if t.mode == "lines")
    assert list(stairs.y) == pytest.approx([9, 11, 11])
    stacked = sum(t.y[0] for t in fig.data if t.type == "bar")
    assert stacked == pytest.approx(memory.process_bytes / GIB)


@pytest.mark.parametrize(
    ("share", "free", "side"),
    [
        (0.97, 2.0, ("right", "bottom")),  # measured under the band: named above it
        (1.06, 2.0, ("right", "top")),
        (0.50, 1.06, ("right", "top")),
        (0.97, 1.06, ("left", "top")),
    ],
)
def test_no_line_goes_through_the_name_of_the_predicted_peak(records, share, free, side):
    memory = records.recommendation().memory
    peak = memory.process_bytes
    memory = dataclasses.replace(memory, capacity_bytes=int(free * peak))
    measured = series([0.3 * peak, share * peak, 0.4 * peak])
    fig = live_charts.memory_lane(measured, memory, "process_bytes", 30, "en")
    (name,) = (a for a in fig.layout.annotations if a.text.startswith("predicted peak"))
    assert (name.xanchor, name.yanchor) == side


def test_memory_lane_compares_like_with_like(records):
    """What the allocator holds is not set beside the stack of the whole process."""
    memory = records.recommendation().memory
    fig = live_charts.memory_lane(series([GIB]), memory, "allocated_bytes", 100, "en")
    assert not [t for t in fig.data if t.type == "bar"]
    assert not any("free" in (a.text or "") for a in fig.layout.annotations)


def test_memory_lane_without_a_prediction_has_no_band():
    fig = live_charts.memory_lane(series([GIB]), None, "process_bytes", None, "en")
    assert not fig.layout.shapes
