"""The same plan on another machine: precision follows the card, everything else is held."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.errors import PlanError, SimulationError
from advisor.hardware.machine import Machine
from advisor.memory import MemoryEstimate
from advisor.plan import TrainingPlan
from advisor.rules import optimizer, precision
from advisor.rules.facts import Facts
from advisor.search import EstimatorProtocol
from advisor.speed import TimeEstimate

_PRECISION = ("dtype", "bf16", "fp16", "tf32")


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A plan's numbers on one machine."""

    name: str | None
    """As the catalogue spells it; None is this machine."""
    machine: Machine
    plan: TrainingPlan | None
    """With the precision of that machine; None where it cannot run there."""
    memory: MemoryEstimate
    time: TimeEstimate


def carried(plan: TrainingPlan, facts: Facts, pins: Mapping[str, Any]) -> TrainingPlan:
    """The plan as it would run on the machine of `facts`.

    Raises:
        PlanError: it cannot run there.
    """
    gpu = facts.gpu()
    _refuse(plan, facts, pins)
    changes: dict[str, Any] = precision.values(facts, plan.method)
    changes.update({name: pins[name] for name in _PRECISION if name in pins})
    for name, other in (("fp16", "bf16"), ("bf16", "fp16")):
        if pins.get(name):
            changes[other] = pins.get(other, False)
    changes["use_cpu"] = gpu is None
    changes["dataloader_pin_memory"] = pins.get("dataloader_pin_memory", gpu is not None)
    if plan.quantization is not None and pins.get("quantization") is None:
        dtype = precision.quantization(facts).bnb_4bit_compute_dtype
        changes["quantization"] = dataclasses.replace(
            plan.quantization, bnb_4bit_compute_dtype=dtype
        )
    return plan.replace(**changes)


def _refuse(plan: TrainingPlan, facts: Facts, pins: Mapping[str, Any]) -> None:
    """What a plan's own checks cannot know: how many devices there are, and of which maker.

    Liger's kernels and FSDP on a CPU are refused by the plan itself.
    """
    machine = facts.machine
    count = machine.num_devices()
    if plan.devices > count and pins.get("devices") != plan.devices:
        raise PlanError(
            "elsewhere.devices",
            devices=plan.devices,
            name=machine.name,
            count=count,
            field="devices",
        )
    if plan.quantization is not None and not facts.quantises():
        raise PlanError("recommend.qlora", name=machine.name, field="method")
    if facts.gpu() is None and optimizer.needs_bitsandbytes(plan.optim) and "optim" not in pins:
        raise PlanError(
            "elsewhere.bitsandbytes", optim=plan.optim, name=machine.name, field="optim"
        )


def answer(
    name: str | None,
    plan: TrainingPlan,
    facts: Facts,
    pins: Mapping[str, Any],
    estimator: EstimatorProtocol,
) -> Elsewhere:
    """What the plan needs and how long it takes on the machine of `facts`."""
    machine, moved = facts.machine, None
    time = TimeEstimate(step_seconds=None)
    try:
        moved = carried(plan, facts, pins)
        memory = estimator.memory(moved)
        time = estimator.time(moved)
    except (PlanError, SimulationError) as error:
        memory = MemoryEstimate.unknown(error.note(), machine.capacity_bytes())
    ceiling = pins.get("memory_ceiling_bytes")
    if ceiling is not None:
        memory = memory.limited(ceiling)
    return Elsewhere(name=name, machine=machine, plan=moved, memory=memory, time=time)
