"""What a person does with runs that are kept: notes, deletion. Writes and removes directories."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path

from advisor.errors import InputError
from advisor.home import runs_dir
from trainer import record, runs

NOTES = "notes.txt"
MAX_NOTES = 10_000
"""Characters."""
_DELETED = ".deleted-"
"""Begins the name of a directory that is being removed; the next deletion ends what a crash cut."""


def read_notes(run_dir: Path) -> str:
    """What somebody wrote about a run; "" where nobody did."""
    path = run_dir / NOTES
    if not record.is_own_file(path):
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_NOTES)


def write_notes(run_dir: Path, text: str) -> None:
    """Keep notes beside the run they are about, the file replaced as a whole.

    Raises:
        InputError: no such run, more than MAX_NOTES characters, or nothing can be written there.
    """
    if len(text) > MAX_NOTES:
        raise InputError("keeping.notes", got=len(text), limit=MAX_NOTES, field="notes")
    if not runs.is_run(run_dir):
        raise InputError("launch.no_run", path=run_dir, record=record.RECORD)
    record.write_text(run_dir / NOTES, text)


def delete(name: str, root: Path | None = None) -> None:
    """Remove a run and all that lies in its directory; links in it go, not what they point to.

    The directory gets another name first: whoever looks meanwhile sees the whole run or none.

    Args:
        name: of the directory in `root`, no path.
        root: where runs are; `advisor.home.runs_dir()` by default.

    Raises:
        InputError: no run of this name, a link to one, or a process works in it.
    """
    parent = root or runs_dir()
    run_dir = parent / name
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError("keeping.name", name=name)
    if run_dir.is_symlink():
        raise InputError("keeping.link", path=run_dir, target=run_dir.readlink())
    if not runs.is_run(run_dir):
        raise InputError("launch.no_run", path=run_dir, record=record.RECORD)
    with record.guard(run_dir):
        if runs.is_active(run_dir):
            raise InputError("keeping.running", run=name)
        doomed = run_dir.rename(parent / f"{_DELETED}{uuid.uuid4().hex}")
    for leftover in parent.glob(f"{_DELETED}*"):
        if leftover != doomed:
            with contextlib.suppress(OSError):  # another process removes it, or cannot
                shutil.rmtree(leftover)
    shutil.rmtree(doomed)


def size_bytes(run_dir: Path) -> int:
    """Bytes of all files in a run's directory; links are not followed."""
    total = 0
    for folder, _, names in os.walk(run_dir):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a checkpoint that was rotated away
                total += (Path(folder) / name).lstat().st_size
    return total
