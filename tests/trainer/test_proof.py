"""Proofs: the real trainer on the longest batch, nothing saved, predicted beside measured."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.errors import InputError
from trainer import proof, record, runs

PLAN = {
    "memory": {
        "process_bytes": 300_000_000,
        "interval": {"process_bytes": [2e8, 4e8]},
        "capacity_bytes": 10**9,
        "verdict": "fits",
    },
    "time": {
        "step_seconds": 0.1,
        "longest_step_seconds": 0.3,
        "step_seconds_interval": [0.08, 0.12],
        "total_seconds": 10.0,
        "total_seconds_interval": [8.0, 12.0],
        "tokens_per_second": 900.0,
        "num_steps": 40,
    },
}
ACCUMULATED = {
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
}


@pytest.fixture(scope="module")
def proved(bench):
    plan = bench.root / "proved-plan.json"
    plan.write_text(json.dumps(PLAN))
    done = bench.train(bench.write(**ACCUMULATED), "--plan", plan, "--prove", "3")
    return Path(done.stdout.splitlines()[0]), done.stdout


def test_every_micro_batch_is_the_longest_of_the_data(bench, proved):
    run_dir, _ = proved
    rows = map(json.loads, bench.data.read_text().splitlines())
    lengths = sorted((len(row["text"].encode()) + 1 for row in rows), reverse=True)
    longest = [min(n, 48) for n in lengths[:3]]
    tokens = [event["num_input_tokens_seen"] for event in bench.events(run_dir, "log")]
    assert tokens == [2 * sum(longest) * step for step in (1, 2, 3)]
    saved = record.read_object(run_dir / record.RECORD)
    assert saved["proof"] == {"batch_rows": 3, "longest_tokens": longest[0]}
    assert saved["effective"]["effective_batch_size"] == 6


def test_nothing_is_evaluated_or_left_behind(bench, proved):
    run_dir, _ = proved
    assert {e["event"] for e in bench.events(run_dir)} == {
        "start",
        "warning",  # rows were cut
        "log",
        "memory",
        "end",
    }
    assert bench.events(run_dir, "end")[0]["model_path"] is None
    names = {path.name for path in run_dir.iterdir()}
    assert names == {".guard", "args.json", "plan.json", "run.json", "events.jsonl"}


def test_it_is_marked_and_the_longest_step_was_predicted(proved):
    run_dir, _ = proved
    status = runs.read_status(run_dir)
    assert (status.kind, status.state, status.step) == ("proof", "finished", 3)
    assert status.predicted["step_seconds"] == 0.3
    assert status.predicted["interval"]["step_seconds"] == pytest.approx([0.24, 0.36])
    assert status.predicted["tokens_per_second"] is None
    assert status.predicted["total_seconds"] is None


def test_shell_prints_predicted_beside_measured(proved):
    run_dir, out = proved
    measured = runs.read_status(run_dir).measured
    lines = out.splitlines()
    assert "proof: 3 of 3 steps with the longest batch, 3 x 48 tokens" in lines
    share = 100 * (measured["process_bytes"] / 3e8 - 1)
    assert any(line.startswith("process_bytes: ") and f"({share:+.1f} %)" in line for line in lines)
    assert any(line.startswith("step_seconds: predicted 0.3 s, measured") for line in lines)


def test_a_batch_larger_than_the_data_is_as_planned(bench):
    import datasets

    rows = datasets.Dataset.from_dict({"length": [3, 9, 5], "n": [0, 1, 2]})
    chosen, longest = proof.longest_batches(rows, 5, 2)
    assert chosen["n"][:] == [1, 2, 0, 1, 2] * 2
    assert longest == 9


@pytest.mark.parametrize("steps", [0, -3])
def test_no_step_is_refused(tmp_path, steps):
    with pytest.raises(InputError, match="at least 1"):
        proof.create("x", plan=None, arguments={}, steps=steps, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_with_a_run_is_refused(tmp_path):
    run_dir = proof.create("x", plan=None, arguments={}, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already"):
        proof.create("x", plan=None, arguments={}, run_dir=run_dir)


@pytest.mark.full
def test_out_of_memory_is_said_with_the_numbers(bench):
    """The kernel refuses what torch's CPU allocator asks for, in the first step."""
    plan = bench.root / "small-plan.json"
    plan.write_text(json.dumps(PLAN))
    args = bench.write(per_device_train_batch_size=20_000, optim="sgd")
    command = [
        sys.executable,
        "-P",
        "-m",
        "trainer",
        str(args),
        "--plan",
        str(plan),
        "--prove",
        "2",
    ]
    limit = 5 * 2**30

    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=bench.root,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1
    status = runs.read_status(Path(done.stdout.splitlines()[0]))
    assert status.state == "failed"
    assert status.measured["out_of_memory"] is True
    assert "allocate" in status.error
    assert "out of memory at step 1: 0.93 GiB were free when it was planned" in done.stdout
