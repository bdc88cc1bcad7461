"""Start, stop and resume runs from outside. Starts and signals processes; stdlib and psutil only.

A started run belongs to nobody: it lives in its own session and goes on when the program that
started it ends.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from advisor import records
from advisor.errors import InputError
from advisor.hardware.machine import Machine
from trainer import process, record, runs

_OF_A_SESSION = (
    *("stop", "exit_code", "signal", "out_of_memory_kill", "fault", "ended_at"),
    *("supervisor", "trainer"),
)
"""Fields of run.json that a new session begins without."""


def command(run_dir: Path) -> list[str]:
    """The command line that trains in this directory, exactly as it is run, from any folder.

    For a directory that is yet to be made: as it will be run.
    """
    run_dir = run_dir.absolute()
    argv = [sys.executable, "-P", "-m", "trainer", str(run_dir / record.ARGUMENTS)]
    if not run_dir.exists() or (run_dir / record.PLAN).exists():
        argv += ["--plan", str(run_dir / record.PLAN)]
    return [*argv, "--run-dir", str(run_dir)]


def start(run_dir: Path) -> None:
    """Start a run that `trainer.runs.create_run` made; returns once its process is recorded.

    Raises:
        InputError: no such run, started already, or a plan for several devices.
    """
    _launch(run_dir, may_have_run=False)


def resume(run_dir: Path) -> None:
    """Continue a run from its newest complete checkpoint (from the start when it has none).

    Raises:
        InputError: no such run, it runs now, or it has finished.
    """
    _launch(run_dir, may_have_run=True)


def stop(run_dir: Path, *, force: bool = False) -> None:
    """Ask a run to stop at the next step with a checkpoint; returns at once.

    Args:
        run_dir: of a run that is starting or running.
        force: kill the trainer now; the steps since the last checkpoint are lost.

    Raises:
        InputError: no such run, or it does not run.
    """
    run_dir = run_dir.absolute()
    data = _require_record(run_dir)
    if not runs.is_active(run_dir):
        raise InputError(
            "launch.not_running", run=run_dir.name, state=runs.read_status(run_dir).state
        )
    # What can be read only, or is full, is stopped by its signal alone.
    with contextlib.suppress(InputError, OSError):
        record.update(run_dir, stop={"time": time.time(), "force": force})
        (run_dir / record.STOP).touch()
    supervisor, trainer = process.find(data.get("supervisor")), process.find(data.get("trainer"))
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile, which is what was asked
        if force and trainer is not None:
            trainer.kill()
        elif supervisor is not None:
            supervisor.terminate()  # which passes it on
        elif trainer is not None:
            trainer.terminate()


def claim(run_dir: Path, owner: Mapping[str, Any] | None, **fields: Any) -> None:
    """Take the directory for one session of training; the caller holds `record.guard`.

    Args:
        run_dir: of the run.
        owner: `process.identify` of who trains or supervises.
        fields: set in run.json besides.

    Raises:
        InputError: somebody else works there.
    """
    if runs.is_active(run_dir):
        raise InputError("launch.running", run=run_dir.name)
    record.keep_reserve(run_dir)
    lock = run_dir / record.LOCK
    lock.unlink(missing_ok=True)  # of a process that is gone
    record.write_json(lock, owner or {})
    (run_dir / record.STOP).unlink(missing_ok=True)
    before = runs.read_status(run_dir)
    record.update_guarded(
        run_dir,
        state="starting",
        started_at=(record.read_object(run_dir / record.RECORD) or {}).get("started_at")
        or time.time(),
        session_started_at=time.time(),
        session_offset=record.events_size(run_dir),
        step=before.step,
        host=os.uname().nodename,
        versions=runs.versions(),
        **dict.fromkeys(_OF_A_SESSION),
    )
    record.update_guarded(run_dir, **fields)


def release(run_dir: Path, **fields: Any) -> None:
    """Give the directory back and set the last fields of the session."""
    with record.guard(run_dir):
        record.free_reserve(run_dir)
        record.update_guarded(run_dir, ended_at=time.time(), **fields)
        (run_dir / record.LOCK).unlink(missing_ok=True)


def _launch(run_dir: Path, *, may_have_run: bool) -> None:
    run_dir = run_dir.absolute()
    _require_record(run_dir)
    environment = _environment(run_dir)
    with record.guard(run_dir):
        state = runs.read_status(run_dir).state
        created = _require_record(run_dir).get("state") == "created"
        if state not in runs.ACTIVE and not created and (not may_have_run or state == "finished"):
            if may_have_run:
                raise InputError("launch.finished", run=run_dir.name)
            raise InputError("launch.started_before", run=run_dir.name)
        claim(run_dir, process.identify(os.getpid()), argv=command(run_dir))
        try:
            with _output(run_dir) as output:
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "trainer.supervise", str(run_dir)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd=run_dir,
                    env=environment,
                )
        except OSError as error:
            (run_dir / record.LOCK).unlink()
            record.update_guarded(run_dir, state="created" if created else "failed")
            raise record.unwritable(run_dir, error) from error
        # Without a wait an ended child stays a zombie of this process.
        threading.Thread(target=child.wait, daemon=True).start()
        supervisor = process.identify(child.pid)
        record.write_json(run_dir / record.LOCK, supervisor or {})
        record.update_guarded(run_dir, supervisor=supervisor)


def _output(run_dir: Path) -> BinaryIO:
    """output.log, for its owner alone."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    return os.fdopen(os.open(run_dir / record.OUTPUT, flags, 0o600), "ab")


def _require_record(run_dir: Path) -> dict[str, Any]:
    data = record.read_object(run_dir / record.RECORD)
    if data is None:
        raise InputError("launch.no_run", path=run_dir, record=record.RECORD)
    return data


def _environment(run_dir: Path) -> dict[str, str]:
    """The trainer's environment: it sees the one GPU the plan was made for."""
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    plan = record.read_object(run_dir / record.PLAN) or {}
    devices = (plan.get("plan") or {}).get("devices", 1)
    if devices > 1:
        raise InputError(
            "launch.devices",
            devices=devices,
            arguments=run_dir / record.ARGUMENTS,
            path=run_dir,
            field="devices",
        )
    if "machine" in plan:
        machine = records.decode(Machine, plan["machine"], "plan.json: machine")
        gpu = machine.accelerator()
        if machine.source == "probe" and gpu is not None and gpu.uuid:
            environment["CUDA_VISIBLE_DEVICES"] = gpu.uuid
    return environment
