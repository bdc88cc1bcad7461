"""Ties it together: a Question in, a Recommendation out.

Holds the worker process and caches what it described.
"""

import dataclasses
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from advisor import demo, elsewhere, measurements, records, sources
from advisor.conflicts import find_conflicts
from advisor.data import DataDescription
from advisor.elsewhere import Elsewhere
from advisor.errors import InputError, PlanError, SimulationError
from advisor.estimate import Estimator
from advisor.front import Counted, alternatives, neighbours
from advisor.hardware.catalogue import machine_from_name
from advisor.hardware.choice import choose, is_local
from advisor.hardware.machine import Gpu, Machine
from advisor.hardware.probe import probe_machine
from advisor.home import runs_dir
from advisor.locale import Message
from advisor.memory import MemoryEstimate, Verdict
from advisor.model import ModelDescription
from advisor.pins import check_pins
from advisor.plan import Method, TrainingPlan
from advisor.recommendation import Conflict, Recommendation
from advisor.rules.advice import advise
from advisor.rules.facts import Facts
from advisor.search import Candidate, Goal, Search
from advisor.simulate.make import Profiles, ProfileStore
from advisor.simulate.worker import Progress, Worker
from advisor.speed import TimeEstimate
from advisor.tasks import find_trainable_task
from advisor.versions import installed

