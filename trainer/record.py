"""The files of a run directory and run.json, its record. Reads and writes that directory.

Several processes write the record (launcher, supervisor, trainer), each only its own fields, one at
a time under a file lock; readers need none, since files are replaced whole.
"""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advisor.errors import InputError

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
_RESERVE = ".reserve"
_RESERVE_BYTES = 262_144
"""Held back on disk while a run trains, so that its end can be written when the disk is full."""
MAX_JSON_BYTES = 64 * 2**20
"""A larger file is none of ours and is not read."""


def keep_reserve(run_dir: Path) -> None:
    """Hold some of the disk back; random bytes, which no file system stores as nothing."""
    path = run_dir / _RESERVE
    if not path.exists():
        try:
            path.write_bytes(os.urandom(_RESERVE_BYTES))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise unwritable(path, error) from error


def free_reserve(run_dir: Path) -> bool:
    """Give back what was held; whether there was something."""
    try:
        (run_dir / _RESERVE).unlink()
    except OSError:
        return False
    return True


def unwritable(path: Path, error: OSError) -> InputError:
    """The sentence for a file that cannot be written: the disk is full, or read-only, or gone."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError("record.full", path=path)
    return InputError("record.unwritable", path=path, reason=error.strerror or str(error))


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, also after a crash.

    Only its owner may read it.

    Raises:
        InputError: the disk is full, even without the reserve, or it cannot be written to.
    """
    try:
        _replace(path, text)
    except OSError as error:
        if not free_reserve(path.parent):
            raise unwritable(path, error) from error
        try:
            _replace(path, text)
        except OSError as again:
            raise unwritable(path, again) from again


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def is_own_file(path: Path) -> bool:
    """Whether a run's file is one: a link may lead anywhere, and a pipe would be waited for."""
    return path.is_file() and not path.is_symlink()


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when the file is absent, a link, huge or is something else."""
    try:
        if not is_own_file(path) or path.stat().st_size > MAX_JSON_BYTES:
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@contextlib.contextmanager
def guard(run_dir: Path) -> Iterator[None]:
    """Keep every other process and thread out of this run's record while the block runs."""
    try:
        file = (run_dir / _GUARD).open("a")
    except OSError as error:
        raise unwritable(run_dir / _GUARD, error) from error
    with file:
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
