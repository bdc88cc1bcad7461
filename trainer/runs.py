"""Run directories: create, list, tell the status. Reads and writes them; stdlib and psutil only.

A run is a directory `<utc time>-<slug>` with plan.json, args.json, run.json, events.jsonl,
output.log and the checkpoints; all that is known of it is read from there. `python -m trainer.runs`
is the command line.
"""

import os
import re
import signal as signals
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from advisor import demo, events, hub
from advisor.home import runs_dir
from trainer import process, record

State = Literal["starting", "running", "stopping", "finished", "stopped", "failed", "lost"]
ACTIVE: tuple[State, ...] = ("starting", "running", "stopping")
"""States in which a process works in the directory."""

DEFAULT_OUTPUT_DIR = "checkpoints"
"""Where checkpoints go inside the run directory when the arguments do not say."""
_MODEL_PATHS = ("model_name_or_path", "config_name", "tokenizer_name")
_DATA_PATHS = ("train_file", "validation_file")
_PACKAGES = ("training-advisor", "torch", "transformers", "accelerate", "peft", "datasets")
_TAIL_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What is known of a run, from its files and from whether its processes live."""

    run_dir: Path
    name: str
    """Name of the directory."""
    state: State
    step: int | None = None
    """Optimizer steps done; None before the first event."""
    num_steps: int | None = None
    """Optimizer steps planned; None before training begins."""
    started_at: float | None = None
    """First start, seconds since the epoch."""
    ended_at: float | None = None
    pid: int | None = None
    """Of the trainer that works now; None when none does."""
    exit_code: int | None = None
    signal: int | None = None
    """Number of the signal that ended the trainer."""
    error: str | None = None
    """Why it failed, in a sentence or the last meaningful line of output.log."""
    predicted: dict[str, Any] = field(default_factory=dict)
    """See `predictions`; empty without a plan."""
    measured: dict[str, Any] = field(default_factory=dict)
    """process_bytes, step_seconds, tokens_per_second, first_loss, final_loss and more."""
    last_event_time: float | None = None


def create_run(
    slug: str,
    *,
    plan: Mapping[str, Any] | None,
    arguments: Mapping[str, Any],
    root: Path | None = None,
) -> Path:
    """Create a run directory, ready for `trainer.launch.start` or for the trainer itself.

    Local paths in the arguments are made absolute, since the trainer has another working directory;
    a relative `output_dir` stays as it is and lies inside the run directory.

    Args:
        slug: readable part of the name; other characters than letters, digits, "." become "-".
        plan: content of plan.json (`Recommendation.to_dict`), or None when nothing was predicted.
        arguments: content of args.json.
        root: where runs are; `advisor.home.runs_dir()` by default.
    """
    slug = re.sub(r"[^a-z0-9.]+", "-", slug.lower()).strip("-.")[:60] or "run"
    base = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{slug}"
    run_dir, number = (root or runs_dir()) / base, 1
    while True:
        try:
            run_dir.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
            run_dir = run_dir.with_name(f"{base}-{number}")
    initialise(run_dir, plan=plan, arguments=arguments)
    return run_dir


def initialise(
    run_dir: Path, *, plan: Mapping[str, Any] | None, arguments: Mapping[str, Any]
) -> None:
    """Write the first files of a run into an existing directory."""
    if plan is not None:
        record.write_json(run_dir / record.PLAN, plan)
    record.write_json(run_dir / record.ARGUMENTS, with_absolute_paths(arguments))
    record.write_json(
        run_dir / record.RECORD,
        {
            "v": 1,
            "state": "created",
            "created_at": time.time(),
            "host": socket.gethostname(),
            "versions": versions(),
            "predicted": predictions(plan),
            "measured": {},
        },
    )


def with_absolute_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with local paths absolute; a name that is no file here is left (a hub id)."""
    result = dict(arguments)
    for name in _MODEL_PATHS:
        if isinstance(value := result.get(name), str):
            path = demo.resolve(value, "model")
            result[name] = str(path.absolute()) if path.exists() else value
    for name in _DATA_PATHS:
        value = result.get(name)
        if isinstance(value, str) and not hub.is_data_id(value):
            result[name] = str(demo.resolve(value, "data").absolute())
    return result


def predictions(plan: Mapping[str, Any] | None) -> dict[str, Any]:
    """What plan.json promises, in the names of `measured`; {} without a plan, None for unknown."""
    if not plan:
        return {}
    memory, speed = plan.get("memory") or {}, plan.get("time") or {}
    interval = dict(memory.get("interval") or {})
    for name in ("step_seconds", "total_seconds"):
        if speed.get(f"{name}_interval"):
            interval[name] = speed[f"{name}_interval"]
    return {
        **{n: memory.get(n) for n in ("process_bytes", "allocated_bytes", "reserved_bytes")},
        "context_bytes": (memory.get("categories") or {}).get("context"),
        "capacity_bytes": memory.get("capacity_bytes"),
        "memory_correction": memory.get("correction"),
        "speed_correction": speed.get("correction"),
        **{
            n: speed.get(n)
            for n in ("step_seconds", "total_seconds", "tokens_per_second", "num_steps")
        },
        "interval": interval,
    }


def versions() -> dict[str, str]:
    """Versions of Python and the packages that decide a run, read from their metadata."""
    result = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def checkpoints_dir(run_dir: Path, arguments: Mapping[str, Any]) -> Path:
    """Where the trainer saves: a relative `output_dir` lies inside the run directory."""
    return run_dir.absolute() / (arguments.get("output_dir") or DEFAULT_OUTPUT_DIR)


