"""What the trainer prints. Writes to the standard streams; no failure to do so ends a training."""

import contextlib
import os
import sys
import traceback
from typing import TextIO


def say(line: str, *, to_stderr: bool = False) -> None:
    """Print a line at once.

    Not logging: transformers sets the level of its loggers from log_level, and these always show.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:  # the reader took the first line and left (`| head -1`): train on
        _discard(stream)
    except OSError:  # output.log lies on a full disk; there may be room for later lines
        pass


def say_traceback() -> None:
    """Print the exception in flight."""
    say(traceback.format_exc().rstrip(), to_stderr=True)


def close() -> None:
    """Flush; what cannot be written is given up, or the interpreter would exit with 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
