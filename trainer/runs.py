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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from advisor import demo, events, hub
from advisor.errors import AdvisorError
from advisor.home import runs_dir
from trainer import process, record, result
from trainer.checkpoints import newest_checkpoint

State = Literal["starting", "running", "stopping", "finished", "stopped", "failed", "lost"]
ACTIVE: tuple[State, ...] = ("starting", "running", "stopping")
"""States in which a process works in the directory."""
RESUMABLE: tuple[State, ...] = ("stopped", "failed", "lost")
"""States in which a run can go on, if its files can be read and written."""

DEFAULT_OUTPUT_DIR = "checkpoints"
"""Where checkpoints go inside the run directory when the arguments do not say."""
_MODEL_PATHS = ("model_name_or_path", "config_name", "tokenizer_name")
_DATA_PATHS = ("train_file", "validation_file")
_PACKAGES = ("training-advisor", "torch", "transformers", "accelerate", "peft", "datasets")
_TAIL_BYTES = 65536
_CODES_OF: dict[Any, tuple[int | None, ...]] = {"finished": (None, 0), "stopped": (None, 0, 130)}
"""Exit codes that agree with what a trainer recorded; None until its supervisor saw it end."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What is known of a run, from its files and from whether its processes live."""

    run_dir: Path
    name: str
    """Name of the directory."""
    state: State
    kind: str = "run"
    """run, or proof: a few steps with the longest batch (trainer.proof)."""
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
    fault: dict[str, Any] | None = None
    """The same as `AdvisorError.encode` writes it, for the reader's language."""
    predicted: dict[str, Any] = field(default_factory=dict)
    """See `predictions`; empty without a plan."""
    measured: dict[str, Any] = field(default_factory=dict)
    """process_bytes, step_seconds, tokens_per_second, first_loss, final_loss and more."""
    model_path: str | None = None
    """Directory with the trained model, of a run that reached its end."""
    load_code: str | None = None
    """Python that loads it."""
    last_event_time: float | None = None