def newest_checkpoint(directory: Path) -> Path | None:
    """The complete checkpoint with most steps: Trainer writes trainer_state.json last."""
    found = []
    for path in directory.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        complete = (path / "trainer_state.json").is_file()
        if number.isdigit() and complete and not (path / "checkpoint-is-incomplete.txt").exists():
            found.append((int(number), path))
    return max(found)[1] if found else None


def list_runs(root: Path | None = None) -> list[RunStatus]:
    """All runs, newest first; directories without a run.json are not ours and left out."""
    parent = root or runs_dir()
    found = [read_status(p) for p in parent.iterdir() if (p / record.RECORD).is_file()]
    return sorted(found, key=lambda status: (status.started_at or 0, status.name), reverse=True)


def read_status(run_dir: Path) -> RunStatus:
    """The status of one run: a function of its files and of whether its processes live."""
    run_dir = run_dir.absolute()
    data = record.read_object(run_dir / record.RECORD)
    if data is None:
        sentence = f"{run_dir / record.RECORD} is missing or damaged, so nothing is known of it."
        return RunStatus(run_dir=run_dir, name=run_dir.name, state="lost", error=sentence)
    tail = _read_tail(run_dir / record.EVENTS, _as_int(data.get("session_offset")) or 0)
    last = tail[-1] if tail else {}
    boundary = next((e for e in reversed(tail) if e["event"] in ("start", "end")), None)
    end = boundary if boundary is not None and boundary["event"] == "end" else None
    state, error = _judge(run_dir, data, end, begun=bool(tail))
    trainer = process.find(data.get("trainer"))
    return RunStatus(
        run_dir=run_dir,
        name=run_dir.name,
        state=state,
        step=_as_int(last.get("step", data.get("step"))),
        num_steps=_as_int(data.get("num_steps")),
        started_at=_as_number(data.get("started_at", data.get("created_at"))),
        ended_at=None
        if state in ACTIVE
        else _as_number((end or {}).get("time", data.get("ended_at"))),
        pid=None if trainer is None else trainer.pid,
        exit_code=_as_int(data.get("exit_code")),
        signal=_as_int(data.get("signal")),
        error=error,
        predicted=data.get("predicted") or {},
        measured=data.get("measured") or {},
        last_event_time=_as_number(last.get("time")),
    )


def is_active(run_dir: Path) -> bool:
    """Whether a supervisor or trainer works in the directory, or is being started."""
    data = record.read_object(run_dir / record.RECORD) or {}
    holder = record.read_object(run_dir / record.LOCK)
    return any(process.is_alive(p) for p in (holder, data.get("supervisor"), data.get("trainer")))


def _judge(
    run_dir: Path, data: Mapping[str, Any], end: Mapping[str, Any] | None, *, begun: bool
) -> tuple[State, str | None]:
    """State and reason of a run, its `end` event of this session given if there is one."""
    stop = data.get("stop") or {}
    if end is not None and not process.is_alive(data.get("trainer")):
        reason = end.get("reason")
        if reason in ("finished", "stopped"):
            return reason, None
        return "failed", end.get("error") or last_meaningful_line(run_dir / record.OUTPUT)
    if is_active(run_dir):
        if stop or (run_dir / record.STOP).exists():
            return "stopping", None
        return ("running" if begun else "starting"), None
    code, number = _as_int(data.get("exit_code")), _as_int(data.get("signal"))
    if number is not None:
        if stop.get("force") or (stop and number == signals.SIGTERM):
            return "stopped", "Ended at once as asked, without a checkpoint of its last steps."
        return "failed", _signal_in_words(number)
    if code is not None:
        line = last_meaningful_line(run_dir / record.OUTPUT)
        return "failed", line or f"The trainer ended with exit code {code} and said nothing."
    if stop:
        return "stopped", None
    if data.get("state") == "created":
        return "lost", "It was created but never started; resume starts it."
    if data.get("host") != socket.gethostname():
        return "lost", (
            f"It ran on {data.get('host')}, whose processes cannot be seen from here; "
            "resume it once nothing runs there."
        )
    return "lost", (
        "Its processes are gone and left no word, as after a restart of the machine; "
        "resume continues from the last checkpoint."
    )


def _signal_in_words(number: int) -> str:
    if number == signals.SIGKILL:
        return (
            "Killed by signal 9 (SIGKILL), most likely because the host ran out of memory (RAM); "
            "train with a smaller batch or length, or free memory."
        )
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = "unknown"
    return f"Ended by signal {number} ({name}); its last lines are in {record.OUTPUT}."


_ERROR_LINE = re.compile(r"(error:|[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b)")


def last_meaningful_line(path: Path) -> str | None:
    """The last line of a log that names an error, else its last line with text; None when empty."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [None])[-1]


def _read_tail(path: Path, session_offset: int) -> list[dict[str, Any]]:
    """The last events of this session; a line that the tail cuts in two is no event."""
    try:
        begin = max(path.stat().st_size - _TAIL_BYTES, session_offset)
    except FileNotFoundError:
        return []
    return events.read(path, begin).events


def _as_number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _as_int(value: Any) -> int | None:
    number = _as_number(value)
    return None if number is None else int(number)


if __name__ == "__main__":
    from trainer.runs_cli import main

    sys.exit(main())
