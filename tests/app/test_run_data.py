"""Events to series: incremental, honest about what was not finite, right after a resume."""

import json
import math
import subprocess
import sys

import pytest

from advisor import events
from advisor.plan import TrainingPlan
from app.run_data import RunData, planned_rate, smooth, thin


def write(path, *lines):
    with (path / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def log(step, loss, **kw):
    return events.encode("log", step=step, time=float(step), loss=loss, **kw)


def test_only_what_is_new_is_read(tmp_path):
    write(tmp_path, log(1, 2.0), log(2, 1.9))
    data = RunData(tmp_path).update()
    write(tmp_path, log(3, 1.8))
    data.update()
    assert data.series["loss"].steps == [1, 2, 3]
    assert data.num_events == 3


def test_half_written_line_waits(tmp_path):
    whole = log(2, 1.9)
    write(tmp_path, log(1, 2.0), whole[:20])
    data = RunData(tmp_path).update()
    assert data.series["loss"].steps == [1]
    write(tmp_path, whole[20:])
    assert data.update().series["loss"].steps == [1, 2]


def test_absent_file_is_an_empty_run(tmp_path):
    data = RunData(tmp_path).update()
    assert data.step == 0
    assert data.series["loss"].last() is None


def test_nan_is_a_gap_and_is_remembered(tmp_path):
    write(tmp_path, log(1, 2.0), log(2, math.nan), log(3, 1.8))
    loss = RunData(tmp_path).update().series["loss"]
    assert loss.bad_steps() == [2]
    assert loss.last() == 1.8


def test_value_that_was_not_logged_is_no_gap(tmp_path):
    write(tmp_path, log(1, 2.0, grad_norm=1.0), log(2, 1.9))
    assert RunData(tmp_path).update().series["grad_norm"].steps == [1]


def test_resume_replaces_the_steps_that_are_done_again(tmp_path):
    write(tmp_path, events.encode("start", step=0, time=0.0), log(10, 2.0), log(20, 1.5))
    write(tmp_path, events.encode("start", step=10, time=100.0), log(20, 1.4))
    loss = RunData(tmp_path).update().series["loss"]
    assert (loss.steps, loss.values) == ([10, 20], [2.0, 1.4])


def test_pause_between_sessions_is_not_training_time(tmp_path):
    write(tmp_path, events.encode("start", step=0, time=0.0), log(10, 2.0))
    write(tmp_path, events.encode("start", step=10, time=5000.0))
    write(tmp_path, events.encode("log", step=20, time=5010.0, loss=1.9))
    assert RunData(tmp_path).update().active_seconds == pytest.approx(20.0)


def test_replaced_file_is_read_again(tmp_path):
    write(tmp_path, *(log(s, 2.0) for s in range(1, 20)))
    data = RunData(tmp_path).update()
    (tmp_path / "events.jsonl").write_text(log(1, 3.0), encoding="utf-8")
    assert data.update().series["loss"].values == [3.0]


def test_thinning_keeps_spikes_ends_and_gaps():
    steps = list(range(50_000))
    values = [1.0] * 50_000
    values[31_337], values[40_000] = 99.0, math.nan
    kept_steps, kept = thin(steps, values)
    assert len(kept) <= 2000
    assert 99.0 in kept
    assert any(math.isnan(v) for v in kept)
    assert (kept_steps[0], kept_steps[-1]) == (0, 49_999)
    assert kept_steps == sorted(kept_steps)


def test_short_series_is_not_thinned():
    assert thin([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])


def test_smoothing_is_a_mean_and_keeps_gaps():
    values = [2.0, 2.0, math.nan, 2.0]
    out = smooth(values)
    assert [v for v in out if not math.isnan(v)] == pytest.approx([2.0, 2.0, 2.0])
    assert math.isnan(out[2])


def test_planned_rate_is_what_transformers_computes():
    """Against the real schedulers, in a process of its own: the pages never import torch."""
    names = ["linear", "cosine", "constant", "constant_with_warmup"]
    program = """
import json, sys, torch
from transformers import get_scheduler
rates = {}
for name in sys.argv[1:]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=50)
    rates[name] = []
    for _ in range(51):
        rates[name].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
print(json.dumps(rates))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, text=True, check=True
    )
    for name, expected in json.loads(done.stdout).items():
        plan = TrainingPlan(
            lr_scheduler_type=name, learning_rate=1e-3, warmup_steps=0.1, max_steps=50
        )
        rate = planned_rate(plan, 1000)
        assert [rate(step + 1) for step in range(51)] == pytest.approx(expected, abs=1e-12), name


def test_unknown_schedule_is_not_drawn():
    assert planned_rate(TrainingPlan(lr_scheduler_type="inverse_sqrt"), 100) is None
