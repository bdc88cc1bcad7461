"""Runs as the pages need them, rebuilt from their directories; sessions share the event readers."""

from pathlib import Path

import streamlit as st

from advisor.errors import InputError
from advisor.home import runs_dir
from advisor.recommendation import Recommendation
from app.run_data import RunData
from app.run_texts import Run
from trainer import record, runs
from trainer.runs import ACTIVE, RunStatus


def find(name: str) -> Run | None:
    """The run called `name`; None where there is none. A name with a path in it is no name."""
    directory = runs_dir() / name
    if name in ("", ".", "..") or Path(name).name != name:
        return None
    if not runs.is_run(directory):
        return None
    return _run(runs.read_status(directory))


def listed() -> list[Run]:
    """All runs, the latest first."""
    return [_run(status) for status in runs.list_runs()]


def current(names: list[Run]) -> Run | None:
    """The run that trains now: the latest of them."""
    return next((run for run in names if run.state in ACTIVE), None)


def _run(status: RunStatus) -> Run:
    directory = status.run_dir
    data = _reader(str(directory)).update()
    return Run(status=status, recommendation=_plan(directory), data=data)


@st.cache_resource(max_entries=64)
def _reader(directory: str) -> RunData:
    return RunData(Path(directory))


def _plan(directory: Path) -> Recommendation | None:
    path = directory / record.PLAN
    if not record.is_own_file(path):
        return None
    try:
        return _read_plan(str(path), path.stat().st_mtime_ns)
    except OSError:
        return None


@st.cache_resource(max_entries=64)
def _read_plan(path: str, mtime_ns: int) -> Recommendation | None:  # noqa: ARG001 (the cache's key)
    """What was predicted; None where nothing was, or another version wrote it."""
    try:
        content = record.read_object(Path(path))
        return None if content is None else Recommendation.from_dict(content)
    except InputError:
        return None
