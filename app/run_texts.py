"""What Run and Runs say about a run, built from its state, events and plan. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from advisor.errors import AdvisorError
from advisor.locale import catalogue
from advisor.recommendation import Recommendation
from advisor.speed import TimeEstimate
from app.run_data import RunData
from app.texts import DOT, PACKAGE, device_name, t
from trainer import proof, record, runs
from trainer.runs import ACTIVE, RESUMABLE, RunStatus, State

ON_TIME_SHARE = 0.02
"""A deviation below this share of the planned time reads "as planned"."""
LOG_BYTES = 32_768
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything the pages know of one run; rebuilt from its directory at each look."""

    status: RunStatus
    """State, steps, process and error, from run.json and from whether the processes live."""
    recommendation: Recommendation | None
    """What was predicted; None for a run without a plan."""
    data: RunData
    """What was measured."""

    @property
    def name(self) -> str:
        """Name of the directory: how the URL and the table call it."""
        return self.status.name

    @property
    def state(self) -> State:
        """How the run stands."""
        return self.status.state

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return max(self.status.step or 0, self.data.step)

    def total_steps(self) -> int | None:
        """Optimizer steps the run plans to do; what its plan says is not said of a proof."""
        return self.status.num_steps or (self._time.num_steps if self._time else None)

    @property
    def _time(self) -> TimeEstimate | None:
        is_run = self.status.kind == "run"
        return self.recommendation.time if is_run and self.recommendation else None

    def progress(self) -> float:
        """Share of the steps done, 0..1."""
        total = self.total_steps()
        if self.state == "finished":
            return 1.0
        return min(self.step / total, 1.0) if total else 0.0

    def seconds_left(self) -> float | None:
        """At the speed measured in this session, else at the predicted one."""
        total, per_step = self.total_steps(), self.data.seconds_per_step()
        if total is None:
            return None
        if per_step is None and self.recommendation and self.recommendation.time:
            per_step = self.recommendation.time.step_seconds
        return None if per_step is None else max(total - self.step, 0) * per_step

    def planned_seconds(self) -> float | None:
        """Predicted time of the whole run; None of a proof, which is a part of one."""
        return self._time.total_seconds if self._time else None


def title(run: Run, lang: str, timezone: str | None, now: float) -> str:
    """The sentence of Run: progress and deviation from the plan, or how it ended."""
    step, total = run.step, run.total_steps()
    if run.state == "running" and step > 0 and total:
        left = run.seconds_left()
        at = None if left is None else clock(now + left, timezone)
        done = t("run.running", lang, step=step, total=total, left=left, at=at)
        spent = None if left is None else run.data.active_seconds + left
        return done + deviation(spent, run.planned_seconds(), lang)
    if run.state == "finished":
        done = t("run.finished", lang, steps=step, time=run.data.active_seconds)
        return done + deviation(run.data.active_seconds, run.planned_seconds(), lang)
    if run.state == "failed" and step == 0:
        return t("run.failed.early", lang)
    if run.state not in ("starting", "running"):
        return t(f"run.{run.state}", lang, step=step, total=total)
    key = "run.starting" if run.data.start is None else "run.first_step"
    planned = run.planned_seconds() or run.seconds_left()
    if step > 0 or planned is None or run.status.kind == proof.KIND:
        return t(key, lang)
    spent = 0.0 if run.data.start is None else now - run.data.start["time"]
    left = max(planned - spent, 0.0)
    at = clock(now + left, timezone)
    return t(f"{key}.predicted", lang, total=total, left=left, at=at)


def deviation(spent: float | None, planned: float | None, lang: str) -> str:
    """The end of the sentence: how much later or earlier than planned, where that is known."""
    if spent is None or planned is None:
        return t("run.deviation.none", lang)
    if abs(spent - planned) < max(ON_TIME_SHARE * planned, 1.0):
        return t("run.deviation.on_time", lang)
    key = "run.deviation.later" if spent > planned else "run.deviation.earlier"
    return t(key, lang, by=abs(spent - planned))


def caption(run: Run, lang: str, timezone: str | None) -> str:
    """Facts under the sentence: what runs where, since when."""
    parts = [run.name]
    if run.recommendation is not None:
        parts.append(device_name(run.recommendation.machine, run.recommendation.plan))
    start = run.status.started_at
    if start is not None:
        parts.append(t("run.started", lang, at=clock(start, timezone)))
    if run.status.pid is not None:
        parts.append(t("run.process", lang, pid=str(run.status.pid)))
        parts.append(t("run.goes_on", lang))
    return DOT.join(parts)


