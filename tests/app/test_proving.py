"""Starting a proof: one at a time, whatever was clicked and in however many tabs."""

import threading
import time

import pytest

from app import launching, proving, run_source, state
from trainer import launch, record


@pytest.fixture
def started(monkeypatch):
    """Names of proofs that were started, and what was said; nothing is really launched."""
    names, notices, tickets = [], [], []

    def start(run_dir):
        time.sleep(0.05)  # the other tab has clicked by now
        record.update(run_dir, kind="proof")
        names.append(run_dir.name)

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(launching, "may_launch", lambda: True)
    monkeypatch.setattr(state, "language", lambda: "en")
    monkeypatch.setattr(state, "leave_notice", notices.append)
    monkeypatch.setattr(state, "take_start", lambda what: bool(tickets and tickets.pop()))
    active = [type("Status", (), {"name": name}) for name in ("one",)]
    monkeypatch.setattr(run_source, "active", lambda: active if names else [])
    return names, notices, tickets


def test_two_tabs_start_one_proof(started, records, home):
    names, notices, tickets = started
    tickets += [True, True]
    clicks = [
        threading.Thread(target=proving._start, args=(records.recommendation(),)) for _ in range(2)
    ]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert len(names) == len(list((home / "runs").glob("*"))) == 1
    (sentence,) = notices
    assert "one" in sentence


def test_second_click_of_a_double_click_starts_and_says_nothing(started, records):
    names, notices, tickets = started
    tickets += [True]
    proving._start(records.recommendation())
    proving._start(records.recommendation())
    assert (len(names), notices) == (1, [])
