"""The trainer's parent, a process of its own: starts it, passes SIGTERM on, records how it ended.

It outlives the program that started it, so that an exit code or signal is recorded whoever else is
gone. It never kills: a trainer that was asked to stop has all the time its checkpoint needs.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from advisor.errors import InputError
from advisor.hardware import host
from trainer import launch, process, record


def supervise(run_dir: Path) -> int:
    """Run the trainer to its end; returns its exit code, 128 + signal when a signal ended it."""
    child: subprocess.Popen[bytes] | None = None
    asked = False

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    kills = host.out_of_memory_kills()
    with record.guard(run_dir):
        holder = record.read_object(run_dir / record.LOCK)
        if holder and holder.get("pid") != os.getpid() and process.is_alive(holder):
            sys.stderr.write(f"{run_dir} is being trained in by process {holder['pid']}.\n")
            return 1
        # Child and record under one guard: nobody sees the directory without its trainer.
        child = subprocess.Popen(launch.command(run_dir), stdin=subprocess.DEVNULL, cwd=run_dir)
        trainer = process.identify(child.pid)
        record.update_guarded(run_dir, trainer=trainer, argv=launch.command(run_dir))
    if asked:
        child.terminate()
    code = child.wait()
    data = record.read_object(run_dir / record.RECORD) or {}
    state = data.get("state")
    if state not in ("finished", "stopped", "failed"):
        state = "stopped" if data.get("stop") and code != 1 else "failed"
    # A directory that was deleted or became read-only has no record to write to.
    with contextlib.suppress(InputError):
        launch.release(
            run_dir,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            out_of_memory_kill=_was_out_of_memory(kills) if code == -signal.SIGKILL else None,
            state=state,
        )
    return code if code >= 0 else 128 - code


def _was_out_of_memory(kills_before: int | None) -> bool | None:
    """Whether the kernel killed for want of memory meanwhile; None where it does not say."""
    kills = host.out_of_memory_kills()
    return None if kills is None or kills_before is None else kills > kills_before


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))
