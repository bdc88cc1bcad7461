"""Run directories and what is told of them; no process is started."""

import contextlib
import json
import signal
import stat

import pytest

from advisor import events
from advisor.errors import InputError
from trainer import __main__ as trainer_main
from trainer import proof, record, runs, runs_cli
from trainer.event_log import EventLog


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_dir(home):
    return runs.create_run("a run", plan=None, arguments={"train_file": "rows.jsonl"})


def write_events(run_dir, *lines):
    with (run_dir / record.EVENTS).open("a") as file:
        for kind, step, values in lines:
            file.write(events.encode(kind, step=step, **values))


def test_runs_of_the_same_second_have_their_own_directories(home):
    made = [runs.create_run("x", plan=None, arguments={}) for _ in range(5)]
    assert len(set(made)) == 5
    assert all(path.parent == home / "runs" for path in made)


def test_slug_cannot_leave_the_runs_directory(home):
    made = runs.create_run("../../Etc/Passwd", plan=None, arguments={})
    assert made.parent == home / "runs"
    assert made.name.endswith("-etc-passwd")


def test_paths_become_absolute_and_hub_ids_stay(home):
    (home / "model").mkdir()
    given = {
        "model_name_or_path": "model",
        "tokenizer_name": "org/name",
        "train_file": "rows.jsonl",
        "output_dir": "checkpoints",
    }
    run_dir = runs.create_run("x", plan=None, arguments=given)
    written = json.loads((run_dir / record.ARGUMENTS).read_text())
    assert written == {
        "model_name_or_path": str(home / "model"),
        "tokenizer_name": "org/name",
        "train_file": str(home / "rows.jsonl"),
        "output_dir": "checkpoints",
    }


def test_relative_output_dir_lies_inside_and_absolute_stays(run_dir, tmp_path):
    assert runs.checkpoints_dir(run_dir, {}) == run_dir / "checkpoints"
    assert runs.checkpoints_dir(run_dir, {"output_dir": "out"}) == run_dir / "out"
    assert runs.checkpoints_dir(run_dir, {"output_dir": str(tmp_path)}) == tmp_path


def test_predictions_are_copied_from_the_plan(home):
    plan = {
        "memory": {
            "process_bytes": 9,
            "allocated_bytes": 7,
            "reserved_bytes": None,
            "interval": {"process_bytes": [8, 10]},
            "categories": {"context": 2},
        },
        "time": {"step_seconds": 0.5, "step_seconds_interval": [0.4, 0.6], "num_steps": 20},
    }
    run_dir = runs.create_run("x", plan=plan, arguments={})
    predicted = runs.read_status(run_dir).predicted
    assert predicted["process_bytes"] == 9
    assert predicted["context_bytes"] == 2
    assert predicted["total_seconds"] is None
    assert predicted["interval"] == {"process_bytes": [8, 10], "step_seconds": [0.4, 0.6]}
    assert json.loads((run_dir / record.PLAN).read_text()) == plan


