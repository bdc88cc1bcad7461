"""Real training in processes of its own: what it learns, writes, and how it stops and resumes."""

import json
import math
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer import launch, record, runs

EVALUATED = {"max_steps": 60, "eval_strategy": "steps", "eval_steps": 20, "save_strategy": "steps"}


@pytest.fixture(scope="module")
def full(bench):
    """Trained without a pause: 60 steps, evaluated every 20, started from a shell."""
    done = bench.train(bench.write(**EVALUATED))
    return Path(done.stdout.splitlines()[0])


@pytest.fixture(scope="module")
def cut(bench, full):
    """The same, stopped inside the evaluation of step 20 (mid-epoch), then resumed."""
    validation = bench.root / "long.jsonl"
    bench.write_rows(validation, ["red fish blue fish"] * 20_000)
    arguments = bench.arguments(**EVALUATED, validation_file=str(validation))
    run_dir = runs.create_run("cut", plan=None, arguments=arguments)
    launch.start(run_dir)
    bench.wait(lambda: bench.steps(run_dir) >= 20)
    launch.stop(run_dir)
    bench.wait(lambda: not runs.is_active(run_dir), seconds=20)
    stopped = runs.read_status(run_dir)
    checkpoint = runs.newest_checkpoint(run_dir / "checkpoints")
    validation.write_bytes(bench.validation.read_bytes())
    launch.resume(run_dir)
    bench.wait(lambda: not runs.is_active(run_dir))
    return run_dir, stopped, checkpoint


def test_loss_falls_to_what_the_words_allow(bench, full):
    losses = bench.losses(full)
    assert list(losses) == list(range(1, 61))
    assert losses[1] == pytest.approx(math.log(258), abs=0.3)  # 258 tokens, nothing learned
    assert losses[60] < 3.2


def test_first_event_says_what_is_trained(bench, full):
    (start,) = bench.events(full, "start")
    assert bench.events(full)[0] == start
    assert (start["step"], start["num_steps"]) == (0, 60)
    assert (start["num_rows"], start["num_eval_rows"]) == (38, 2)
    assert start["device"] == "cpu"
    assert start["resumed_from_step"] is None
    used = record.read_object(full / record.RECORD)["effective"]
    assert used.items() <= start.items()
    assert used == {
        "device": "cpu",
        "world_size": 1,
        "weights_dtype": "float32",
        "trained_dtype": "float32",
        "autocast": None,
        "attn_implementation": "sdpa",
        "activation_checkpointing": False,
        "optimizer_class": "torch.optim.adamw.AdamW (fused)",
        "effective_batch_size": 3,
    }
    assert "transformers 5." in start["versions"]


def test_log_events_carry_measured_speed_and_tokens(bench, full):
    logs = bench.events(full, "log")
    for event in logs:
        assert event["step_seconds"] > 0
        assert event["tokens_per_second"] > 0
        assert event["learning_rate"] > 0
        assert event["grad_norm"] > 0
    tokens = [event["num_input_tokens_seen"] for event in logs]
    assert tokens == sorted(tokens)
    assert logs[-1]["epoch"] == pytest.approx(60 / 13)


def test_eval_events_carry_perplexity(bench, full):
    evals = bench.events(full, "eval")
    assert [event["step"] for event in evals] == [20, 40, 60]
    for event in evals:
        assert event["eval_perplexity"] == pytest.approx(math.exp(event["eval_loss"]))


def test_memory_is_the_peak_of_this_process(bench, full):
    peaks = [event["process_bytes"] for event in bench.events(full, "memory")]
    assert len(peaks) == 61  # one a log, one at the end
    assert peaks == sorted(peaks)
    assert 100e6 < peaks[-1] < 8e9
    assert runs.read_status(full).measured["process_bytes"] == peaks[-1]


def test_finished_run_is_recorded(bench, full):
    status = runs.read_status(full)
    assert (status.state, status.step, status.num_steps) == ("finished", 60, 60)
    assert (status.exit_code, status.signal, status.error, status.pid) == (0, None, None, None)
    losses = bench.losses(full)
    assert status.measured["first_loss"] == losses[1]
    assert status.measured["final_loss"] == losses[60]
    assert 0 < status.measured["step_seconds"] < status.measured["total_seconds"]
    (end,) = bench.events(full, "end")
    assert end["reason"] == "finished"
    assert (Path(end["model_path"]) / "model.safetensors").is_file()
    assert not (full / record.LOCK).exists()
    assert not list(full.glob(".features*"))


