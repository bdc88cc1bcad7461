"""Overlays: on every axis, spikes and gaps kept, runs told apart."""

import math

import pytest

from advisor import events
from app import compare_charts
from app.run_data import RunData


def data(path, *, tokens=True, steps=range(1, 11), metric="eval_accuracy"):
    path.mkdir()
    lines = [events.encode("start", step=0, time=0.0)]
    for step in steps:
        extra = {"num_input_tokens_seen": 100 * step} if tokens else {}
        lines.append(events.encode("log", step=step, time=60.0 * step, loss=2.0 / step, **extra))
        lines.append(events.encode("eval", step=step, time=60.0 * step, **{metric: step / 10}))
    (path / "events.jsonl").write_text("".join(lines))
    return RunData(path).update()


def curve(fig, name):
    (found,) = [trace for trace in fig.data if trace.name == name]
    return list(found.x), list(found.y)


@pytest.mark.parametrize(("axis", "last"), [("step", 10), ("tokens", 1000), ("time", 10)])
def test_a_metric_of_any_kind_over_each_axis(tmp_path, axis, last):
    fig = compare_charts.overlay([("a", data(tmp_path / "a"))], "eval_accuracy", axis, "en")
    xs, ys = curve(fig, "a")
    assert (xs[-1], ys[-1]) == (last, 1.0)
    assert len(xs) == 10


def test_run_without_tokens_has_no_curve_over_them(tmp_path):
    named = [("a", data(tmp_path / "a", tokens=False)), ("b", data(tmp_path / "b"))]
    fig = compare_charts.overlay(named, "loss", "tokens", "en")
    assert {trace.name for trace in fig.data if trace.name} == {"b"}


def test_memory_is_drawn_in_gib_from_zero(tmp_path):
    run = data(tmp_path / "a")
    with run.path.open("a") as file:
        file.write(events.encode("memory", step=11, time=700.0, process_bytes=3 * 2**30))
    fig = compare_charts.overlay([("a", run.update())], "process_bytes", "step", "en")
    assert curve(fig, "a") == ([11.0], [3.0])
    assert fig.layout.yaxis.rangemode == "tozero"


def test_gap_is_drawn_as_a_gap(tmp_path):
    run = data(tmp_path / "a")
    with run.path.open("a") as file:
        file.write(events.encode("log", step=11, time=700.0, loss=math.nan))
        file.write(events.encode("log", step=12, time=760.0, loss=0.1))
    fig = compare_charts.overlay([("a", run.update())], "loss", "step", "en")
    assert [math.isnan(y) for y in curve(fig, "a")[1]][-2:] == [True, False]


def test_each_run_has_its_colour_and_at_most_five_are_drawn(tmp_path):
    named = [(str(n), data(tmp_path / str(n))) for n in range(7)]
    fig = compare_charts.overlay(named, "eval_accuracy", "step", "en")
    colors = [trace.line.color for trace in fig.data]
    assert colors == list(compare_charts.COLORS)
    labels = [a.text for a in fig.layout.annotations]
    assert len(labels) == 5
    assert all("<b>1</b>" in text for text in labels)
