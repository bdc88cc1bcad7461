"""Runs as the pages need them, rebuilt from their directories; sessions share the event readers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamlit as st

from advisor.errors import InputError
from advisor.home import runs_dir
from advisor.recommendation import Recommendation
from app.run_data import RunData
from app.run_texts import Run
from trainer import record, runs
from trainer.runs import ACTIVE, RunStatus

LOOK_SECONDS = 0.2
"""A look at all runs reads events for about so long; what is left comes with the next looks."""


def find(name: str) -> Run | None:
    """The run called `name`; None where there is none. A name with a path in it is no name."""
    directory = runs_dir() / name
    if name in ("", ".", "..") or Path(name).name != name:
        return None
    if not runs.is_run(directory):
        return None
    return _run(runs.read_status(directory), LOOK_SECONDS)


def listed() -> list[Run]:
    """All runs and proofs, the latest first."""
    ends = time.monotonic() + LOOK_SECONDS
    return [_run(status, max(ends - time.monotonic(), 0.0)) for status in _statuses_now()]


def proofs() -> Iterator[Run]:
    """All proofs, the latest first; each is read when it is asked for."""
    kept = (status for status in _statuses_now() if status.kind == "proof")
    return (_run(status, LOOK_SECONDS) for status in kept)


def active() -> list[RunStatus]:
    """Runs and proofs that have a process now."""
    return [status for status in _statuses_now() if status.state in ACTIVE]


def _statuses_now() -> list[RunStatus]:
    directories = list(runs.run_dirs(runs_dir()))
    _forget_all_but(set(directories))
    found = [_status(directory) for directory in directories]
    return sorted(found, key=lambda s: (s.started_at or 0, s.name), reverse=True)


def _forget_all_but(there: set[Path]) -> None:
    """What is held in memory of a run goes with its directory."""
    for kept in (_statuses(), _readers(), _plans()):
        for gone in set(kept) - there:
            kept.pop(gone, None)


def current(found: list[Run]) -> Run | None:
    """The run that trains now: the latest of them; a proof is none."""
    return next((r for r in found if r.state in ACTIVE and r.status.kind == "run"), None)


def _run(status: RunStatus, max_seconds: float) -> Run:
    directory = status.run_dir
    data = _readers().setdefault(directory, RunData(directory)).update(max_seconds)
    return Run(status=status, recommendation=_plan(directory), data=data)


@st.cache_resource
def _readers() -> dict[Path, RunData]:
    return {}


def _status(directory: Path) -> RunStatus:
    """A run that ended is judged again only when its files change; one that runs, at each look."""
    stamp = tuple(_stamp(directory / name) for name in (record.RECORD, record.EVENTS, record.LOCK))
    kept = _statuses().get(directory)
    if kept is not None and kept[0] == stamp and kept[1].state not in ACTIVE:
        return kept[1]
    status = runs.read_status(directory)
    _statuses()[directory] = (stamp, status)
    return status


@st.cache_resource
def _statuses() -> dict[Path, tuple[Any, RunStatus]]:
    return {}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _plan(directory: Path) -> Recommendation | None:
    """What was predicted; None where nothing was, or another version wrote it."""
    path = directory / record.PLAN
    stamp = _stamp(path) if record.is_own_file(path) else None
    if stamp is None:
        return None
    kept = _plans().get(directory)
    if kept is None or kept[0] != stamp:
        kept = (stamp, _read_plan(path))
        _plans()[directory] = kept
    return kept[1]


@st.cache_resource
def _plans() -> dict[Path, tuple[Any, Recommendation | None]]:
    return {}


def _read_plan(path: Path) -> Recommendation | None:
    try:
        content = record.read_object(path)
        return None if content is None else Recommendation.from_dict(content)
    except InputError:
        return None