def test_checkpoint_event_counts_the_files(bench, full):
    event = bench.events(full, "checkpoint")[-1]
    files = [file for file in Path(event["path"]).rglob("*") if file.is_file()]
    assert event["bytes"] == sum(file.stat().st_size for file in files)
    assert event["seconds"] > 0


def test_stop_cuts_an_evaluation_short_and_saves(bench, cut):
    run_dir, stopped, checkpoint = cut
    assert (stopped.state, stopped.step, stopped.exit_code) == ("stopped", 20, 0)
    assert checkpoint == run_dir / "checkpoints" / "checkpoint-20"
    assert [event["reason"] for event in bench.events(run_dir, "end")] == ["stopped", "finished"]
    assert "evaluation_cut" in [event["code"] for event in bench.events(run_dir, "warning")]
    assert [event["step"] for event in bench.events(run_dir, "eval")] == [40, 60]


def test_resumed_run_equals_the_uninterrupted_one(bench, full, cut):
    run_dir, _, _ = cut
    assert bench.losses(run_dir) == bench.losses(full)
    assert [e["step"] for e in bench.events(run_dir, "start")] == [0, 20]
    assert bench.events(run_dir, "start")[1]["resumed_from_step"] == 20
    status = runs.read_status(run_dir)
    assert (status.state, status.step) == ("finished", 60)
    assert status.measured["first_loss"] == bench.losses(full)[1]
    assert not (run_dir / record.STOP).exists()


@pytest.mark.full
def test_sigterm_stops_adapters_mid_epoch_and_resume_is_exact(bench):
    lora = {
        "method": "lora",
        "lora_r": 4,
        "lora_dropout": 0.1,
        "max_steps": 120,
        "gradient_accumulation_steps": 2,
        "activation_checkpointing": True,
        "learning_rate": 1e-2,
    }
    arguments = bench.write(**lora)
    whole = Path(bench.train(arguments).stdout.splitlines()[0])
    run_dir = bench.root / "sigterm"
    argv = [sys.executable, "-P", "-m", "trainer", str(arguments), "--run-dir", str(run_dir)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        # 20 steps on, but not at the end of an epoch of 7 updates.
        bench.wait(lambda: bench.steps(run_dir) % 7 == 2 and bench.steps(run_dir) > 20)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 0, child.stderr.read()
    stopped = runs.read_status(run_dir)
    assert stopped.state == "stopped"
    assert 20 < stopped.step < 120
    assert runs.newest_checkpoint(run_dir / "checkpoints").name == f"checkpoint-{stopped.step}"
    (run_dir / record.STOP).touch()  # left behind; a new session does not obey it
    bench.train(arguments, "--run-dir", run_dir)
    assert runs.read_status(run_dir).state == "finished"
    assert bench.losses(run_dir) == bench.losses(whole)
    assert bench.losses(whole)[120] < bench.losses(whole)[1] - 0.1


def test_reader_that_leaves_after_the_first_line_does_not_end_the_run(bench):
    run_dir = bench.root / "unread"
    arguments = bench.write(max_steps=2)
    argv = [sys.executable, "-P", "-m", "trainer", str(arguments), "--run-dir", str(run_dir)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline().strip() == str(run_dir)
        child.stdout.close()
        assert child.wait(timeout=60) == 0, child.stderr.read()
    assert runs.read_status(run_dir).state == "finished"
    assert set(bench.losses(run_dir)) == {1, 2}


def test_nan_is_seen_and_not_logged_as_zero(bench):
    done = bench.train(bench.write(learning_rate=1e9, max_steps=12))
    run_dir = Path(done.stdout.splitlines()[0])
    bad = [e for e in bench.events(run_dir, "log") if "loss" in e.get("nonfinite", ())]
    assert bad
    assert all(event["loss"] is None for event in bad)
    assert "loss_not_finite" in [event["code"] for event in bench.events(run_dir, "warning")]
    assert runs.read_status(run_dir).measured["final_loss"] is None
    assert "NaN" not in (run_dir / record.RECORD).read_text()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rat": 1e-3}, "learning_rat"),
        ({"learning_rate": "5e-5"}, "learning_rate"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"use_cpu": "false"}, "use_cpu"),
    ],
)
def test_bad_arguments_exit_2_before_a_run_exists(bench, change, named):
    before = runs.list_runs()
    done = bench.train(bench.write(**change), check=False)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert runs.list_runs() == before


