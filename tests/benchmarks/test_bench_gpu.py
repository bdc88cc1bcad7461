"""bench_gpu.py without a GPU: its questions, its whole path on a CPU, its meter on a fake one."""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import bench
import bench_gpu
import formulas
import pytest
from gpu import measure
from gpu.configurations import MODELS, configurations, tiny

from advisor.spec import read_spec

HERE = Path(__file__).parent


def _read(row):
    """The row through the library's reader, as if it came from a card of the catalogue."""
    machine = {"accelerator": "NVIDIA H100 80GB HBM3", "count": 1}
    return read_spec(row | {"machine": machine}, worker=None)


def test_every_question_is_one_the_library_reads_and_no_two_are_the_same():
    asked = configurations()
    assert len({c["id"] for c in asked}) == len(asked) > 50
    assert len({json.dumps(c["plan"] | c["model"], sort_keys=True) for c in asked}) == len(asked)
    assert {c["model"]["name"] for c in asked} == set(MODELS)
    for configuration in asked:
        spec = _read(configuration)
        assert spec.plan.per_device_train_batch_size >= 1


def test_the_questions_cover_every_choice():
    plans = [c["plan"] for c in configurations()]
    assert {plan["optim"] for plan in plans} == {
        "adamw_torch_fused",
        "adamw_torch",
        "adafactor",
        "sgd",
    }
    assert {plan["method"] for plan in plans} == {"full", "lora"}
    assert {plan["attn_implementation"] for plan in plans} == {"sdpa", "eager"}
    assert {plan["activation_checkpointing"] for plan in plans} == {True, False}
    precisions = {(p["dtype"], p["bf16"], p["fp16"]) for p in plans}
    assert len(precisions) == 6


def test_formulas_count_every_model_that_is_measured():
    for name in MODELS:
        first = next(c for c in configurations() if c["model"]["name"] == name)
        small = tiny(first)
        shape = formulas.shape_of(small["model"]["config"], small["plan"])
        assert shape.params > 0
        assert (shape.vocab > 0) == (name != "vit-base")


def test_it_imports_nothing_of_ours():
    for path in [HERE / "bench_gpu.py", *(HERE / "gpu").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"advisor", "trainer", "app"}


