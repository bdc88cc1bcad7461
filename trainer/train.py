"""Run transformers.Trainer on an arguments file. Touches devices, disk and the random state."""

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
import transformers
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.training_args import OptimizerNames

from advisor import row_findings
from advisor.adapters import train_in_float32
from advisor.arguments import DataArguments, parse_arguments
from advisor.errors import InputError
from advisor.locale import render
from advisor.row_borders import keeps_rows_apart
from advisor.rows import Rows, load_rows
from advisor.rules.optimizer import needs_bitsandbytes
from advisor.tasks import find_trainable_task
from trainer import faults, proof, record, result, runs
from trainer.callback import RunCallback
from trainer.event_log import EventLog
from trainer.memory_meter import MemoryMeter
from trainer.model import build_model, build_tokenizer
from trainer.run_trainer import RunTrainer
from trainer.stopping import Stop, StopNowError
from trainer.tasks import task_module


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a session of training ended."""

    reason: Literal["finished", "stopped", "failed"]
    """finished: the planned steps were reached, however the loop was left."""
    step: int
    """Optimizer steps done, earlier sessions included."""
    error: str | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    """For run.json; see RunCallback.summary."""
    model_path: str | None = None
    """Directory with the trained model; None unless finished."""
    load_code: str | None = None
    """Python that loads it."""


def train(run_dir: Path, *, log: EventLog, stop: Stop) -> Outcome:
    """Train as args.json in the run directory says, from the newest complete checkpoint if any.

    Raises:
        InputError: arguments, model or data that cannot be used on this machine.
        StopNowError: asked to stop before training began.
    """
    arguments = runs_arguments(run_dir)
    _refuse_many_devices(use_cpu=bool(arguments.get("use_cpu")))
    model_args, data_args, training_args = parse_arguments(run_dir / record.ARGUMENTS)
    _refuse_lonely_processes(training_args)
    _refuse_without_liger(training_args)
    _refuse_without_bitsandbytes(training_args)
    stop.check()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    training_args.output_dir = str(runs.checkpoints_dir(run_dir, arguments))
    training_args.disable_tqdm = True
    # Left on, Trainer logs a NaN loss as 0.0.
    training_args.logging_nan_inf_filter = False
    checkpoint = runs.newest_checkpoint(Path(training_args.output_dir))

    rows = read_rows(data_args)
    stop.check()
    set_seed(training_args.seed)
    tokenizer = build_tokenizer(model_args)
    stop.check()
    model, warnings = build_model(
        model_args,
        data_args.task,
        rows,
        tokenizer,
        with_checkpointing=bool(training_args.activation_checkpointing),
    )
    if model_args.method != "full" and (training_args.bf16 or training_args.fp16):
        train_in_float32(model)
    if data_args.padding_free and not keeps_rows_apart(model):
        raise InputError("train.rows", model_type=model.config.model_type, field="padding_free")
    stop.check()
    with _scratch(run_dir) as scratch:
        data = _Data(data_args, rows, tokenizer, model, training_args, scratch)
        data.warnings += warnings
        if proof.is_proof(run_dir):
            data.keep_longest(run_dir, training_args)
        stop.check()
        session = _Session(run_dir, log, stop, training_args, checkpoint, data_args.task)
        return session.run(model, tokenizer, data)


def runs_arguments(run_dir: Path) -> dict[str, Any]:
    """The content of a run's args.json."""
    return json.loads((run_dir / record.ARGUMENTS).read_text(encoding="utf-8"))


def _refuse_many_devices(*, use_cpu: bool) -> None:
    count = 0 if use_cpu else torch.cuda.device_count()
    if count > 1 and "LOCAL_RANK" not in os.environ:
        raise InputError("train.many_devices", count=count)


def _refuse_lonely_processes(training_args: TrainingArguments) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if training_args.world_size != world:
        raise InputError("train.lonely", count=world, field="use_cpu")


def _refuse_without_bitsandbytes(training_args: TrainingArguments) -> None:
    name = OptimizerNames(training_args.optim).value
    if needs_bitsandbytes(name) and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("train.bitsandbytes_optim", optim=name, field="optim")


def _refuse_without_liger(training_args: TrainingArguments) -> None:
    if not training_args.use_liger_kernel:
        return
    if importlib.util.find_spec("liger_kernel") is None:
        raise InputError("train.liger", field="use_liger_kernel")
    if training_args.device.type == "cpu":
        raise InputError("plan.liger_cpu", field="use_liger_kernel")


@contextlib.contextmanager
def _scratch(run_dir: Path) -> Iterator[Path]:
    """A folder for tokenised rows, gone afterwards."""
    path = run_dir / f".features-{os.environ.get('RANK', '0')}"
    shutil.rmtree(path, ignore_errors=True)  # of a session that was killed
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# --- data ------------------------------------------------------------------------------------


def read_rows(args: DataArguments) -> Rows:
    """The rows that the arguments name.

    Raises:
        InputError: they cannot be read, or are not of this task.
    """
    return load_rows(
        args.train_file,
        args.text_column_names or args.text_column,
        args.validation_file,
        args.task,
        label_column=args.label_column_name,
        validation_split_percentage=args.validation_split_percentage,
    )