def create_run(
    slug: str,
    *,
    plan: Mapping[str, Any] | None,
    arguments: Mapping[str, Any],
    root: Path | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Create a run directory, ready for `trainer.launch.start` or for the trainer itself.

    Local paths in the arguments are made absolute, since the trainer has another working directory;
    a relative `output_dir` stays as it is and lies inside the run directory.

    Args:
        slug: readable part of the name; other characters than letters, digits, "." become "-".
        plan: content of plan.json (`Recommendation.to_dict`), or None when nothing was predicted.
        arguments: content of args.json.
        root: where runs are; `advisor.home.runs_dir()` by default.
        extra: fields of run.json that the kind of run adds or sets.

    Raises:
        InputError: nothing can be written there.
    """
    slug = re.sub(r"[^a-z0-9.]+", "-", slug.lower()).strip("-.")[:60] or "run"
    base = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{slug}"
    run_dir, number = (root or runs_dir()) / base, 1
    while True:
        try:
            make_directory(run_dir)
            break
        except FileExistsError:
            number += 1
            run_dir = run_dir.with_name(f"{base}-{number}")
    initialise(run_dir, plan=plan, arguments=arguments, extra=extra)
    return run_dir


def make_directory(run_dir: Path, *, may_exist: bool = False) -> None:
    """Make a run's directory, for its owner alone: texts of the data are in its log.

    Raises:
        FileExistsError: it is there and may not be.
        InputError: it cannot be made.
    """
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=may_exist)
    except OSError as error:
        if isinstance(error, FileExistsError) and not may_exist:
            raise
        raise record.unwritable(run_dir, error) from error


def initialise(
    run_dir: Path,
    *,
    plan: Mapping[str, Any] | None,
    arguments: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
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
            "kind": "run",
            "predicted": predictions(plan),
            "measured": {},
            **(extra or {}),
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
        "memory_correction_bytes": memory.get("correction_bytes"),
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


def resume_step(run_dir: Path) -> int | None:
    """The step a resume would go on from, 0 from the start; None where it cannot be resumed."""
    arguments = record.read_object(run_dir / record.ARGUMENTS)
    data = record.read_object(run_dir / record.RECORD)
    if arguments is None or data is None or not os.access(run_dir, os.W_OK):
        return None
    status = read_status(run_dir)
    if status.kind != "run" or status.state not in RESUMABLE:
        return None
    newest = newest_checkpoint(checkpoints_dir(run_dir, arguments))
    return 0 if newest is None else int(newest.name.removeprefix("checkpoint-"))


def list_runs(root: Path | None = None) -> list[RunStatus]:
    """All runs, newest first; directories without a run.json are not ours and left out."""
    parent = root or runs_dir()
    found = [read_status(p) for p in run_dirs(parent)]
    return sorted(found, key=lambda status: (status.started_at or 0, status.name), reverse=True)


def run_dirs(root: Path) -> list[Path]:
    """The run directories in `root`; one whose name begins with a dot is being deleted."""
    return [path for path in root.iterdir() if not path.name.startswith(".") and is_run(path)]


def is_run(run_dir: Path) -> bool:
    """Whether this is a run's directory; a link is not, since it may lead anywhere."""
    return record.is_own_file(run_dir / record.RECORD) and not run_dir.is_symlink()


def read_status(run_dir: Path) -> RunStatus:
    """The status of one run: a function of its files and of whether its processes live."""
    run_dir = run_dir.absolute()
    data = record.read_object(run_dir / record.RECORD)
    if data is None:
        damaged = AdvisorError("runs.damaged", path=run_dir / record.RECORD)
        return RunStatus(
            run_dir=run_dir,
            name=run_dir.name,
            state="lost",
            error=str(damaged),
            fault=damaged.encode(),
        )
    tail = _read_tail(run_dir / record.EVENTS, _as_int(data.get("session_offset")) or 0)
    last = tail[-1] if tail else {}
    boundary = next((e for e in reversed(tail) if e["event"] in ("start", "end")), None)
    end = boundary if boundary is not None and boundary["event"] == "end" else None
    state, fault = _judge(run_dir, data, end, tail)
    trainer = process.find(data.get("trainer"))
    return RunStatus(
        run_dir=run_dir,
        name=run_dir.name,
        state=state,
        kind="proof" if data.get("kind") == "proof" else "run",
        step=_as_int(last.get("step", data.get("step"))),
        num_steps=_as_int(data.get("num_steps")),
        started_at=_as_number(data.get("started_at", data.get("created_at"))),
        ended_at=None
        if state in ACTIVE
        else _as_number((end or {}).get("time", data.get("ended_at"))),
        pid=None if trainer is None else trainer.pid,
        exit_code=_as_int(data.get("exit_code")),
        signal=_as_int(data.get("signal")),
        error=None if fault is None else str(fault),
        fault=None if fault is None else fault.encode(),
        predicted=data.get("predicted") or {},
        measured=data.get("measured") or {},
        model_path=data.get("model_path"),
        load_code=data.get("load_code"),
        last_event_time=_as_number(last.get("time")),
    )


def result_lines(status: RunStatus) -> list[str]:
    """What the run gave, for the shell; empty before it saved anything."""
    arguments = record.read_object(status.run_dir / record.ARGUMENTS) or {}
    newest = newest_checkpoint(checkpoints_dir(status.run_dir, arguments))
    return result.lines(
        status.measured.get("evaluation"),
        model_path=status.model_path,
        code=status.load_code,
        checkpoint=None if newest is None else str(newest),
    )


def is_active(run_dir: Path) -> bool:
    """Whether a supervisor or trainer works in the directory, or is being started."""
    data = record.read_object(run_dir / record.RECORD) or {}
    holder = record.read_object(run_dir / record.LOCK)
    return any(process.is_alive(p) for p in (holder, data.get("supervisor"), data.get("trainer")))


def _judge(
    run_dir: Path,
    data: Mapping[str, Any],
    end: Mapping[str, Any] | None,
    tail: Sequence[Mapping[str, Any]],
) -> tuple[State, AdvisorError | None]:
    """State and reason of a run, with the last events of this session and its end if there is one.

    What the trainer or a library said stands for itself in every language.
    """
    stop = data.get("stop") or {}
    code, number = _as_int(data.get("exit_code")), _as_int(data.get("signal"))
    reason = (end or {}).get("reason") or _recorded_end(data)
    if reason is not None and not process.is_alive(data.get("trainer")):
        if reason in ("finished", "stopped"):
            return reason, None
        return "failed", _fault(data, end) or _last_words(run_dir, code)
    if is_active(run_dir):
        if stop or (run_dir / record.STOP).exists():
            return "stopping", None
        return ("running" if tail else "starting"), None
    if number is not None:
        if stop.get("force") or (stop and number == signals.SIGTERM):
            return "stopped", AdvisorError("runs.forced")
        return "failed", _signal_in_words(number, data, tail)
    if code is not None:
        return "failed", _last_words(run_dir, code)
    if stop:
        return "stopped", None
    if data.get("state") == "created":
        return "lost", AdvisorError("runs.created")
    if data.get("host") != socket.gethostname():
        return "lost", AdvisorError("runs.elsewhere", host=data.get("host"))
    return "lost", AdvisorError("runs.no_word")


def _recorded_end(data: Mapping[str, Any]) -> str | None:
    """How the trainer said it ended, for when the disk had no room for its end event."""
    if data.get("fault"):
        return "failed"
    state = data.get("state")
    if data.get("signal") is None and data.get("exit_code") in _CODES_OF.get(state, ()):
        return state
    return None


def _fault(data: Mapping[str, Any], end: Mapping[str, Any] | None) -> AdvisorError | None:
    try:
        if data.get("fault"):
            return AdvisorError.decode(data["fault"])
    except (KeyError, TypeError):
        pass  # of another version
    said = (end or {}).get("error")
    return AdvisorError("runs.said", said=said) if isinstance(said, str) and said else None


def _last_words(run_dir: Path, code: int | None) -> AdvisorError:
    line = last_meaningful_line(run_dir / record.OUTPUT)
    return AdvisorError("runs.said", said=line) if line else AdvisorError("runs.silent", code=code)


def _signal_in_words(
    number: int, data: Mapping[str, Any], tail: Sequence[Mapping[str, Any]]
) -> AdvisorError:
    if number == signals.SIGKILL:
        memory = next((e for e in reversed(tail) if e.get("event") == "memory"), {})
        took, known = _as_number(memory.get("rss_bytes")), data.get("out_of_memory_kill")
        if known is None:
            return AdvisorError("runs.killed_likely", took=took)
        if known:
            return AdvisorError("runs.killed_kernel", took=took)
        return AdvisorError("runs.killed_outside", took=took)
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = "unknown"
    return AdvisorError("runs.signal", number=number, name=name, log=record.OUTPUT)


_ERROR_LINE = re.compile(r"(error:|[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b)")


def last_meaningful_line(path: Path) -> str | None:
    """The last line of a log that names an error, else its last line with text; None when empty."""
    if not record.is_own_file(path):
        return None
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [None])[-1]


def _read_tail(path: Path, session_offset: int) -> list[dict[str, Any]]:
    """The last events of this session; a line that the tail cuts in two is no event."""
    if not record.is_own_file(path):
        return []
    try:
        begin = max(path.stat().st_size - _TAIL_BYTES, session_offset)
    except OSError:
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
