"""Reports the training loop and stops it. Writes events.jsonl and run.json, prints a line a log."""

# ruff: noqa: ARG002 -- the signatures are TrainerCallback's

import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer import record
from trainer.effective import effective
from trainer.event_log import EventLog
from trainer.host_memory import HeapTrimmer
from trainer.memory_meter import MemoryMeter
from trainer.output import say
from trainer.stopping import Stop, StopNowError

_LOGGED = ("loss", "grad_norm", "learning_rate", "epoch", "num_input_tokens_seen")


class RunCallback(TrainerCallback):
    """Reports a run from the first process of it, and lets all of them stop at the same step.

    A stop saves a complete checkpoint and unwinds with StopNowError, past everything Trainer would
    still do: it might delete that checkpoint (save_total_limit) or evaluate for hours. An
    evaluation that is due at that step is begun and cut short, because a resumed run must find the
    random state that beginning it leaves behind.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        log: EventLog,
        stop: Stop,
        meter: MemoryMeter,
        start: Mapping[str, Any],
        warnings: list[tuple[str, str]],
        more_metrics: Callable[[Mapping[str, Any]], Mapping[str, float]],
    ) -> None:
        """Nothing is written before training begins.

        Args:
            run_dir: whose run.json is kept up to date.
            log: where events go.
            stop: who asks to stop.
            meter: of this process' memory.
            start: values of the start event that are known by now.
            warnings: (code, sentence) to write after it.
            more_metrics: what follows from an evaluation's metrics.
        """
        self._run_dir = run_dir
        self._log = log
        self._stop = stop
        self._meter = meter
        self._start = dict(start)
        self._warnings = warnings
        self._more_metrics = more_metrics
        self._heap = HeapTrimmer(enabled=meter.is_on_cpu())
        self._stopping = self._keeps_best = False
        self._saved_step: int | None = None
        self._warned: set[str] = set()
        self._clock = _StepClock()
        self._first_loss: float | None = None
        self._final_loss: float | None = None
        self._evaluations: dict[int, dict[str, float]] = {}
        self.evaluation_cut = False
        """A stop came during an evaluation: the checkpoint is yet to be saved."""

    # -- the loop -----------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the start event; leave at once when all steps are done (a run that was resumed)."""
        self._stop.starting = False
        if state.is_world_process_zero:
            used = effective(kwargs["model"], kwargs["optimizer"], args, state)
            self._log.write(
                "start", step=state.global_step, num_steps=state.max_steps, **self._start, **used
            )
            for code, message in self._warnings:
                self._warn(state.global_step, code, message)
            record.update(self._run_dir, state="running", num_steps=state.max_steps, effective=used)
            say(f"training: step {state.global_step:,} of {state.max_steps:,}, {args.device}")
        self._keeps_best = args.load_best_model_at_end
        self._clock.begin(state.global_step, state.num_input_tokens_seen)
        if state.global_step >= state.max_steps:
            raise StopNowError

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Ask for a checkpoint when somebody wants to stop."""
        if control.should_evaluate:
            self._heap.now()
        else:
            self._heap.now_and_then()
        self._clock.mark()
        if state.global_step >= state.max_steps or not self._asked(args):
            return
        at_epoch_end = float(state.epoch).is_integer()
        if not (at_epoch_end and "epoch" in (args.eval_strategy, args.save_strategy)):
            self._stop_here(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """The same where evaluating or saving belongs to the epoch's end."""
        if state.global_step < state.max_steps and self._asked(args):
            self._stop_here(control)

    def _stop_here(self, control: TrainerControl) -> None:
        self._stopping = True
        control.should_log = True  # the losses since the last line are not lost
        control.should_save = True
        control.should_training_stop = True

    def _asked(self, args: TrainingArguments) -> bool:
        asked = self._stop.requested()
        if args.world_size > 1:
            flag = torch.tensor(float(asked), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            asked = bool(flag.item())
        return asked

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Cut an evaluation short when somebody wants to stop."""
        self._heap.now_and_then()
        if self._asked(args):
            self.evaluation_cut = True
            if state.is_world_process_zero:
                self._warn(
                    state.global_step,
                    "evaluation_cut",
                    f"The evaluation at step {state.global_step} was cut short by the stop.",
                )
            raise StopNowError

    # -- reports ------------------------------------------------------------------------------

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_kwargs: Any,
    ) -> None:
        """Write a log and a memory event; evaluations and the summary at the end come otherwise."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        step = state.global_step
        values = {name: logs[name] for name in _LOGGED if name in logs}
        values.update(self._clock.interval(step, logs.get("num_input_tokens_seen")))
        loss = float(values["loss"])
        if self._first_loss is None:
            self._first_loss = loss
        self._final_loss = loss
        self._log.write("log", step=step, **values)
        self._write_memory(step)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values.get(name, 0.0)):
                self._warn(step, f"{name}_not_finite", self._not_finite(name, values[name], state))
        say(f"step {step:,}/{state.max_steps:,}  " + _in_words(values))
        self._clock.mark()

    def _not_finite(self, name: str, value: float, state: TrainerState) -> str:
        said = f"{name} is {value} at step {state.global_step}"
        if name != "loss":
            return f"{said}."
        saved = f"saved last at step {self._saved_step}" if self._saved_step else "never saved"
        return (
            f"{said}: what was learned is most likely lost ({saved}). Stop it, and start again "
            "with a smaller learning_rate, or with bf16 in place of fp16."
        )

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **_kwargs: Any,
    ) -> None:
        """Write an eval event with the task's metrics beside the loss."""
        self._heap.now()
        self._clock.pause()
        if not state.is_world_process_zero:
            return
        values = dict(metrics or {})
        values.update(self._more_metrics(values))
        self._log.write("eval", step=state.global_step, **values)
        self._evaluations[state.global_step] = {
            name: value
            for name, value in values.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        say(f"step {state.global_step:,}/{state.max_steps:,}  " + _in_words(values))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Write a checkpoint event; this is where a stopped run ends."""
        seconds = self._clock.pause()
        self._saved_step = state.global_step
        if state.is_world_process_zero:
            assert args.output_dir is not None
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            self._log.write(
                "checkpoint", step=state.global_step, path=str(path), bytes=size, seconds=seconds
            )
            say(f"step {state.global_step:,}/{state.max_steps:,}  saved {path}")
        if self._stopping:
            raise StopNowError

    def _write_memory(self, step: int) -> dict[str, Any]:
        values = self._meter.read()
        self._log.write("memory", step=step, **values)
        return values

    def _warn(self, step: int, code: str, message: str) -> None:
        if code not in self._warned:
            self._warned.add(code)
            self._log.write("warning", step=step, code=code, message=message)
            say(f"warning: {message}")

    def summary(self, state: TrainerState) -> dict[str, Any]:
        """What was measured, as run.json keeps it; writes the last memory event."""
        memory = self._write_memory(state.global_step)
        return {
            **memory,
            **self._evaluation(state),
            **self._clock.summary(state.global_step, state.num_input_tokens_seen),
            "first_loss": _finite(self._first_loss),
            "final_loss": _finite(self._final_loss),
            "num_steps": state.global_step,
        }

    def _evaluation(self, state: TrainerState) -> dict[str, Any]:
        """The evaluation of the model that is kept: the best one's where that is loaded."""
        if not self._evaluations:
            return {}
        step = max(self._evaluations)
        if self._keeps_best and state.best_global_step in self._evaluations:
            step = state.best_global_step
        values = {"step": step, "rows": self._start.get("num_eval_rows")}
        return {"evaluation": {**values, **self._evaluations[step]}}


class _StepClock:
    """Seconds a step takes, evaluations and checkpoints not counted.

    A GPU works behind the host's back; a log reads the loss and so waits for it, which makes the
    time between two logs true.
    """

    def begin(self, step: int, num_tokens: int) -> None:
        self._began = self._marked = self._interval_began = time.monotonic()
        self._first_step = self._interval_step = step
        self._first_tokens = self._interval_tokens = num_tokens
        self._interval_paused = self._paused = 0.0
        self._step_seconds: list[float] = []

    def mark(self) -> None:
        """Something that is part of a step has ended."""
        self._marked = time.monotonic()

    def pause(self) -> float:
        """Something that is not part of a step has ended; returns how long it took."""
        seconds = time.monotonic() - self._marked
        self._interval_paused += seconds
        self._paused += seconds
        self.mark()
        return seconds

    def interval(self, step: int, num_tokens: int | None) -> dict[str, float]:
        """step_seconds and tokens_per_second since the last call."""
        now = time.monotonic()
        seconds = now - self._interval_began - self._interval_paused
        num_steps = step - self._interval_step
        values: dict[str, float] = {}
        if num_steps > 0 and seconds > 0:
            values["step_seconds"] = seconds / num_steps
            self._step_seconds.append(seconds / num_steps)
            if num_tokens is not None:
                values["tokens_per_second"] = (num_tokens - self._interval_tokens) / seconds
        self._interval_began, self._interval_step, self._interval_paused = now, step, 0.0
        self._interval_tokens = num_tokens or 0
        return values

    def summary(self, step: int, num_tokens: int) -> dict[str, float | None]:
        """Median step (the first interval warms up and does not count), tokens/s, whole time."""
        total = time.monotonic() - self._began
        seconds, num_steps = total - self._paused, step - self._first_step
        steady = self._step_seconds[1:] if len(self._step_seconds) > 2 else self._step_seconds
        mean = seconds / num_steps if num_steps > 0 else None
        tokens = num_tokens - self._first_tokens
        return {
            "step_seconds": statistics.median(steady) if steady else mean,
            "tokens_per_second": tokens / seconds if tokens > 0 and seconds > 0 else None,
            "total_seconds": total,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _in_words(values: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
    )