def facts(run: Run, lang: str, now: float) -> str:
    """The line under the bar: epoch, last checkpoint, last sign of life."""
    parts = []
    epoch = run.data.epochs.last()
    recommendation = run.recommendation
    if epoch is not None and recommendation and recommendation.plan and recommendation.data:
        rows = recommendation.data.rows_of(recommendation.plan).num_rows
        planned = recommendation.plan.epochs(rows)
        parts.append(t("run.epoch", lang, epoch=f"{epoch:.2f}", epochs=f"{planned:.3g}"))
    if run.data.checkpoints:
        last = run.data.checkpoints[-1]
        parts.append(t("run.checkpoint", lang, step=last.get("step")))
    if run.state in ACTIVE and run.data.last_time is not None:
        ago = round(max(now - run.data.last_time, 0.0))
        parts.append(t("run.last_event", lang, ago=ago))
    return DOT.join(parts) or t("run.no_events", lang)


def cause(run: Run, lang: str) -> str:
    """Why a run failed or is lost; what a library said stays as it is."""
    fault = run.status.fault
    if fault is not None:
        return AdvisorError.decode(fault).sentence(lang)
    return run.status.error or t("run.cause.unknown", lang)


def next_action(run: Run, lang: str) -> str | None:
    """What a resume would do, or why there is none; None while it runs or when it is done."""
    if run.state not in RESUMABLE:
        return None
    step = runs.resume_step(run.status.run_dir)
    if step is None:
        return t("run.resume.not", lang)
    return t("run.resume.step", lang, step=step) if step else t("run.resume.start", lang)


def can_resume(run: Run) -> bool:
    """Whether there is something to go on with."""
    return runs.resume_step(run.status.run_dir) is not None


def what(run: Run) -> str:
    """Model and method in a few words."""
    if run.recommendation is None or run.recommendation.plan is None:
        return ""
    return f"{run.recommendation.model.name}{DOT}{run.recommendation.plan.method}"


def metric(run: Run, lang: str) -> str:
    """What the last evaluation reported beside the loss: "accuracy 0.913"."""
    for name, series in run.data.task_metrics().items():
        value = series.last()
        if value is not None:
            return f"{metric_name(name, lang)} {value:.3f}"
    return ""


def metric_name(name: str, lang: str) -> str:
    """The metric in words; one without words keeps its name."""
    key = f"metric.{name}"
    return t(key, lang) if key in catalogue(PACKAGE, lang) else name.removeprefix("eval_")


def summary(states: Sequence[str], lang: str) -> str:
    """The sentence of Runs."""
    if not states:
        return t("runs.none", lang)
    training = sum(state in ACTIVE for state in states)
    failed = sum(state in ("failed", "lost") for state in states)
    key = "runs.one" if training == 1 else "runs.some" if training else "runs.idle"
    return t(key, lang, training=training, total=len(states), failed=failed)


def clock(seconds: float, timezone: str | None) -> str:
    """A time of day where the reader is, with the date when it is not today."""
    try:
        zone = ZoneInfo(timezone) if timezone else None
    except (ZoneInfoNotFoundError, ValueError):
        zone = None
    moment = datetime.fromtimestamp(seconds, zone).astimezone(zone)
    today = datetime.now(moment.tzinfo).date()
    return f"{moment:%H:%M}" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M}"


def log_tail(path: Path, num_lines: int = 40) -> str:
    """The last lines of output.log as a terminal would leave them; "" where there is none."""
    if not record.is_own_file(path):
        return ""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(size - LOG_BYTES, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # A progress bar rewrites its line with carriage returns: what it wrote last is still there.
    lines = [_CONTROL.sub("", line).rstrip("\r").split("\r")[-1] for line in text.split("\n")]
    return "\n".join(line for line in lines[-num_lines - 1 :] if line.strip())


def change_to_plan(measured: float | None, predicted: float | None, lang: str) -> str | None:
    """How far a speed is from the prediction: "-8.9 % to plan"."""
    if measured is None or not predicted:
        return None
    share = 100 * (measured / predicted - 1)
    return t("live.to_plan", lang, share=f"{share:+.1f}")


def notice_text(event: Mapping[str, object]) -> str | None:
    """What a warning or finding says, where it says something."""
    for key in ("message", "text", "title"):
        if isinstance(event.get(key), str):
            return str(event[key])
    return None