PACKAGES = ("training-advisor", "torch", "transformers", "peft", "accelerate", "datasets")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked."""

    model: str = "demo"
    data: str | None = "demo"
    task: str | None = None
    """None: inferred from model and data."""
    text_column: str | None = None
    """"one,two" for a pair."""
    label_column: str | None = None
    validation: str | None = None
    method: Literal["auto", "full", "lora", "qlora"] = "auto"
    machine: str | None = None
    """A name of the catalogue, or UUID or index of a GPU of this machine; None is this machine."""
    goal: Goal = "fastest"
    pins: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SweepCell:
    """One cell of the map of batch and length."""

    batch: int
    length: int
    process_bytes: int | None
    verdict: Verdict
    tokens_per_second: float | None


class Advisor:
    """Answers questions; one for each process. Thread-safe."""

    def __init__(self, *, home: Path | None = None) -> None:
        self._worker = Worker(home=home)
        self._store = ProfileStore(self._worker)
        self._lock = threading.RLock()
        self._described: dict[tuple[Any, ...], Any] = {}
        self._machines: dict[str | None, Machine] = {}

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def cancel(self) -> None:
        """Give up the answer that is being worked out: `recommend` raises WorkerError.

        It does so where it next needs the worker; an answer whose profiles are all kept is finished
        all the same. The next `recommend` starts a new worker; until then `task`, `model` and
        `data` answer only what they were asked before. Safe from any thread.
        """
        self._worker.cancel()

    def calibrate(
        self,
        gpu: Gpu | None,
        on_progress: Progress | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> measurements.Calibration | measurements.GpuCalibration:
        """Measure a GPU of this machine, or its processor; see `measurements` for the errors."""
        if gpu is None:
            return measurements.calibrate(on_progress, cancelled=cancelled)
        self._worker.resume()
        return measurements.calibrate_gpu(self._worker, gpu, on_progress, cancelled=cancelled)

    def machine(self, name: str | None = None, *, refresh: bool = False) -> Machine:
        """This machine (probed once, and again with `refresh`), one GPU of it, or the catalogue's.

        Raises:
            UnknownNameError: the catalogue lacks it.
            InputError: this machine lacks the GPU, or it cannot be used.
        """
        if name is not None and is_local(name):
            return choose(self.machine(refresh=refresh), name)
        if refresh or name not in self._machines:
            self._machines[name] = (
                probe_machine(runs_dir()) if name is None else machine_from_name(name)
            )
        return self._machines[name]

    def task(self, question: Question) -> str:
        """The task asked for, else the one that model and data are for.

        Raises:
            InputError: it cannot be trained, or several are possible.
        """
        if question.task is not None:
            return find_trainable_task(question.task).slug
        key = ("task", question.model, question.data, question.label_column)
        key = (*key, *_stamps(demo.resolve(question.model, "model")))
        key = (*key, *(sources.stamp(question.data) if question.data else ()))
        if key not in self._described:
            self._described[key] = self._worker.call(
                "infer_task",
                {
                    "model_path": question.model,
                    "data_path": question.data,
                    "label_column": question.label_column,
                },
            )
        return find_trainable_task(self._described[key]).slug

    def model(self, path: str, task: str, num_labels: int | None = None) -> ModelDescription:
        """The description of a model, for so many classes where the task has any.

        Raises:
            InputError: it cannot be read.
        """
        where = demo.resolve(path, "model")
        key = ("model", str(where), task, num_labels, *_stamps(where))
        if key not in self._described:
            asked = {"path": path, "task": task, "num_labels": num_labels}
            answer = self._worker.call("describe_model", asked)
            self._described[key] = records.decode(ModelDescription, answer, "model")
        return self._described[key]

    def data(self, question: Question) -> DataDescription | None:
        """The description of the question's data; None without any.

        Raises:
            InputError: it cannot be read.
        """
        if question.data is None:
            return None
        task = self.task(question)
        columns = (question.text_column, question.label_column)
        key = ("data", question.data, *columns, question.validation, question.model, task)
        key = (*key, *_stamps(demo.resolve(question.model, "model")))
        for place in filter(None, (question.data, question.validation)):
            key = (*key, *sources.stamp(place))
        if key not in self._described:
            answer = self._worker.call(
                "describe_data",
                {
                    "path": question.data,
                    "model_path": question.model,
                    "task": task,
                    "text_column": question.text_column,
                    "validation_path": question.validation,
                    "label_column": question.label_column,
                },
            )
            self._described[key] = records.decode(DataDescription, answer, "data")
        return self._described[key]

    def recommend(
        self,
        question: Question,
        *,
        on_progress: Progress | None = None,
        on_first: Callable[[Recommendation], None] | None = None,
    ) -> Recommendation:
        """The answer.

        Args:
            question: what is asked.
            on_progress: told what is being done.
            on_first: given the first plan that fits, most likely the recommended one, before the
                others are known.

        Raises:
            InputError: something in the question cannot be used.
            WorkerError: the worker failed, or `cancel` was called.
        """
        with self._lock:
            profiles = Counted(self._store)
            facts, estimator, pins = self._prepare(question, on_progress, profiles)
            held = pins if question.method == "auto" else {"method": question.method, **pins}

            def answer(
                chosen: Candidate | None,
                others: Mapping[str, MemoryEstimate | Message],
                conflicts: tuple[Conflict, ...] = (),
            ) -> Recommendation:
                return Recommendation(
                    plan=chosen.plan if chosen else None,
                    advice=advise(search.facts, chosen.plan, held, others) if chosen else (),
                    memory=chosen.memory if chosen else search.least(),
                    time=_time(estimator, chosen),
                    alternatives=alternatives(search, chosen) if chosen else (),
                    conflicts=conflicts,
                    machine=facts.machine,
                    model=facts.model,
                    data=facts.data,
                    versions=_versions(),
                    timeline=_timeline(estimator, chosen),
                )

            def first(found: Candidate) -> None:
                profiles.limited = True
                if on_first is not None:
                    on_first(answer(found, {}))

            search = Search(facts, estimator, pins, first)
            methods = _methods(question, facts, pins)
            search.guess(methods, question.goal)
            best = search.best(methods, question.goal)
            if best is None:
                return answer(None, {}, find_conflicts(facts, estimator, held))
            profiles.limited = True
            return answer(best, neighbours(search, best))

    def sweep(self, question: Question, plan: TrainingPlan) -> tuple[SweepCell, ...]:
        """Memory and speed of the plan at other micro-batches and lengths.

        The effective batch about kept.
        """
        with self._lock:
            facts, estimator, _ = self._prepare(question, None)
            return tuple(
                _cell(estimator, plan, batch, length)
                for length in _sweep_lengths(facts, plan)
                for batch in (1, 2, 4, 8, 16, 32)
            )

    def elsewhere(
        self, question: Question, plan: TrainingPlan, names: Sequence[str | None], seconds: float
    ) -> tuple[Elsewhere, ...]:
        """The plan on other machines, as many of `names` as `seconds` allow, at least one."""
        found: list[Elsewhere] = []
        end = time.monotonic() + seconds
        with self._lock:
            for name in names:
                if found and time.monotonic() > end:
                    break
                there = replace(question, machine=name)
                facts, estimator, pins = self._prepare(there, None)
                found.append(elsewhere.answer(name, plan, facts, pins, estimator))
        return tuple(found)

    def _prepare(
        self, question: Question, on_progress: Progress | None, profiles: Profiles | None = None
    ) -> tuple[Facts, Estimator, dict[str, Any]]:
        self._worker.resume()
        task = self.task(question)
        pins = check_pins(question.pins)
        machine = self.machine(question.machine)
        if pins.get("fsdp"):
            pins.setdefault("devices", machine.num_devices())
        data = self.data(question)
        num_labels = len(data.labels) or None if data else None
        facts = Facts(
            machine=machine,
            model=self.model(question.model, task, num_labels),
            data=data,
            task=task,
        )
        if pins.get("packing") and facts.data is not None and facts.data.ends_texts is False:
            raise PlanError("plan.packing_end", field="packing")
        estimator = Estimator(
            self._worker,
            model=facts.model,
            data=facts.data,
            machine=machine,
            store=profiles or self._store,
            on_progress=on_progress,
            runs=runs_dir(),
            pins=pins,
        )
        return facts, estimator, pins


def _stamps(path: Path) -> tuple[Any, ...]:
    """Changes when a file or a directory's content does."""
    if path.is_dir():
        return tuple(sorted((f.name, f.stat().st_mtime_ns) for f in path.iterdir() if f.is_file()))
    return (path.stat().st_mtime_ns,) if path.exists() else ()


