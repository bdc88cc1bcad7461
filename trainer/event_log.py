"""Writes events.jsonl."""

import contextlib
import os
from pathlib import Path
from typing import Any

from advisor import events


class EventLog:
    """Appends event lines to a file, each written at once; a line cut by a crash is closed first.

    A disk that is full does not end a training: the event is left out as a whole and counted, and
    the next one that finds room is followed by a warning.
    """

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        """Open the file.

        Args:
            path: of events.jsonl; created when absent.
            enabled: False on every process but the first of a distributed run.
        """
        self._file = path.open("a+b", buffering=0) if enabled else None
        self._num_lost = 0
        if self._file is not None and self._file.seek(0, os.SEEK_END) > 0:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._append(b"\n")

    def write(self, event: str, *, step: int, **values: Any) -> bool:
        """Append one event; see `advisor.events.encode`. False when there was no room for it."""
        if self._file is None:
            return True
        if not self._append(events.encode(event, step=step, **values).encode()):
            self._num_lost += 1
            return False
        if self._num_lost:
            lost, self._num_lost = self._num_lost, 0
            self.write(
                "warning",
                step=step,
                code="events_lost",
                message=f"{lost} events before step {step} could not be written (disk full?).",
            )
        return True

    def _append(self, line: bytes) -> bool:
        """Write all of a line or nothing of it."""
        assert self._file is not None
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) == len(line):
                return True
        except OSError:
            pass
        with contextlib.suppress(OSError):
            self._file.truncate(end)
        return False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
