"""Writes events.jsonl."""

from pathlib import Path
from typing import Any

from advisor import events


class EventLog:
    """Appends event lines to a file, flushed each; a line cut by a crash is closed first."""

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        """Open the file.

        Args:
            path: of events.jsonl; created when absent.
            enabled: False on every process but the first of a distributed run.
        """
        self._file = path.open("a+b") if enabled else None
        if self._file is not None and self._file.tell() > 0:
            self._file.seek(-1, 2)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def write(self, event: str, *, step: int, **values: Any) -> None:
        """Append one event; see `advisor.events.encode`."""
        if self._file is not None:
            self._file.write(events.encode(event, step=step, **values).encode())
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
