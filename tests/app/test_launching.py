"""Starting a run: the directory first, then the process, never from a server others can reach."""

import json

import pytest

from app import launching, state
from trainer import launch


@pytest.fixture
def started(monkeypatch):
    """Run directories that were started; nothing is really launched."""
    calls, notices = [], []
    monkeypatch.setattr(launch, "start", calls.append)
    monkeypatch.setattr(launching.st, "switch_page", lambda *a, **kw: None)
    monkeypatch.setattr(state, "leave_notice", notices.append)
    monkeypatch.setattr(state, "language", lambda: "en")
    monkeypatch.setattr(state, "select_run", lambda name: None)
    tickets = [True]  # the dialog was opened once
    monkeypatch.setattr(state, "take_start", lambda: bool(tickets and tickets.pop()))
    return calls, notices


def test_run_is_written_before_it_is_started(started, records, home, monkeypatch):
    monkeypatch.setattr(launching, "may_launch", lambda: True)
    calls, notices = started
    rec = records.recommendation()
    launching.start_run(rec)
    assert notices == []
    (run_dir,) = calls
    assert run_dir.parent == home / "runs"
    assert json.loads((run_dir / "plan.json").read_text())["plan"] == rec.plan.to_dict()
    arguments = json.loads((run_dir / "args.json").read_text())
    assert arguments["learning_rate"] == rec.plan.learning_rate
    assert arguments["max_seq_length"] == rec.plan.max_length


def test_second_click_starts_nothing(started, records, home, monkeypatch):
    monkeypatch.setattr(launching, "may_launch", lambda: True)
    launching.start_run(records.recommendation())
    launching.start_run(records.recommendation())
    assert len(started[0]) == 1
    assert len(list((home / "runs").glob("*"))) == 1


def test_nothing_is_started_on_a_server_others_can_reach(started, records, home, monkeypatch):
    monkeypatch.setattr(launching, "may_launch", lambda: False)
    calls, notices = started
    launching.start_run(records.recommendation())
    assert calls == []
    assert "starts no processes" in notices[0]
    assert not list((home / "runs").glob("*"))


def test_failure_to_start_becomes_a_sentence(started, records, monkeypatch):
    monkeypatch.setattr(launching, "may_launch", lambda: True)

    def full(run_dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch, "start", full)
    launching.start_run(records.recommendation())
    assert "No space left on device" in started[1][0]


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("example.org", False),
        (None, False),
    ],
)
def test_only_loopback_may_launch(monkeypatch, address, allowed):
    from app import components

    monkeypatch.setattr(components.st, "get_option", lambda key: address)
    assert components.may_launch() is allowed


def test_slug_has_no_path_in_it(records):
    slug = launching.run_slug(records.recommendation())
    assert slug == "test-model-dialogues-full"
