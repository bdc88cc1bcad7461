"""Runs from their directories: each is read once, and forgotten with its directory."""

import shutil

import pytest

from advisor.recommendation import Recommendation
from app import run_source


@pytest.fixture(autouse=True)
def nothing_kept():
    kept = (run_source._statuses, run_source._readers, run_source._plans)
    for held in kept:
        held.clear()
    yield
    for held in kept:
        held.clear()


def test_however_many_runs_there_are_each_is_read_once(records, home, monkeypatch):
    first = records.write_run(home, "r-000", "stopped", steps=10)
    for number in range(1, 300):
        shutil.copytree(first, home / "runs" / f"r-{number:03}")
    decoded, real = [], Recommendation.from_dict
    monkeypatch.setattr(
        Recommendation, "from_dict", lambda content: decoded.append(1) or real(content)
    )
    monkeypatch.setattr(run_source, "LOOK_SECONDS", 0.0)
    before = {run.name: run.data for run in run_source.listed()}
    after = {run.name: run.data for run in run_source.listed()}
    assert len(before) == len(decoded) == 300
    assert all(after[name] is data for name, data in before.items())
    assert {data.num_events for data in after.values()} == {before["r-000"].num_events}


def test_a_deleted_run_is_forgotten(records, home):
    directory = records.write_run(home, "gone", "stopped")
    records.write_run(home, "kept", "stopped")
    run_source.listed()
    shutil.rmtree(directory)
    assert [run.name for run in run_source.listed()] == ["kept"]
    for held in (run_source._statuses(), run_source._readers(), run_source._plans()):
        assert [place.name for place in held] == ["kept"]


def test_a_plan_that_changed_is_read_again(records, home):
    directory = records.write_run(home, "one", "stopped")
    assert run_source.find("one").recommendation is not None
    (directory / "plan.json").write_text('{"plan": 3}', encoding="utf-8")
    assert run_source.find("one").recommendation is None
