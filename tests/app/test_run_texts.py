"""What a run's page says, by its state."""

import pytest

from advisor.locale import format_duration
from app import run_source, run_texts
from trainer import record

NOW = 1_800_000_000.0


@pytest.fixture
def run_in(home, records, monkeypatch):
    from advisor import home as homes

    def make(state, **kw):
        records.write_run(home, f"run-{state}", state, now=NOW, **kw)
        assert homes.runs_dir() == home / "runs"
        return run_source.find(f"run-{state}")

    return make


def title(run, lang="en"):
    return run_texts.title(run, lang, "Europe/Berlin", NOW)


def test_running_says_progress_and_deviation(run_in):
    sentence = title(run_in("running"))
    assert sentence.startswith("Step 200 of 555: ")
    assert "left, done about " in sentence
    assert sentence.endswith("than planned.")


def test_running_without_a_plan_claims_no_deviation(run_in):
    sentence = title(run_in("running", planned=False))
    assert "planned" not in sentence
    assert sentence.endswith(".")


def test_before_the_first_step_the_predicted_time_is_told(run_in):
    run = run_in("running", steps=0)
    assert run.step == 0
    planned = run.planned_seconds()
    for passed in (0, 60):
        left = format_duration(planned - passed)
        said = run_texts.title(run, "en", "Europe/Berlin", NOW + passed)
        assert said.startswith(f"First steps of 555: {left} left by the prediction, done about ")
    assert title(run, "zh") != title(run)


def test_after_the_first_steps_the_measured_rate_counts(run_in):
    run = run_in("running")
    assert "prediction" not in title(run)
    assert run.seconds_left() == pytest.approx(30 * 355, rel=0.01)
    assert run.seconds_left() != pytest.approx(run.planned_seconds() * 355 / 555, rel=0.01)


def test_a_start_without_a_plan_predicts_nothing(run_in):
    assert title(run_in("starting", planned=False)) == (
        "Starting: model and data are being loaded."
    )


def test_a_start_tells_the_predicted_time(run_in):
    run = run_in("starting")
    left = format_duration(run.planned_seconds())
    assert title(run).startswith(f"Starting: 555 steps, {left} by the prediction, done about ")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("starting", "Starting"),
        ("stopping", "Stopping after step 200"),
        ("finished", "Finished: 200 steps"),
        ("stopped", "Stopped at step 200 of 555"),
        ("failed", "Failed at step 200 of 555"),
        ("lost", "The process is gone since step 200"),
    ],
)
def test_each_state_has_its_sentence(run_in, state, words):
    run = run_in(state)
    assert run.state == state
    assert title(run).startswith(words)
    assert title(run, "zh") != title(run)


def test_a_proof_that_starts_promises_its_own_steps_and_time(home, records):
    """Its plan is that of the run it stands for: 555 steps, hours."""
    from trainer import proof

    plan = records.recommendation().to_dict()
    run_dir = proof.create("x", plan=plan, arguments={"max_steps": 555}, steps=3)
    run = run_source.find(run_dir.name)
    assert run.recommendation.time.num_steps == 555
    assert run.total_steps() == 3
    assert run.planned_seconds() is None


def test_killed_run_says_why(run_in):
    assert "out of memory" in run_in("failed").status.error


def test_finished_run_is_full_and_a_stopped_one_is_not(run_in):
    assert run_in("finished").progress() == 1.0
    assert run_in("stopped").progress() == pytest.approx(200 / 555)


@pytest.mark.parametrize(
    ("spent", "planned", "end"),
    [
        (1000.0, 1005.0, ", as planned."),
        (1600.0, 1000.0, ", 10 min later than planned."),
        (400.0, 1000.0, ", 10 min earlier than planned."),
        (None, 1000.0, "."),
        (1000.0, None, "."),
    ],
)
def test_deviation(spent, planned, end):
    assert run_texts.deviation(spent, planned, "en") == end


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", "missing"])
def test_only_a_run_directory_is_a_run(home, name):
    (home / "x").mkdir()
    assert run_source.find(name) is None


def test_log_shows_what_a_terminal_would(tmp_path):
    log = tmp_path / "output.log"
    log.write_bytes(b"\x1b[31mred\x1b[0m\n 1/9\r 5/9\r 9/9\nlast \xff\n")
    assert run_texts.log_tail(log) == "red\n 9/9\nlast \ufffd"
    assert run_texts.log_tail(tmp_path / "missing") == ""


def test_clock_is_the_readers():
    berlin = run_texts.clock(NOW, "Europe/Berlin")
    assert berlin != run_texts.clock(NOW, "Asia/Shanghai")
    assert run_texts.clock(NOW, "Not/AZone")


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "No run has been started"),
        (["running", "failed"], "One of 2 runs is training; 1 failed."),
        (["finished"], "Nothing is training; 1 kept"),
    ],
)
def test_summary_counts(states, words):
    assert run_texts.summary(states, "en").startswith(words)


def test_resume_is_told_with_its_step_and_offered_only_when_possible(records, home):
    directory = records.write_run(home, "one", "failed")
    run = run_source.find("one")
    assert run_texts.can_resume(run)
    assert run_texts.next_action(run, "en") == (
        "There is no complete checkpoint yet, so resume begins at the first step."
    )
    saved = directory / "checkpoints" / "checkpoint-40"
    saved.mkdir(parents=True)
    record.write_json(saved / "trainer_state.json", {"global_step": 40})
    assert "the checkpoint of step 40" in run_texts.next_action(run, "en")
    assert "\u7b2c 40 \u6b65" in run_texts.next_action(run, "zh")
    (directory / record.ARGUMENTS).unlink()
    assert not run_texts.can_resume(run)
    assert "cannot be resumed" in run_texts.next_action(run, "en")
    (directory / record.RECORD).write_text('{"state": "runn')
    damaged = run_source.find("one")
    assert damaged.state == "lost"
    assert "missing or damaged" in run_texts.cause(damaged, "en")
    assert "\u635f\u574f" in run_texts.cause(damaged, "zh")
    assert not run_texts.can_resume(damaged)


def test_no_action_is_told_while_it_runs_or_when_it_is_done(records, home):
    for state in ("running", "finished"):
        records.write_run(home, state, state)
        assert run_texts.next_action(run_source.find(state), "en") is None
