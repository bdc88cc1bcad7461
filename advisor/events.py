"""The event lines of a run.

One flat JSON object a line, written by the trainer, read by everybody else.

    {"v": 1, "event": "log", "time": 1764000000, "step": 20, "loss": 2.31, "learning_rate": 0.0003}

Kinds: start, log, eval, memory, checkpoint, warning, finding, end. Non-finite numbers become null
and their names stand in "nonfinite". Readers start at a byte offset, stop at the last newline and
skip kinds they do not know.
"""

import json
import math
import time as clock
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
KINDS = ("start", "log", "eval", "memory", "checkpoint", "warning", "finding", "end")


def encode(event: str, *, step: int, time: float | None = None, **values: Any) -> str:
    """One event as a line with its newline.

    Args:
        event: one of KINDS.
        step: optimizer steps done.
        time: seconds since the epoch, now when left out.
        values: flat JSON values.
    """
    assert event in KINDS, event
    line: dict[str, Any] = {
        "v": VERSION,
        "event": event,
        "time": clock.time() if time is None else time,
        "step": step,
    }
    nonfinite = sorted(
        k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)
    )
    line.update({k: None if k in nonfinite else v for k, v in values.items()})
    if nonfinite:
        line["nonfinite"] = nonfinite
    return json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Events read in one go."""

    events: list[dict[str, Any]]
    offset: int
    """Where the next read starts, in bytes."""
    num_bad_lines: int = 0
    """Complete lines that were not events; skipped."""


def read(path: Path, offset: int = 0, limit_bytes: int | None = None) -> Batch:
    """The complete event lines of `path` from byte `offset` on; an absent file is an empty one.

    Args:
        path: of events.jsonl.
        offset: in bytes, where a line begins.
        limit_bytes: read about so many, and no more lines; a longer line is read whole.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read() if limit_bytes is None else file.read(limit_bytes)
            if limit_bytes is not None and not chunk.endswith(b"\n"):
                chunk += file.readline()
    except FileNotFoundError:
        return Batch(events=[], offset=offset)
    end = chunk.rfind(b"\n") + 1
    events, bad = [], 0
    for raw in chunk[:end].splitlines():
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            bad += 1
            continue
        if not isinstance(line, dict) or not isinstance(line.get("event"), str):
            bad += 1
        elif line["event"] in KINDS:
            events.append(line)
    return Batch(events=events, offset=offset + end, num_bad_lines=bad)
