"""Events to series: incremental, honest about what was not finite, right after a resume."""

import json
import math
import subprocess
import sys

import pytest

from advisor import events
from advisor.plan import TrainingPlan
from app import run_data
from app.run_data import RunData, planned_rate
from app.series import Series


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
    assert list(data.series["loss"].steps) == [1, 2, 3]
    assert data.num_events == 3


def test_half_written_line_waits(tmp_path):
    whole = log(2, 1.9)
    write(tmp_path, log(1, 2.0), whole[:20])
    data = RunData(tmp_path).update()
    assert list(data.series["loss"].steps) == [1]
    write(tmp_path, whole[20:])
    assert list(data.update().series["loss"].steps) == [1, 2]


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
    assert list(RunData(tmp_path).update().series["grad_norm"].steps) == [1]


def test_resume_replaces_the_steps_that_are_done_again(tmp_path):
    write(tmp_path, events.encode("start", step=0, time=0.0), log(10, 2.0), log(20, 1.5))
    write(tmp_path, events.encode("start", step=10, time=100.0), log(20, 1.4))
    loss = RunData(tmp_path).update().series["loss"]
    assert (list(loss.steps), list(loss.values)) == ([10, 20], [2.0, 1.4])


def test_pause_between_sessions_is_not_training_time(tmp_path):
    write(tmp_path, events.encode("start", step=0, time=0.0), log(10, 2.0))
    write(tmp_path, events.encode("start", step=10, time=5000.0))
    write(tmp_path, events.encode("log", step=20, time=5010.0, loss=1.9))
    assert RunData(tmp_path).update().active_seconds == pytest.approx(20.0)


def test_replaced_file_is_read_again(tmp_path):
    write(tmp_path, *(log(s, 2.0) for s in range(1, 20)))
    data = RunData(tmp_path).update()
    (tmp_path / "events.jsonl").write_text(log(1, 3.0), encoding="utf-8")
    assert list(data.update().series["loss"].values) == [3.0]


def test_read_in_pieces_is_read_whole(tmp_path, monkeypatch):
    """In chunks that cut lines, with and without a limit of time, a resume in the middle."""
    begin = events.encode("start", step=0, time=0.0)
    again = events.encode("start", step=300, time=900.0)
    memory = (events.encode("memory", step=s, time=s, process_bytes=s) for s in range(400))
    evals = (events.encode("eval", step=s, time=s, eval_accuracy=0.5) for s in range(0, 400, 9))
    logs = [log(s, 2.0 / (s + 1), epoch=s / 9, num_input_tokens_seen=7 * s) for s in range(400)]
    write(tmp_path, begin, *logs, *memory, *evals, again, *logs[301:])
    whole = RunData(tmp_path).update()
    monkeypatch.setattr(run_data, "CHUNK_BYTES", 777)
    pieces = RunData(tmp_path)
    reads = 0
    while pieces.update(max_seconds=1e-9).share_read() < 1:
        reads += 1
    assert reads > 50
    assert pieces.series.keys() == whole.series.keys()
    for name, series in whole.series.items():
        assert list(pieces.series[name].steps) == list(series.steps), name
        assert list(pieces.series[name].values) == list(series.values), name
    assert (pieces.num_events, pieces.step) == (whole.num_events, whole.step)
    assert pieces.active_seconds == whole.active_seconds
    assert {"eval_accuracy", "loss", "process_bytes"} <= set(whole.metrics())


def test_names_are_listed_while_another_session_reads_a_new_series(tmp_path):
    data = RunData(tmp_path)
    write(tmp_path, log(1, 2.0))
    data.update()

    class Reads(Series):
        """While its length is asked for, the file's next line is read."""

        def __len__(self):
            write(tmp_path, log(2, 2.0, note=1.0))
            data.update()
            return super().__len__()

    data.series["loss"] = Reads([1], [2.0])
    assert data.metrics() == ["loss"]
    assert "note" in data.metrics()


def test_without_time_left_only_the_first_chunk_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "CHUNK_BYTES", 100)
    write(tmp_path, *(log(s, 2.0) for s in range(50)))
    data = RunData(tmp_path)
    first = data.update(max_seconds=0.0).num_events
    assert 0 < first < 50
    assert data.update(max_seconds=0.0).num_events == first
    assert data.update().num_events == 50


def test_line_longer_than_a_chunk_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "CHUNK_BYTES", 10)
    write(tmp_path, log(1, 2.0, note="x" * 500), log(2, 1.0))
    assert list(RunData(tmp_path).update().series["loss"].steps) == [1, 2]


def test_seconds_and_tokens_are_axes(tmp_path):
    write(tmp_path, events.encode("start", step=0, time=0.0))
    write(tmp_path, *(log(s, 2.0, num_input_tokens_seen=100 * s) for s in (10, 20)))
    data = RunData(tmp_path).update()
    assert list(data.get("seconds").at([10, 15, 20])) == [10.0, 15.0, 20.0]
    assert list(data.get("num_input_tokens_seen").at([10, 15])) == [1000.0, 1500.0]
    assert math.isnan(data.get("seconds").at([5])[0])


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