def _run(*options, **environment):
    return subprocess.run(
        [sys.executable, HERE / "bench_gpu.py", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment,
    )


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = _run("--out", tmp_path / "out", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0
    assert done.stdout == "bench-gpu: no CUDA GPU on this machine, nothing measured.\n"
    assert not (tmp_path / "out").exists()


def test_the_whole_run_on_a_cpu(tmp_path):
    done = _run("--out", tmp_path, "--device", "cpu", "--configurations", 2, "--seconds", 200)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "log.txt",
        "probe.json",
        "rows.jsonl",
        "summary.json",
    ]
    rows = bench.read_rows(tmp_path)
    assert [row["id"] for _, row in rows] == [tiny(c)["id"] for c in configurations()[:2]]
    for _, row in rows:
        assert row["measured"]["step_seconds"] > 0
        assert row["measured"]["allocated_bytes"] is None
        assert row["software"]["torch"]
        _read(row)
    probe = json.loads((tmp_path / "probe.json").read_text())
    for section in ("matmul", "launch", "memory", "attention", "optimizer", "host", "sustained"):
        assert "error" not in probe[section]["found"], section
        assert "error" not in json.dumps(probe[section]), section
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rows"] == {"fits": 2, "oom": 0, "error": 0}
    assert summary["by_fork"]


@pytest.fixture
def runner(tmp_path):
    options = argparse.Namespace(out=tmp_path, device="cpu", configurations=None)
    return bench_gpu.Runner(options, time.monotonic() + 60)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_fails_crashes_or_hangs_is_a_row_with_its_error(runner, monkeypatch):
    asked = configurations()[0]

    def row(work):
        monkeypatch.setattr(bench_gpu, "_measure", lambda *_: work())
        return runner.row(asked, 1.0)

    failed = row(lambda: 1 / 0)
    assert failed["measured"]["error"] == "ZeroDivisionError: division by zero"
    assert failed["measured"]["verdict"] is None
    assert "ended with 3" in row(lambda: os._exit(3))["measured"]["error"]
    assert "no answer in 1 s" in row(lambda: time.sleep(30))["measured"]["error"]
    good = row(lambda: {"measured": {"verdict": "fits"}, "accelerator": "X", "software": {}})
    assert good["machine"] == {"accelerator": "X", "count": 1}
    _read(failed)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_cuda_started_in_the_parent_means_fresh_processes(runner, monkeypatch):
    monkeypatch.setattr(runner, "_spawned", lambda name, answer, *_: answer.write_text('{"a": 1}'))

    def refuse():
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")

    assert runner.child("x", 5, refuse) == {"a": 1}
    assert not runner.by_fork


class _FakeCuda:
    """torch.cuda's counters: each step peaks at 100 in forward, 200 in backward, 150 after."""

    OutOfMemoryError = MemoryError

    def __init__(self):
        self.peak = self.resets = 0

    def max_memory_allocated(self):
        self.peak += 100
        return self.peak

    def reset_peak_memory_stats(self):
        self.peak = 0
        self.resets += 1

    def max_memory_reserved(self):
        return 1000

    def memory_reserved(self):
        return 900

    def memory_allocated(self):
        return 50

    def memory_stats(self):
        return {"num_alloc_retries": 0}


def test_the_meter_reads_peaks_after_the_warm_steps_and_phases_of_the_last(monkeypatch):
    meter = measure.Meter("cpu")
    meter.is_cuda, meter._cuda = True, _FakeCuda()
    monkeypatch.setattr(measure.devices, "process_bytes", lambda: 1300)
    monkeypatch.setattr(measure, "MOST_STEPS", 3)
    configuration = tiny(configurations()[0])
    configuration["plan"]["gradient_accumulation_steps"] = 2
    measure._train(configuration, "cpu", meter)
    found = meter.result()
    assert found["reserved_bytes"] == found["overall_reserved_bytes"] == 1000
    assert found["process_bytes"] == 1300
    assert found["context_at_end_bytes"] == 400
    assert found["process_bytes_source"] == "by process id"
    assert set(found["phases"]) == {"forward", "backward", "optimizer"}
    assert len(found["step_seconds_all"]) == 3
    # after the warm steps, before the phases, and at the end of each: 2 forward, 2 backward, 1
    assert meter._cuda.resets == 2 + 5


def test_steps_that_the_loss_scaler_skips_are_not_measured(monkeypatch):
    monkeypatch.setattr(measure, "MOST_STEPS", 3)
    meter = measure.Meter("cpu")
    steps = measure._callback(meter)
    accelerator, control = argparse.Namespace(), argparse.Namespace(should_training_stop=False)
    steps.trainer = argparse.Namespace(accelerator=accelerator)
    skipped = [True, True, False, False, True, False, False, False, True]
    state = argparse.Namespace(global_step=0)
    while not control.should_training_stop:
        steps.on_step_begin(None, state, control)
        accelerator.optimizer_step_was_skipped = (
            state.global_step < 9 and skipped[state.global_step]
        )
        state.global_step += 1
        steps.on_step_end(None, state, control)
    assert state.global_step == 10
    assert meter.skipped == 4
    assert len(meter.step_seconds) == 3
    assert meter.phase_step == 9


def test_the_end_of_the_time_is_no_error_of_a_configuration(runner, monkeypatch):
    monkeypatch.setattr(runner, "child", lambda *_: {"error": "no answer"})
    monkeypatch.setattr(bench_gpu, "LEAST_SECONDS", -1e9)
    runner.deadline = time.monotonic()
    runner.run()
    assert (runner.options.out / "rows.jsonl").read_text() == ""
    summary = json.loads((runner.options.out / "summary.json").read_text())
    assert len(summary["not_reached"]) == len(configurations())


def test_tied_weights_stay_tied_when_nothing_is_filled():
    model = measure.build(tiny(configurations()[0]))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_running_out_of_memory_is_a_measurement_and_other_errors_are_not(monkeypatch):
    import torch

    def fail(error):
        def train(*_):
            raise error

        monkeypatch.setattr(measure, "_train", train)
        return measure.measure(configurations()[0], "cpu")

    assert fail(torch.cuda.OutOfMemoryError("full"))["verdict"] == "oom"
    assert fail(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))["verdict"] == "oom"
    with pytest.raises(RuntimeError, match="shape"):
        fail(RuntimeError("shape"))
