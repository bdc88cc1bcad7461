"""What the events of a run say, as series. Reads events.jsonl from an offset; no Streamlit."""

import math
import threading
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advisor import events
from advisor.plan import TrainingPlan
from advisor.tasks import TASKS
from app.series import Series

LOG_SERIES = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
METRICS = tuple(dict.fromkeys(task.metric for task in TASKS.values() if task.predicts))
"""What evaluations report beside the loss."""
MEMORY_SERIES = ("process_bytes", "reserved_bytes", "allocated_bytes")
TOKENS, SECONDS = "num_input_tokens_seen", "seconds"
"""Series that are axes: tokens seen and seconds trained, pauses not counted, at each log."""
CHUNK_BYTES = 2**21
MAX_SERIES = 64
MAX_NOTICES = 1000
_NO_METRIC = ("v", "time", "step", "eval_runtime")
_Pending = dict[str, tuple[list[int], list[float]]]


class RunData:
    """The events of one run directory, read incrementally; shared by all sessions."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "events.jsonl"
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._offset = self._size = 0
        self._file: int | None = None
        self.num_events = 0
        self.series: dict[str, Series] = {n: Series() for n in (*LOG_SERIES, *MEMORY_SERIES)}
        self._pending: _Pending = {}
        self.checkpoints: list[dict[str, Any]] = []
        self.notices: list[dict[str, Any]] = []
        """The latest warnings and findings."""
        self.start: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.process_source: str | None = None
        """How the trainer read process_bytes: rss, nvml, reserved+context."""
        self.step = 0
        self.last_time: float | None = None
        self.active_seconds = 0.0
        """Time between the first and last event of each session of the run, without the pauses."""
        self._session_start: tuple[int, float] | None = None

    @property
    def evals(self) -> Series:
        """The evaluation loss."""
        return self.get("eval_loss")

    @property
    def epochs(self) -> Series:
        """Epochs done at each log."""
        return self.get("epoch")

    def get(self, name: str) -> Series:
        """A series by its name in the events; empty where nothing of the kind was written."""
        return self.series.get(name) or Series()

    def task_metrics(self) -> dict[str, Series]:
        """Those of METRICS that evaluations reported."""
        return {name: self.series[name] for name in METRICS if len(self.get(name))}

    def metrics(self) -> list[str]:
        """Names of what was measured, those of every run first."""
        found = list(self.series.items())  # another session may read a new series meanwhile
        return [n for n, s in found if len(s) and n not in (TOKENS, SECONDS, "epoch")]

    def share_read(self) -> float:
        """Part of the file that was read, 0..1; below 1 until a long one was gone through once."""
        return self._offset / self._size if self._size else 1.0

    def update(self, max_seconds: float | None = None) -> "RunData":
        """Read what was written since the last call.

        Args:
            max_seconds: leave what cannot be read in about this time to the next call; with none
                left, only a file of which nothing is known is begun.
        """
        begun = clock.monotonic()
        with self._lock:
            if not self.path.is_file() or self.path.is_symlink():  # gone, or none of ours
                return self
            try:
                found = self.path.stat()
            except OSError:
                return self
            if found.st_size < self._offset or self._file not in (None, found.st_ino):
                self._reset()  # another file than before
            self._file, self._size = found.st_ino, found.st_size
            if max_seconds is not None and max_seconds <= 0 and self._offset:
                return self
            while self._offset < self._size:
                batch = events.read(self.path, self._offset, CHUNK_BYTES)
                for event in batch.events:
                    self._add(event)
                self._flush()
                if batch.offset == self._offset:  # a line that is being written
                    self._size = self._offset
                self._offset = batch.offset
                if max_seconds is not None and clock.monotonic() - begun > max_seconds:
                    break
        return self

    def _add(self, event: dict[str, Any]) -> None:
        kind, step, time = event["event"], int(event.get("step") or 0), event.get("time")
        self.num_events += 1
        if kind == "start":
            self._begin(event, step)
        if isinstance(time, (int, float)):
            if kind != "start" and self.last_time is not None:
                self.active_seconds += max(time - self.last_time, 0.0)
            self.last_time = float(time)
            if kind == "start":
                self._session_start = (step, self.active_seconds)
        self.step = max(self.step, step)
        if kind == "log":
            self._add_values(event, step, event.keys() - _NO_METRIC)
            self._append(SECONDS, step, self.active_seconds)
        elif kind == "memory":
            self._add_values(event, step, event.keys() & MEMORY_SERIES)
            self.process_source = event.get("process_source")
        elif kind == "eval":
            named = (n for n in event if n.startswith("eval_") and not n.endswith("_per_second"))
            self._add_values(event, step, set(named) - {*_NO_METRIC})
        elif kind == "checkpoint":
            self.checkpoints.append(event)
        elif kind in ("warning", "finding"):
            self.notices.append(event)
            del self.notices[:-MAX_NOTICES]
        elif kind == "end":
            self.end = event

    def _begin(self, event: dict[str, Any], step: int) -> None:
        self._flush()
        for series in self.series.values():
            series.cut_after(step)
        self.start, self.end, self.step = event, None, step

    def _add_values(self, event: dict[str, Any], step: int, names: set[str]) -> None:
        """Keep the numbers; null is one only where the event says that it was not finite."""
        bad = event.get("nonfinite") or ()
        for name in names:
            value = event[name]
            if value is None and name in bad:
                self._append(name, step, math.nan)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                self._append(name, step, value)

    def _append(self, name: str, step: int, value: float) -> None:
        if name not in self._pending:
            if name not in self.series and len(self.series) >= MAX_SERIES:
                return
            self._pending[name] = ([], [])
        steps, values = self._pending[name]
        steps.append(step)
        values.append(value)

    def _flush(self) -> None:
        for name in sorted(self._pending):
            self.series.setdefault(name, Series()).extend(*self._pending[name])
        self._pending = {}

    def seconds_per_step(self) -> float | None:
        """Measured in the running session, from its start to its last event."""
        if self._session_start is None:
            return None
        step, seconds = self._session_start
        spent = self.active_seconds - seconds  # never negative, also when the clock was set back
        return spent / (self.step - step) if self.step > step else None


def planned_rate(plan: TrainingPlan, num_rows: int) -> Callable[[int], float] | None:
    """Learning rate that optimizer step number n uses, which is what Trainer logs at step n.

    None for a schedule that is not among them. Source: transformers/optimization.py.
    """
    total, warmup = plan.optimizer_steps(num_rows), plan.warmup_updates(num_rows)
    after = {
        "linear": lambda p: 1 - p,
        "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),
        "constant_with_warmup": lambda _p: 1.0,
        "constant": lambda _p: 1.0,
    }.get(plan.lr_scheduler_type)
    if after is None:
        return None
    if plan.lr_scheduler_type == "constant":
        warmup = 0

    def rate(step: int) -> float:
        done = max(step - 1, 0)  # a step uses the rate that the steps before it led to
        if done < warmup:
            return plan.learning_rate * done / max(warmup, 1)
        progress = min((done - warmup) / max(total - warmup, 1), 1.0)
        return plan.learning_rate * after(progress)

    return rate