class _Data:
    """Tokenised rows, their collator, and what is to be said about them."""

    def __init__(
        self,
        args: DataArguments,
        rows: Rows,
        tokenizer: Any,
        model: Any,
        training: TrainingArguments,
        scratch: Path,
    ) -> None:
        self.module = task_module(args.task)
        self.rows = rows

        def features(part: datasets.Dataset, name: str) -> datasets.Dataset:
            return self.module.features(
                part,
                rows=rows,
                tokenizer=tokenizer,
                model=model,
                args=args,
                cache=scratch / f"{name}.arrow",
            )

        evaluates = training.do_eval or training.eval_strategy != "no" or training.eval_on_start
        self.train = features(rows.train, "train")
        self.evaluation = features(rows.evaluation, "evaluation") if evaluates else None
        self.collator = self.module.collator(tokenizer, args)
        self.warnings = [
            (finding.id.replace("data.", "rows_", 1), render(finding))
            for finding in rows.findings
            if row_findings.is_warning(finding)
        ]
        whole: Any = self.train.with_format("numpy")["whole_length"][:]
        num_cut = int((whole > args.max_seq_length).sum())
        if num_cut:
            self.warnings.append(
                (
                    "rows_cut",
                    f"{num_cut:,} of {len(self.train):,} training rows are longer than "
                    f"max_seq_length ({args.max_seq_length:,} tokens) and were cut.",
                )
            )

    def keep_longest(self, run_dir: Path, training: TrainingArguments) -> None:
        """Every micro-batch becomes the longest one of the data set; see `trainer.proof`."""
        batch = training.per_device_train_batch_size
        times = training.max_steps * training.gradient_accumulation_steps * training.world_size
        self.train, tokens = proof.longest_batches(self.train, batch, times)
        if training.process_index == 0:
            record.update(run_dir, proof={"batch_rows": batch, "longest_tokens": tokens})


# --- the loop --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Session:
    run_dir: Path
    log: EventLog
    stop: Stop
    args: TrainingArguments
    checkpoint: Path | None
    task: str

    def run(self, model: Any, tokenizer: Any, data: _Data) -> Outcome:
        """Train until the planned steps are done or somebody stops it."""
        known = (record.read_object(self.run_dir / record.RECORD) or {}).get("predicted") or {}
        meter = MemoryMeter(self.args.device, context_bytes=known.get("context_bytes"))
        callback = RunCallback(
            run_dir=self.run_dir,
            log=self.log,
            stop=self.stop,
            meter=meter,
            start=self._facts(model, data, known),
            warnings=data.warnings,
            more_metrics=data.module.more_metrics,
        )
        loss = data.module.compute_loss
        metrics = data.module.metrics(data.rows)
        trainer = RunTrainer(
            model=model,
            args=self.args,
            data_collator=data.collator,
            train_dataset=data.train,
            eval_dataset=data.evaluation,
            processing_class=tokenizer,
            compute_loss_func=loss and loss(self.args.label_smoothing_factor),
            compute_metrics=metrics,
            preprocess_logits_for_metrics=metrics and data.module.answers,
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
            if data.evaluation is not None and self.args.eval_strategy == "no":
                trainer.evaluate()
        except StopNowError:
            if self.stop.starting:  # a signal between two lines of the start
                raise
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is one of the latter
            said = faults.memory_error(
                error,
                step=trainer.state.global_step + 1,
                shape=trainer.micro_batch_shape,
                predicted_bytes=known.get("process_bytes"),
            )
            if said is None:
                raise
            raise said from error
        if callback.evaluation_cut:
            trainer.save_now()
        try:
            return self._outcome(trainer, callback)
        finally:
            meter.close()

    def _outcome(self, trainer: RunTrainer, callback: RunCallback) -> Outcome:
        state = trainer.state
        finished = 0 < state.max_steps <= state.global_step
        stopped = not finished and self.stop.requested()
        error = None
        if not finished and not stopped:
            error = f"Training ended after {state.global_step} of {state.max_steps} steps."
        measured = callback.summary(state) if state.is_world_process_zero else {}
        path = self._save_model(trainer) if finished else None
        auto_class = find_trainable_task(self.task).auto_class
        return Outcome(
            reason="finished" if finished else "stopped" if stopped else "failed",
            step=state.global_step,
            error=error,
            measured=measured,
            model_path=path,
            load_code=path and result.load_code(auto_class, trainer.model, path),
        )

    def _save_model(self, trainer: RunTrainer) -> str | None:
        """Where the trained model is: the last checkpoint, or the output directory."""
        assert self.args.output_dir is not None
        if proof.is_proof(self.run_dir):
            with contextlib.suppress(OSError):  # Trainer makes it even when nothing is saved
                Path(self.args.output_dir).rmdir()
            return None
        last = Path(self.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        if last.is_dir() and not self.args.load_best_model_at_end:
            return str(last)
        trainer.save_result()
        return self.args.output_dir

    def _facts(self, model: Any, data: _Data, predicted: Mapping[str, Any]) -> dict[str, Any]:
        device = self.args.device
        resumed = None
        if self.checkpoint is not None:
            resumed = int(self.checkpoint.name.removeprefix("checkpoint-"))
        return {
            "num_rows": len(data.train),
            "num_eval_rows": 0 if data.evaluation is None else len(data.evaluation),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_trainable_parameters": sum(
                p.numel() for p in model.parameters() if p.requires_grad
            ),
            "versions": ", ".join(f"{k} {v}" for k, v in runs.versions().items()),
            "resumed_from_step": resumed,
            "predicted_process_bytes": predicted.get("process_bytes"),
        }
