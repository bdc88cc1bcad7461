"""What the probes of several vendors share. Starts the programs that it is given."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from advisor.hardware.machine import Gpu

_PATIENCE_SECONDS = 5

Run = Callable[[Sequence[str]], str | None]


def run(command: Sequence[str]) -> str | None:
    """What a program prints; None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Found:
    """The GPUs of one vendor and what could not be read of them."""

    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()
