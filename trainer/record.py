"""The files of a run directory and run.json, its record. Reads and writes that directory.

Several processes write the record (launcher, supervisor, trainer), each only its own fields, one at
a time under a file lock; readers need none, since files are replaced whole.
"""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLAN = "plan.json"
ARGUMENTS = "args.json"
RECORD = "run.json"
EVENTS = "events.jsonl"
OUTPUT = "output.log"
STOP = "STOP"
"""While a file of this name is there, the trainer stops at the next step."""
LOCK = "run.lock"
"""Who trains in this directory: the supervisor, or a trainer started from a shell."""
_GUARD = ".guard"


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, also after a crash."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when the file is absent or is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextlib.contextmanager
def guard(run_dir: Path) -> Iterator[None]:
    """Keep every other process and thread out of this run's record while the block runs."""
    with (run_dir / _GUARD).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def update(run_dir: Path, **changes: Any) -> None:
    """Set fields of run.json."""
    with guard(run_dir):
        update_guarded(run_dir, **changes)


def update_guarded(run_dir: Path, **changes: Any) -> None:
    """Set fields of run.json; the caller holds the guard."""
    path = run_dir / RECORD
    write_json(path, {**(read_object(path) or {}), **changes})


def events_size(run_dir: Path) -> int:
    """Bytes of the event file so far: where the events of the next session start."""
    try:
        return (run_dir / EVENTS).stat().st_size
    except FileNotFoundError:
        return 0
