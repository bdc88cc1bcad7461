"""What the events of a run say, as series. Reads events.jsonl from an offset; no Streamlit."""

import math
import threading
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advisor import events
from advisor.plan import TrainingPlan
from advisor.tasks import TASKS

LOG_SERIES = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
METRICS = tuple(dict.fromkeys(task.metric for task in TASKS.values() if task.predicts))
"""What evaluations report beside the loss."""
MEMORY_SERIES = ("process_bytes", "reserved_bytes", "allocated_bytes")


@dataclass
class Series:
    """One measured quantity over optimizer steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    """NaN where the value was not finite."""

    def add(self, step: int, value: float | None, *, nonfinite: bool) -> None:
        """Append a value; None counts only where the event says that it was not finite."""
        if value is None and not nonfinite:
            return
        self.steps.append(step)
        self.values.append(math.nan if value is None else float(value))

    def cut_after(self, step: int) -> None:
        """Forget what lies beyond `step`: a resumed run does those steps again."""
        keep = bisect_right(self.steps, step)
        del self.steps[keep:], self.values[keep:]

    def last(self) -> float | None:
        """The latest finite value."""
        return next((v for v in reversed(self.values) if not math.isnan(v)), None)

    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [v for v in self.values if not math.isnan(v)]

    def bad_steps(self) -> list[int]:
        """Steps at which the value was not finite."""
        return [s for s, v in zip(self.steps, self.values, strict=True) if math.isnan(v)]


class RunData:
    """The events of one run directory, read incrementally; shared by all sessions."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "events.jsonl"
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._offset = 0
        self.num_events = 0
        self.series: dict[str, Series] = {n: Series() for n in (*LOG_SERIES, *MEMORY_SERIES)}
        self.evals = Series()
        self.metrics: dict[str, Series] = {}
        """Those of METRICS that evaluations reported."""
        self.epochs = Series()
        self.checkpoints: list[dict[str, Any]] = []
        self.notices: list[dict[str, Any]] = []
        self.start: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.process_source: str | None = None
        """How the trainer read process_bytes: rss, nvml, reserved+context."""
        self.step = 0
        self.last_time: float | None = None
        self.active_seconds = 0.0
        """Time between the first and last event of each session of the run, without the pauses."""
        self._session_start: tuple[int, float] | None = None

    def update(self) -> "RunData":
        """Read what was written since the last call."""
        with self._lock:
            if not self.path.is_file() or self.path.is_symlink():  # gone, or none of ours
                return self
            try:
                shrunk = self.path.stat().st_size < self._offset
            except OSError:
                return self
            if shrunk:
                self._reset()
            batch = events.read(self.path, self._offset)
            self._offset = batch.offset
            for event in batch.events:
                self._add(event)
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
        bad = event.get("nonfinite") or ()
        if kind == "log":
            self._add_values(LOG_SERIES, event, step, bad)
            self.epochs.add(step, event.get("epoch"), nonfinite=False)
        elif kind == "memory":
            self._add_values(MEMORY_SERIES, event, step, bad)
            self.process_source = event.get("process_source")
        elif kind == "eval":
            self.evals.add(step, event.get("eval_loss"), nonfinite="eval_loss" in bad)
            for name in METRICS:
                if isinstance(event.get(name), (int, float)):
                    series = self.metrics.setdefault(name, Series())
                    series.add(step, event[name], nonfinite=False)
        elif kind == "checkpoint":
            self.checkpoints.append(event)
        elif kind in ("warning", "finding"):
            self.notices.append(event)
        elif kind == "end":
            self.end = event

    def _begin(self, event: dict[str, Any], step: int) -> None:
        for series in (*self.series.values(), *self.metrics.values(), self.evals, self.epochs):
            series.cut_after(step)
        self.start, self.end, self.step = event, None, step

    def _add_values(
        self, names: tuple[str, ...], event: dict[str, Any], step: int, bad: tuple[str, ...]
    ) -> None:
        for name in names:
            value = event.get(name)
            if value is None or isinstance(value, (int, float)):
                self.series[name].add(step, value, nonfinite=name in bad)

    def seconds_per_step(self) -> float | None:
        """Measured in the running session, from its start to its last event."""
        if self._session_start is None:
            return None
        step, seconds = self._session_start
        spent = self.active_seconds - seconds  # never negative, also when the clock was set back
        return spent / (self.step - step) if self.step > step else None


def smoothing_span(num_values: int) -> int:
    """Span of the mean over logged values: a tenth of them, so that short runs do not lag."""
    return min(max(num_values // 10, 3), 40)


def smooth(values: list[float]) -> list[float]:
    """Exponential mean with weights that sum to 1 from the first value on; a gap stays a gap."""
    span = smoothing_span(len(values))
    alpha = 2 / (span + 1)
    total = weight = 0.0
    out = []
    for value in values:
        if math.isnan(value):
            out.append(math.nan)
            continue
        total = value + (1 - alpha) * total
        weight = 1 + (1 - alpha) * weight
        out.append(total / weight)
    return out


def thin(steps: list[int], values: list[float], limit: int = 2000) -> tuple[list[int], list[float]]:
    """At most `limit` points: the least and the greatest of each bucket, so that a spike survives.

    A bucket that holds a NaN keeps one, so that the gap survives too.
    """
    if len(steps) <= limit:
        return steps, values
    num_buckets = limit // 3
    keep: list[int] = []
    for bucket in range(num_buckets):
        low = bucket * len(steps) // num_buckets
        high = (bucket + 1) * len(steps) // num_buckets
        places = range(low, high)
        finite = [i for i in places if not math.isnan(values[i])]
        chosen = {next((i for i in places if math.isnan(values[i])), -1)} - {-1}
        if finite:
            chosen |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
        keep += sorted(chosen)
    if keep[-1] != len(steps) - 1:
        keep[-1] = len(steps) - 1
    return [steps[i] for i in keep], [values[i] for i in keep]


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
