"""The wish to stop: SIGTERM, Ctrl-C, or a STOP file. Installs signal handlers, looks at a file."""

import signal
import time
from pathlib import Path
from types import FrameType

from advisor.errors import InputError
from trainer import record

_LOOK_SECONDS = 0.1
"""The file is looked for at most this often: training steps can be shorter."""


class StopNowError(BaseException):
    """Unwinds the program to its end; no `except Exception` of a library may hold it up."""


class Stop:
    """Remembers that somebody asked to stop.

    Before training begins a signal unwinds at once, since there is nothing to save; from then on it
    is only remembered, and the step in progress is completed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._asked = False
        self._looked_at = float("-inf")
        self.starting = True
        """Set to False when training begins."""

    def listen(self) -> None:
        """Take over SIGTERM and SIGINT; a second Ctrl-C interrupts as usual."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.starting:
            self.starting = False
            raise StopNowError

    def requested(self) -> bool:
        """Whether to stop; cheap enough for every step.

        Raises:
            InputError: somebody deleted the run, which nobody could see or stop any more.
        """
        now = time.monotonic()
        if not self._asked and now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._asked = self._file.exists()
            if not self._file.with_name(record.RECORD).exists():
                raise InputError("stopping.deleted", path=self._file.parent)
        return self._asked

    def check(self) -> None:
        """Raise StopNowError if a stop is asked for; for the pauses of a start."""
        if self.requested():
            raise StopNowError