def test_other_arguments_do_not_continue_a_run(bench, full):
    done = bench.train(bench.write(**{**EVALUATED, "seed": 7}), "--run-dir", full, check=False)
    assert done.returncode == 2
    assert "seed" in done.stderr
    assert json.loads((full / record.ARGUMENTS).read_text()).get("seed") is None


def test_unusable_model_is_a_user_error_and_a_failed_run(bench):
    empty = bench.root / "no-model"
    empty.mkdir()
    done = bench.train(
        bench.write(config_name=str(empty), tokenizer_name=str(bench.model)), check=False
    )
    status = runs.read_status(Path(done.stdout.splitlines()[0]))
    assert done.returncode == 2
    assert str(empty) in done.stderr
    assert "Traceback" not in done.stderr
    assert (status.state, status.exit_code) == ("failed", 2)
    assert str(empty) in status.error


def test_parquet_files_are_trained_on_and_what_is_wrong_with_them_is_warned_of(bench):
    texts = json.loads(f"[{','.join(bench.data.read_text().splitlines())}]")
    words = [row["text"] for row in texts][:12]
    folder = bench.root / "parquet"
    folder.mkdir()
    for name, part in (("train-0", words[:6]), ("train-1", [*words[6:], words[0], ""])):
        pq.write_table(pa.table({"n": range(len(part)), "text": part}), folder / f"{name}.parquet")
    pq.write_table(pa.table({"n": [1], "text": [words[1]]}), folder / "dev.parquet")
    changes = {"train_file": str(folder), "validation_file": None, "max_steps": 2}
    run_dir = Path(bench.train(bench.write(**changes)).stdout.splitlines()[0])
    (start,) = bench.events(run_dir, "start")
    assert (start["num_rows"], set(bench.losses(run_dir))) == (13, {1, 2})
    warned = {e["code"]: e["message"] for e in bench.events(run_dir, "warning")}
    assert "row 8 of train-1.parquet" in warned["rows_left_out"]
    assert "row 7 of train-1.parquet repeats row 1 of train-0.parquet" in warned["rows_duplicates"]
    assert "1 of 1 evaluation rows" in warned["rows_overlap"]
    assert "rows_validation_split" not in warned


def test_broken_rows_are_refused_with_the_line_before_the_model_is_trained(bench):
    broken = bench.root / "broken.jsonl"
    broken.write_bytes(b'{"text": "a"}\n{"text": "b\n')
    done = bench.train(bench.write(train_file=str(broken)), check=False)
    assert done.returncode == 2
    assert "broken.jsonl, line 2: not valid JSON" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="liger-kernel is installed")
def test_liger_without_its_package_is_refused_before_the_start(bench):
    done = bench.train(bench.write(use_liger_kernel=True), check=False)
    assert done.returncode == 2
    assert "pip install liger-kernel" in done.stderr


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_8_bit_optimizer_without_its_package_is_refused_before_the_start(bench):
    done = bench.train(bench.write(optim="adamw_bnb_8bit"), check=False)
    assert done.returncode == 2
    assert "optim adamw_bnb_8bit needs the package bitsandbytes" in done.stderr


def test_failure_inside_training_exits_1_with_its_reason(bench):
    # Checked by nobody before the optimizer is made; the package is not among the dependencies.
    done = bench.train(bench.write(optim="schedule_free_adamw"), check=False)
    status = runs.read_status(Path(done.stdout.splitlines()[0]))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert (status.state, status.exit_code) == ("failed", 1)
    assert "schedulefree" in status.error