def _methods(question: Question, facts: Facts, pins: Mapping[str, Any]) -> tuple[Method, ...]:
    asked = pins.get("method", question.method)
    if asked == "auto" and pins.get("quantization") is not None:
        asked = "qlora"
    if asked == "auto":
        return facts.methods()
    if asked not in ("full", "lora", "qlora"):
        raise PlanError("recommend.method", got=asked, field="method")
    if asked == "qlora" and not facts.quantises():
        raise PlanError("recommend.qlora", name=facts.machine.name, field="method")
    if asked not in facts.methods():
        raise InputError("recommend.no_weights", name=facts.model.name, field="method")
    return (asked,)


def _time(estimator: Estimator, best: Candidate | None) -> TimeEstimate | None:
    """The time of the chosen plan, with the longest step, which only a proof asks for."""
    if best is None or best.time.step_seconds is None:
        return best.time if best else None
    longest = estimator.longest_step_seconds(best.plan)
    return dataclasses.replace(best.time, longest_step_seconds=longest)


def _timeline(estimator: Estimator, best: Candidate | None) -> Any:
    if best is None or best.memory.process_bytes is None:
        return None
    return estimator.timeline(best.plan)


def _sweep_lengths(facts: Facts, plan: TrainingPlan) -> list[int]:
    rows = facts.data.rows_of(plan) if facts.data else None
    longest = rows.longest_batch_tokens(plan.max_length) if rows else plan.max_length
    context = facts.model.max_position_embeddings or plan.max_length
    lengths = {n for n in (128, 256, 512, 1024, 2048, 4096) if n <= context}
    return sorted({*lengths, longest})[-5:] if longest >= 512 else sorted({*lengths, longest})[:5]


def _cell(estimator: Estimator, plan: TrainingPlan, batch: int, length: int) -> SweepCell:
    own = batch == plan.per_device_train_batch_size and length == estimator.longest(plan)
    try:
        memory, speed = estimator.at_shape(plan, batch, length)
        if own:  # the very question of the verdict
            memory = estimator.memory(plan)
    except SimulationError:
        return SweepCell(
            batch=batch,
            length=length,
            process_bytes=None,
            verdict="unknown",
            tokens_per_second=None,
        )
    return SweepCell(
        batch=batch,
        length=length,
        process_bytes=memory.process_bytes,
        verdict=memory.verdict,
        tokens_per_second=speed,
    )


def _versions() -> dict[str, str]:
    found = {name: installed(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{k: v for k, v in found.items() if v}}