def test_incomplete_checkpoints_are_passed_over(tmp_path):
    for name, files in {
        "checkpoint-5": ["trainer_state.json"],
        "checkpoint-10": ["trainer_state.json"],
        "checkpoint-15": ["model.safetensors"],
        "checkpoint-20": ["trainer_state.json", "checkpoint-is-incomplete.txt"],
        "checkpoint-25": ["trainer_state.json", "optimizer.pt"],  # no archive: JSON is in it
        "checkpoint-30": ["trainer_state.json", "model.safetensors"],
        "checkpoint-x": ["trainer_state.json"],
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            step = int(name.removeprefix("checkpoint-").replace("x", "0"))
            (tmp_path / name / file).write_text(json.dumps({"global_step": step}))
    (tmp_path / "checkpoint-35").mkdir()
    (tmp_path / "checkpoint-35" / "trainer_state.json").write_text('{"global_step": 3')
    assert runs.newest_checkpoint(tmp_path).name == "checkpoint-10"
    assert runs.newest_checkpoint(tmp_path / "absent") is None


def test_created_run_waits_to_be_started(run_dir):
    status = runs.read_status(run_dir)
    assert status.state == "lost"
    assert "never started" in status.error


def test_exit_code_zero_without_an_end_is_not_finished(run_dir):
    write_events(run_dir, ("start", 0, {}), ("log", 3, {"loss": 1.0}))
    record.update(run_dir, state="running", exit_code=0)
    assert runs.read_status(run_dir).state == "failed"


def test_failure_shows_the_error_line_and_not_the_last_one(run_dir):
    (run_dir / record.OUTPUT).write_text(
        "step 1\nTraceback (most recent call last):\n  File x\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n\n"
        "[W1124 process group was not destroyed]\n"
    )
    record.update(run_dir, state="failed", exit_code=1)
    status = runs.read_status(run_dir)
    assert status.error == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"


@pytest.mark.parametrize(
    ("state", "ended", "seen"),
    [
        ("finished", {"exit_code": 0}, "finished"),
        ("finished", {}, "finished"),
        ("finished", {"exit_code": 1}, "failed"),
        ("finished", {"signal": int(signal.SIGSEGV)}, "failed"),
        ("stopped", {"exit_code": 0}, "stopped"),
        ("stopped", {"exit_code": 130}, "stopped"),
        ("stopped", {"exit_code": 1}, "failed"),
        ("running", {"exit_code": 0}, "failed"),
    ],
)
def test_recorded_end_counts_where_the_end_event_found_no_room(run_dir, state, ended, seen):
    write_events(run_dir, ("start", 0, {}), ("log", 3, {"loss": 1.0}))
    record.update(run_dir, state=state, **ended)
    assert runs.read_status(run_dir).state == seen


def test_memory_that_did_not_suffice_is_forgotten_by_a_session_that_went_on(run_dir):
    before = {"out_of_memory": True, "first_loss": 3.0, "total_seconds": 5.0}
    record.update(run_dir, measured=before)
    measured = {"first_loss": 2.0, "total_seconds": 7.0}
    with contextlib.closing(EventLog(run_dir / record.EVENTS)) as log:
        trainer_main._write_end(run_dir, log, reason="finished", step=9, measured=measured)
    assert runs.read_status(run_dir).measured == {"first_loss": 3.0, "total_seconds": 12.0}


def test_given_directory_is_for_its_owner_alone(tmp_path):
    for name, create in (("run", runs.make_directory), ("proof", proof_in)):
        create(tmp_path / "new" / name)
        assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o700


def proof_in(run_dir):
    return proof.create("x", plan=None, arguments={}, run_dir=run_dir)


@pytest.mark.parametrize("option", [[], ["--prove", "2"]])
def test_directory_that_cannot_be_made_is_said(tmp_path, capsys, option):
    (tmp_path / "file").touch()
    args = tmp_path / "args.json"
    args.write_text(json.dumps({"config_name": "x", "train_file": "rows.jsonl"}))
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        code = trainer_main.main([str(args), "--run-dir", str(place), *option])
        said = capsys.readouterr().err
        assert code == 2
        assert f"{place} cannot be written" in said


def test_runs_below_a_file_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        runs.create_run("x", plan=None, arguments={}, root=tmp_path / "file")


def test_end_of_an_earlier_session_does_not_count(run_dir):
    write_events(run_dir, ("start", 0, {}), ("end", 7, {"reason": "stopped"}))
    assert runs.read_status(run_dir).state == "stopped"
    record.update(
        run_dir,
        state="running",
        session_offset=record.events_size(run_dir),
        signal=int(signal.SIGSEGV),
    )
    write_events(run_dir, ("start", 7, {}))
    status = runs.read_status(run_dir)
    assert status.state == "failed"
    assert "SIGSEGV" in status.error


def test_status_of_a_long_run_reads_its_tail_alone(run_dir):
    write_events(run_dir, ("start", 0, {}))
    write_events(run_dir, *(("log", step, {"loss": 1.0}) for step in range(1, 3000)))
    write_events(run_dir, ("end", 2999, {"reason": "finished"}))
    assert record.events_size(run_dir) > runs._TAIL_BYTES
    status = runs.read_status(run_dir)
    assert (status.state, status.step) == ("finished", 2999)


def test_list_is_newest_first_and_passes_over_what_is_foreign_or_half_written(home):
    first = runs.create_run("first", plan=None, arguments={})
    second = runs.create_run("second", plan=None, arguments={})
    record.update(first, started_at=1.0)
    record.update(second, started_at=2.0)
    (home / "runs" / "foreign").mkdir()
    (home / "runs" / "file").touch()
    half = home / "runs" / "half"
    half.mkdir()
    (half / record.RECORD).write_text('{"state": "runn')
    found = runs.list_runs()
    assert [status.name for status in found] == [second.name, first.name, "half"]
    assert found[-1].state == "lost"
    assert "damaged" in found[-1].error


def test_half_written_file_never_replaces_a_good_one(run_dir):
    path = run_dir / record.RECORD
    before = path.read_text()
    with pytest.raises(ValueError, match="JSON compliant"):
        record.write_json(path, {"loss": float("nan")})
    assert path.read_text() == before
    assert not list(run_dir.glob(f".{record.RECORD}-*"))


def test_cli_lists_and_shows(run_dir, capsys):
    write_events(run_dir, ("start", 0, {}), ("end", 4, {"reason": "finished"}))
    record.update(run_dir, num_steps=4, measured={"process_bytes": 2**30})
    assert runs_cli.main(["list"]) == 0
    assert f"{run_dir.name}  finished  4 of 4 steps" in capsys.readouterr().out
    assert runs_cli.main(["show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["run_dir"]) == ("finished", str(run_dir))
    assert runs_cli.main(["show", run_dir.name[:-2]]) == 0
    assert "predicted unknown, measured 1.0 GiB" in capsys.readouterr().out


def test_cli_shows_what_was_learned_and_where_it_is(run_dir, capsys):
    write_events(run_dir, ("start", 0, {}), ("end", 4, {"reason": "finished"}))
    evaluation = {"step": 4, "rows": 20, "eval_loss": 0.5, "eval_accuracy": 0.95}
    measured = {"evaluation": {**evaluation, "eval_runtime": 1.5}}
    found = {"model_path": "/models/x", "load_code": "import a\nb = a"}
    record.update(run_dir, state="finished", measured=measured, **found)
    runs_cli.main(["show"])
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "  evaluation  accuracy 0.95, loss 0.5 (after step 4, on 20 rows)",
        "  model       /models/x",
        "  load it with",
        "      import a",
        "      b = a",
    ]


def test_cli_shows_the_checkpoint_of_a_run_that_was_cut(run_dir, capsys):
    write_events(run_dir, ("start", 0, {}), ("end", 4, {"reason": "stopped"}))
    saved = run_dir / "checkpoints" / "checkpoint-4"
    saved.mkdir(parents=True)
    record.write_json(saved / "trainer_state.json", {"global_step": 4})
    runs_cli.main(["show"])
    assert f"  checkpoint  {saved}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["stop", "nothing"], "must name one run"),
        (["resume"], "RUN"),
        (["halt"], "halt"),
        (["stop", "2"], "does not run"),
    ],
)
def test_cli_errors_are_one_line_and_exit_2(run_dir, capsys, argv, said):
    assert runs_cli.main(argv) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_cli_resumes_no_finished_run(run_dir, capsys):
    write_events(run_dir, ("start", 0, {}), ("end", 4, {"reason": "finished"}))
    record.update(run_dir, state="finished")
    assert runs_cli.main(["resume", run_dir.name]) == 2
    assert "nothing to resume" in capsys.readouterr().err
