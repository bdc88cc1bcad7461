"""Figures of Plan as data: slots instead of colours, nothing lost, the reader's language."""

import dataclasses
import itertools
import json
import re

import pytest

from app import charts, frames

ALLOWED_TEXT_COLORS = {frames.DARK_TEXT, frames.LIGHT_TEXT}
SLOTS = {f"#0000{i:02d}" for i in range(1, 21)} | {frames.PAPER, frames.GRID}


@pytest.fixture
def rec(records):
    return records.recommendation()


def colors(fig):
    return set(re.findall(r"#[0-9A-Fa-f]{6}\b", json.dumps(fig.to_plotly_json(), default=str)))


def texts(fig):
    axes = [fig.layout.xaxis.title.text, fig.layout.yaxis.title.text]
    return [a.text for a in fig.layout.annotations] + axes


def all_figures(rec, records, lang="en"):
    cells = records.FakeAdvisor().sweep(records.Question(), rec.plan)
    yield charts.memory_bar(rec.memory, 15 * 2**30, lang)
    yield charts.step_timeline(rec.timeline, rec.memory, 0.25, lang)
    yield charts.batch_length_map(cells, 1, 1986, lang)
    yield charts.alternatives([("a", 60.0, 2**30), ("b", None, None)], 2**31, lang)


def test_colours_are_slots_that_the_theme_fills(rec, records):
    for fig in all_figures(rec, records):
        fig.layout.template = None
        assert colors(fig) <= SLOTS | ALLOWED_TEXT_COLORS


def test_no_figure_has_a_title_or_a_legend(rec, records):
    for fig in all_figures(rec, records):
        assert fig.layout.title.text is None
        assert fig.layout.showlegend is False


def test_bar_stacks_every_category_up_to_the_peak(rec):
    fig = charts.memory_bar(rec.memory, 15 * 2**30, "en")
    bars = [trace for trace in fig.data if trace.type == "bar"]
    assert sum(bar.x[0] for bar in bars) == pytest.approx(rec.memory.process_bytes / 2**30)
    for left, right in itertools.pairwise(bars):
        assert right.base == pytest.approx(left.base + left.x[0])


def test_bar_outlines_what_does_not_fit_and_only_then(rec):
    def outlined(memory):
        fig = charts.memory_bar(memory, 15 * 2**30, "en")
        return [s for s in fig.layout.shapes if s.line.color == frames.BRICK]

    assert not outlined(rec.memory)
    assert outlined(dataclasses.replace(rec.memory, capacity_bytes=5 * 2**30))


def test_small_peak_on_a_large_machine_stays_readable(rec):
    memory = dataclasses.replace(rec.memory, capacity_bytes=2000 * 2**30)
    fig = charts.memory_bar(memory, 2000 * 2**30, "en")
    peak = rec.memory.process_bytes / 2**30
    assert fig.layout.xaxis.range[1] < 2 * peak
    assert any("2,000 free" in text for text in texts(fig) if text)


def test_unknown_capacity_draws_no_free_line(rec):
    memory = dataclasses.replace(rec.memory, capacity_bytes=None)
    assert not any("free" in text for text in texts(charts.memory_bar(memory, None, "en")) if text)


def test_timeline_shows_time_only_where_it_is_known(rec):
    with_time = charts.step_timeline(rec.timeline, rec.memory, 0.25, "en")
    without = charts.step_timeline(rec.timeline, rec.memory, None, "en")
    assert with_time.layout.xaxis.ticksuffix == " ms"
    assert with_time.layout.xaxis.range[1] == pytest.approx(250)
    assert without.layout.xaxis.ticksuffix == " %"


def test_timeline_says_what_the_process_holds(rec):
    held = f"{rec.memory.process_bytes / 2**30:.1f}"
    notes = texts(charts.step_timeline(rec.timeline, rec.memory, None, "en"))
    assert any(held in text and "held" in text for text in notes if text)


def test_map_gives_no_colour_to_what_does_not_fit(rec, records):
    cells = records.FakeAdvisor().sweep(records.Question(), rec.plan)
    fig = charts.batch_length_map(cells, 1, 1986, "en")
    lengths, batches = sorted({c.length for c in cells}), sorted({c.batch for c in cells})
    for cell in cells:
        z = fig.data[0].z[batches.index(cell.batch)][lengths.index(cell.length)]
        assert (z is not None) == (cell.verdict in ("fits", "tight"))


def test_map_outlines_the_plan_only_inside_the_grid(rec, records):
    cells = records.FakeAdvisor().sweep(records.Question(), rec.plan)
    assert len(charts.batch_length_map(cells, 1, 1986, "en").layout.shapes) == 1
    assert len(charts.batch_length_map(cells, 3, 1986, "en").layout.shapes) == 0


def test_alternatives_colour_only_the_recommended_one():
    fig = charts.alternatives([("best", 60.0, 2**30), ("other", 90.0, 2**29)], 2**31, "en")
    for trace in fig.data:
        color = dict(zip(trace.y, trace.marker.color, strict=True))
        assert color == {"best": frames.ADVISOR, "other": frames.PALE}


def test_names_in_figures_follow_the_language(rec, records):
    for english, chinese in zip(
        all_figures(rec, records, "en"), all_figures(rec, records, "zh"), strict=True
    ):
        assert texts(english) != texts(chinese)


def test_faded_figure_has_no_strong_trace(rec):
    fig = frames.fade(charts.memory_bar(rec.memory, 15 * 2**30, "en"))
    assert all(trace.opacity <= 0.35 for trace in fig.data)


def test_measured_peak_is_a_diamond_that_is_always_in_sight(records):
    memory = records.recommendation().memory
    far = 3 * memory.process_bytes
    fig = charts.memory_bar(memory, None, "en", measured_bytes=far)
    (mark,) = [trace for trace in fig.data if trace.type == "scatter"]
    assert mark.x[0] == pytest.approx(far / 2**30)
    assert mark.x[0] < fig.layout.xaxis.range[1]
    assert not [t for t in charts.memory_bar(memory, None, "en").data if t.type == "scatter"]
