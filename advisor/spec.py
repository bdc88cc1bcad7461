"""SPEC: an exact question as JSON, exactly answered. `answer` takes a SPEC or a plan.json."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor import records
from advisor.data import DataDescription
from advisor.errors import InputError, SimulationError
from advisor.estimate import Estimator
from advisor.hardware.catalogue import machine_from_name
from advisor.hardware.machine import Machine
from advisor.memory import MemoryEstimate
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.recommendation import Recommendation
from advisor.simulate import software
from advisor.simulate.profile import Loop
from advisor.simulate.software import INSTALLED, Software
from advisor.simulate.worker import Worker
from advisor.speed import TimeEstimate

_KNOWN = ("id", "source", "model", "plan", "loop", "machine", "measured", "software", "notes")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A question after reading."""

    model: ModelDescription
    plan: TrainingPlan
    loop: Loop
    machine: Machine
    data: DataDescription | None = None
    software: Software = INSTALLED


def answer(document: Any, *, worker: Worker) -> dict[str, Any]:
    """Memory and time of a SPEC or of a plan.json, with the keys of the `estimate` command.

    Raises:
        InputError: not a SPEC and not a plan.json.
    """
    started = time.perf_counter()
    spec = read_spec(document, worker=worker)
    estimator = Estimator(
        worker, model=spec.model, data=spec.data, machine=spec.machine, software=spec.software
    )
    try:
        memory = estimator.memory(spec.plan, loop=spec.loop)
        duration = estimator.time(spec.plan, loop=spec.loop)
    except SimulationError as error:
        memory = MemoryEstimate.unknown(error.note(), spec.machine.capacity_bytes())
        duration = TimeEstimate(step_seconds=None)
    return _out(memory, duration, time.perf_counter() - started)


def read_spec(document: Any, *, worker: Worker) -> Spec:
    """A SPEC or plan.json as one question.

    Raises:
        InputError: an unknown or missing field.
    """
    if not isinstance(document, Mapping):
        raise InputError("spec.no_object")
    if "advice" in document:
        saved = Recommendation.from_dict(document)
        if saved.plan is None:
            raise InputError("spec.no_plan")
        return Spec(
            model=saved.model,
            plan=saved.plan,
            loop=Loop(),
            machine=saved.machine,
            data=saved.data,
        )
    for name in ("model", "plan", "machine"):
        if name not in document:
            raise InputError("spec.missing_field", field=name)
    for name in document:
        if name not in _KNOWN:
            raise InputError("spec.unknown_field", field=name)
    plan = _plan(document["plan"])
    return Spec(
        model=_model(document["model"], plan.task, worker),
        plan=plan,
        loop=records.decode(Loop, document.get("loop", {}), "loop"),
        machine=_machine(document["machine"]),
        software=software.read(document.get("software")),
    )


def _plan(data: Any) -> TrainingPlan:
    if not isinstance(data, Mapping):
        raise InputError("spec.plan", field="plan")
    return TrainingPlan.from_dict(data)


def _model(data: Any, task: str, worker: Worker) -> ModelDescription:
    if not isinstance(data, Mapping) or ("config" in data) == ("path" in data):
        raise InputError("spec.model", field="model")
    if "path" in data:
        described = worker.call("describe_model", {"path": str(Path(data["path"])), "task": task})
        return records.decode(ModelDescription, described, "model")
    config = data["config"]
    if not isinstance(config, Mapping) or not isinstance(config.get("model_type"), str):
        raise InputError("spec.model_type", field="model.config")
    return ModelDescription(
        name=str(data.get("name", config["model_type"])),
        path="",
        config=dict(config),
        model_type=config["model_type"],
        architecture="",
        num_parameters=0,
    )


def _machine(data: Any) -> Machine:
    if not isinstance(data, Mapping) or not isinstance(data.get("accelerator"), str):
        raise InputError("spec.accelerator", field="machine")
    count = data.get("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError("spec.count", got=count, field="machine.count")
    return machine_from_name(f"{data['accelerator']} x {count}")


def _out(memory: MemoryEstimate, duration: TimeEstimate, elapsed: float) -> dict[str, Any]:
    interval: dict[str, Any] = {name: list(pair) for name, pair in memory.interval.items()}
    if duration.step_seconds_interval is not None:
        interval["step_seconds"] = list(duration.step_seconds_interval)
    return {
        "allocated_bytes": memory.allocated_bytes,
        "reserved_bytes": memory.reserved_bytes,
        "process_bytes": memory.process_bytes,
        "interval": interval,
        "capacity_bytes": memory.capacity_bytes,
        "verdict": memory.verdict,
        "phases": memory.phases,
        "categories": memory.categories,
        "occasions": memory.occasions,
        "step_seconds": duration.step_seconds,
        "tokens_per_second": duration.tokens_per_second,
        "assumptions": [*memory.assumptions, *duration.assumptions],
        "elapsed_seconds": elapsed,
    }
