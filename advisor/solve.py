"""Pins, limits and a goal become a plan.

Build candidates from the rules, ask the estimator, keep what fits.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from advisor import records, training_arguments
from advisor.argument_checks import NEVER_WRITTEN, is_secret
from advisor.errors import PlanError, SimulationError, UnknownNameError
from advisor.memory import MemoryEstimate
from advisor.plan import DTYPE_BYTES, LoraSettings, Method, TrainingPlan
from advisor.rules import cadence, learning, optimizer, precision
from advisor.rules.facts import Facts
from advisor.speed import TimeEstimate

Goal = Literal["fastest", "smallest"]
ENOUGH_TOKENS = 4096
"""A micro-batch of this many tokens keeps a device busy: more only costs memory."""
WORTH_CHANGING = 0.02
"""Share of the memory that another optimizer has to save, where the goal is the smallest plan."""
LEAST_BLOCK = 1024
"""Tokens of a packed block where the model has room for it."""
LONGEST_WITHOUT_CONTEXT = 2048
PLAN_FIELDS = tuple(f.name for f in dataclasses.fields(TrainingPlan))
LORA_FIELDS = tuple(f"lora.{f.name}" for f in dataclasses.fields(LoraSettings))
_ONLY_TOGETHER = (
    "lora", "quantization", "method", "fp16", "bf16", "use_cpu", "num_train_epochs", "max_steps",
    "fsdp", "fsdp_config", "packing", "padding_free", "attention_mask",
)  # fmt: skip
"""Fields whose value cannot be judged without the others'."""
_RECORDS = (
    "quantization",
    "fsdp_config",
    "activation_checkpointing_kwargs",
    "optim_target_modules",
)
"""Fields that a plan holds in another form than JSON does."""
OTHER_PINS = ("effective_batch_size", "memory_ceiling_bytes")


class EstimatorProtocol(Protocol):
    """What the solver asks of an estimator."""

    def memory(self, plan: TrainingPlan) -> MemoryEstimate:
        """Peak of the plan; SimulationError: unknown."""
        ...

    def time(self, plan: TrainingPlan) -> TimeEstimate:
        """Time of the plan."""
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan with its numbers."""

    plan: TrainingPlan
    memory: MemoryEstimate
    time: TimeEstimate


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What the search found; `chosen` is None when nothing fits."""

    chosen: Candidate | None
    tried: tuple[Candidate, ...]
    """Every candidate that was estimated, fitting or not."""


def check_pins(pins: Mapping[str, Any]) -> dict[str, Any]:
    """Pins with known names and values of the right type.

    Raises:
        UnknownNameError: no such quantity.
        InputError: a value of another type.
    """
    known = (*PLAN_FIELDS, *LORA_FIELDS, *OTHER_PINS)
    for name, value in pins.items():
        if name not in known and _check_outside_the_plan(name, value):
            continue
        if name not in known:
            known = tuple(dict.fromkeys((*known, *training_arguments.fields())))
            nearest = tuple(difflib.get_close_matches(name, known, 5, 0.5))
            raise UnknownNameError("solve.unknown_pin", nearest=nearest, field=name)
        if name in OTHER_PINS and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise PlanError("solve.whole_number", got=value, field=name)
        if name in LORA_FIELDS:
            records.decode(LoraSettings, {name.removeprefix("lora."): value}, "lora")
        elif name in PLAN_FIELDS:
            records.convert_field(TrainingPlan, name, value)
            if name not in _ONLY_TOGETHER:
                _check_one({name: value})
    result = dict(pins)
    for name in _RECORDS:
        if pins.get(name) is not None:
            result[name] = records.convert_field(TrainingPlan, name, pins[name])
    return result


def _check_outside_the_plan(name: str, value: Any) -> bool:
    """Whether TrainingArguments alone has the name; the value goes to the arguments as it is."""
    field = training_arguments.fields().get(name)
    if field is None or name in training_arguments.RENAMED:
        return False
    if name in NEVER_WRITTEN or is_secret(name, value):
        raise PlanError("solve.never_pinned", field=name)
    wrong = training_arguments.problem(name, value, field.type, field.choices, field.default)
    if wrong:
        raise PlanError("solve.wrong_value", problem=wrong, field=name)
    return True


def _check_one(value: dict[str, Any]) -> None:
    name = next(iter(value))
    if name.startswith("dataloader"):
        value = {"dataloader_num_workers": 1, **value}
        if value["dataloader_num_workers"] == 0:
            return
    records.decode(TrainingPlan, value, "plan")


def base_plan(
    facts: Facts, method: Method, pins: Mapping[str, Any], batch: int, micro: int
) -> TrainingPlan:
    """The plan the rules make for a method, an effective batch and a micro-batch, pins applied.

    Raises:
        PlanError: the pins cannot run together.
    """
    max_length = pins.get("max_length") or default_length(facts, pins)
    on_all = micro * pins.get("devices", 1)
    accumulation = pins.get("gradient_accumulation_steps") or max(batch // on_all, 1)
    values: dict[str, Any] = {
        "task": facts.task,
        "method": method,
        "lora": None if method == "full" else _lora(pins),
        "quantization": precision.quantization(facts) if method == "qlora" else None,
        "max_length": max_length,
        "use_cpu": facts.gpu() is None,
        "attention_mask": needs_padding(facts, pins, micro, max_length),
        "attn_implementation": "sdpa" if facts.model.has_sdpa else "eager",
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        **precision.values(facts, method),
    }
    held = {k: v for k, v in pins.items() if k in PLAN_FIELDS and k not in ("method", "lora")}
    values.update(held)
    if held.get("fp16"):
        values["bf16"] = held.get("bf16", False)
    if held.get("bf16"):
        values["fp16"] = held.get("fp16", False)
    epochs = pins.get("num_train_epochs") or learning.epochs(facts, method)
    values["num_train_epochs"] = None if values.get("max_steps", -1) > 0 else epochs
    shape = TrainingPlan(**values)
    updates = shape.optimizer_steps(facts.num_rows())
    effective = shape.effective_batch_size()
    optim = held.get("optim", optimizer.DEFAULT)
    rate = learning.learning_rate(facts, method, effective, optim)
    rows = facts.rows()
    padding = 0.0
    if rows is not None and needs_padding(facts, pins, micro, max_length):
        padding = rows.padding_share(micro, max_length)
    evaluation = cadence.evaluation(facts, updates, effective)
    rules: dict[str, Any] = {
        "learning_rate": rate.value,
        "weight_decay": rate.base.weight_decay,
        "max_grad_norm": rate.base.max_grad_norm,
        "lr_scheduler_type": rate.base.lr_scheduler_type,
        "warmup_steps": learning.warmup_steps(facts, method, updates, optim),
        "adam_beta2": learning.adam_beta2(facts, method, effective),
        "optim": optim,
        "logging_steps": cadence.logging_steps(updates),
        **evaluation,
        **cadence.saving(updates, evaluation["eval_steps"]),
        **cadence.loading(facts, updates, padding),
    }
    merged: dict[str, Any] = {**values, **{k: v for k, v in rules.items() if k not in held}}
    if merged["dataloader_num_workers"] == 0:
        merged.update(dataloader_prefetch_factor=None, dataloader_persistent_workers=False)
    merged["logging_steps"] = min(merged["logging_steps"], max(updates // 10, 1))
    return TrainingPlan(**merged)


def default_length(facts: Facts, pins: Mapping[str, Any]) -> int:
    """No row is cut: the longest row rounded up to 16, within the model's context.

    Packed blocks are at least LEAST_BLOCK long, so that short rows fill them.
    """
    context = facts.model.max_position_embeddings or LONGEST_WITHOUT_CONTEXT
    if facts.data is None:
        return min(context, LONGEST_WITHOUT_CONTEXT)
    longest = -(-facts.data.max_tokens // 16) * 16
    return min(context, max(longest, LEAST_BLOCK) if pins.get("packing") else longest)


def needs_padding(facts: Facts, pins: Mapping[str, Any], micro: int, max_length: int) -> bool:
    """Whether batches of `micro` rows are padded."""
    return micro > 1 and not pins.get("padding_free") and facts.lengths_differ(max_length)


def _packed(facts: Facts, pins: Mapping[str, Any]) -> Facts:
    """The facts with their rows packed, where that is pinned."""
    if not pins.get("packing"):
        return facts
    length = pins.get("max_length") or default_length(facts, pins)
    return dataclasses.replace(facts, block_length=length)


def _lora(pins: Mapping[str, Any]) -> LoraSettings:
    held = {k.removeprefix("lora."): v for k, v in pins.items() if k in LORA_FIELDS}
    if isinstance(held.get("target_modules"), list):
        held["target_modules"] = tuple(held["target_modules"])
    return LoraSettings(**held)


def effective_batch(facts: Facts, method: Method, pins: Mapping[str, Any]) -> int:
    """Rows an update: pinned, or both of its factors pinned, or the rule's.

    Raises:
        PlanError: the pinned factors do not make the pinned product.
    """
    micro = pins.get("per_device_train_batch_size")
    accumulation = pins.get("gradient_accumulation_steps")
    devices = pins.get("devices", 1)
    wanted = pins.get("effective_batch_size")
    if wanted is not None:
        factors = {
            "per_device_train_batch_size": micro or 1,
            "gradient_accumulation_steps": accumulation or 1,
            "devices": devices,
        }
        for name, part in factors.items():
            if wanted % part:
                raise PlanError("solve.not_divisible", part=part, wanted=wanted, field=name)
        product = math.prod(factors.values())
        is_whole = micro is not None and accumulation is not None
        if wanted % product or (is_whole and wanted != product):
            raise PlanError(
                "solve.product",
                micro=micro or 1,
                accumulation=accumulation or 1,
                devices=devices,
                wanted=wanted,
                field="effective_batch_size",
            )
        return wanted
    if micro is not None and accumulation is not None:
        return micro * accumulation * devices
    epochs = pins.get("num_train_epochs") or learning.epochs(facts, method)
    size = learning.effective_batch_size(facts, method, epochs)[0]
    for part in (micro, accumulation):
        if part is not None and size % part:
            size = max(size // part, 1) * part
    return -(-size // devices) * devices


def micro_batches(batch: int, pins: Mapping[str, Any]) -> list[int]:
    """Divisors of a device's share of the effective batch, largest first."""
    batch = max(batch // pins.get("devices", 1), 1)
    held = pins.get("per_device_train_batch_size")
    if held is not None:
        return [held]
    accumulation = pins.get("gradient_accumulation_steps")
    if accumulation is not None:
        return [batch // accumulation]
    return [m for m in range(batch, 0, -1) if batch % m == 0]


class Search:
    """Finds plans for one question; remembers what it estimated."""

    def __init__(self, facts: Facts, estimator: EstimatorProtocol, pins: Mapping[str, Any]) -> None:
        self.facts = _packed(facts, pins)
        self.pins = pins
        self._estimator = estimator
        self._known: dict[TrainingPlan, Candidate] = {}
        self._hopeless: list[Method] = []

    def candidate(self, plan: TrainingPlan) -> Candidate:
        """Numbers of a plan."""
        if plan not in self._known:
            ceiling = self.pins.get("memory_ceiling_bytes")
            try:
                memory = self._estimator.memory(plan)
                time = self._estimator.time(plan)
            except SimulationError as error:
                memory = MemoryEstimate.unknown(error.note(), self.facts.machine.capacity_bytes())
                time = TimeEstimate(step_seconds=None)
            if ceiling is not None:
                memory = memory.limited(ceiling)
            self._known[plan] = Candidate(plan=plan, memory=memory, time=time)
        return self._known[plan]

    def tried(self) -> tuple[Candidate, ...]:
        """Everything estimated so far."""
        return tuple(self._known.values())

    def least(self) -> MemoryEstimate | None:
        """The least memory anything tried needs; of what was hopeless, the last method's."""
        if not self._known and self._hopeless:
            batch = effective_batch(self.facts, self._hopeless[-1], self.pins)
            micro = micro_batches(batch, self.pins)[-1]
            self.candidate(self.plan(self._hopeless[-1], micro, True))
        known = [c.memory for c in self.tried() if c.memory.process_bytes is not None]
        return min(known, key=lambda m: m.process_bytes or 0, default=None)

    def plan(
        self, method: Method, micro: int, checkpointing: bool, optim: str | None = None
    ) -> TrainingPlan:
        """The rules' plan with this micro-batch, checkpointing and optimizer (None: AdamW)."""
        batch = effective_batch(self.facts, method, self.pins)
        pins = self.pins if optim is None else {**self.pins, "optim": optim}
        plan = base_plan(self.facts, method, pins, batch, micro)
        if "activation_checkpointing" in self.pins:
            return plan
        return plan.replace(activation_checkpointing=checkpointing)

    def largest(
        self,
        method: Method,
        checkpointing: bool,
        accept: tuple[str, ...],
        optim: str | None = None,
    ) -> Candidate | None:
        """The largest useful micro-batch whose verdict is accepted."""
        batch = effective_batch(self.facts, method, self.pins)
        sizes = micro_batches(batch, self.pins)
        length = self.plan(method, sizes[-1], checkpointing).max_length
        rows = self.facts.rows()
        longest = rows.longest_batch_tokens(length) if rows else length
        useful = [m for m in sizes if m * longest <= 4 * ENOUGH_TOKENS] or sizes[-1:]
        for micro in useful:
            found = self.candidate(self.plan(method, micro, checkpointing, optim))
            if found.memory.verdict in accept or found.memory.verdict == "unknown":
                return found
        return None

    def checkpointing_choices(self) -> tuple[bool, ...]:
        """Both, unless pinned."""
        held = self.pins.get("activation_checkpointing")
        sharded = self.pins.get("fsdp_config")
        if sharded is not None and sharded.activation_checkpointing:
            return (False,)
        return (False, True) if held is None else (held,)

    def best(self, methods: tuple[Method, ...], goal: Goal) -> Candidate | None:
        """The plan of the goal: the first method that fits; tight only where nothing else does.

        Where AdamW does not fit at all, optimizers with smaller states are tried.
        """
        asked = methods
        self._hopeless = [method for method in methods if self._is_hopeless(method)]
        methods = tuple(method for method in methods if method not in self._hopeless)
        for accept in (("fits",), ("fits", "tight")):
            for method in methods:
                if goal == "smallest":
                    found = self._smallest(method, accept)
                else:
                    found = self._fastest(method, accept)
                if found is not None:
                    return found
        return self._with_smaller_states(asked, goal)

    def _with_smaller_states(self, methods: tuple[Method, ...], goal: Goal) -> Candidate | None:
        """The first optimizer that fits; for the smallest plan the best of all."""
        for method in methods:
            optims = optimizer.smaller(self.facts, method, self.pins)
            optims = tuple(o for o in optims if not self._is_hopeless(method, o))
            together = [optims] if goal == "smallest" and optims else [(o,) for o in optims]
            for some in together:
                for accept in (("fits",), ("fits", "tight")):
                    if goal == "smallest":
                        found = self._smallest(method, accept, some)
                    else:
                        found = self._fastest(method, accept, some[0])
                    if found is not None and found.memory.process_bytes is not None:
                        return found
        return None

    def _is_hopeless(self, method: Method, optim: str | None = None) -> bool:
        """Whether what must lie there at once exceeds what is free, so that no trace is needed.

        Weights; of a full tuning also the gradients in their dtype and the optimizer's states.
        FSDP2 leaves each device its share.
        """
        capacity = self.facts.machine.capacity_bytes()
        free = min((n for n in (capacity, self.pins.get("memory_ceiling_bytes")) if n), default=0)
        batch = effective_batch(self.facts, method, self.pins)
        plan = self.plan(method, micro_batches(batch, self.pins)[-1], True, optim)
        size: float = DTYPE_BYTES[plan.dtype]
        if method == "full":
            states = optimizer.STATE_BYTES.get(plan.optim, 0.0)
            size = 2 * size + (2 * size if states is None else states)
        elif method == "qlora":
            size = 0.5
        shares = plan.devices if plan.is_sharded() else 1
        return 0 < free < size * self.facts.model.num_parameters / shares

    def _fastest(
        self, method: Method, accept: tuple[str, ...], optim: str | None = None
    ) -> Candidate | None:
        found: list[Candidate] = []
        for checkpointing in self.checkpointing_choices():
            one = self.largest(method, checkpointing, accept, optim)
            if one is None:
                continue
            found.append(one)
            tokens = one.plan.per_device_train_batch_size * one.plan.max_length
            whole = one.plan.gradient_accumulation_steps == 1
            if tokens >= ENOUGH_TOKENS or whole or one.memory.verdict == "unknown":
                break  # recomputation could only cost time
        return min(
            found, key=lambda c: c.time.total_seconds or c.time.step_seconds or 0, default=None
        )

    def _smallest(
        self, method: Method, accept: tuple[str, ...], optims: tuple[str, ...] | None = None
    ) -> Candidate | None:
        """The least memory: checkpointing first, then the optimizers with that checkpointing."""
        batch = effective_batch(self.facts, method, self.pins)
        micro = micro_batches(batch, self.pins)[-1]

        def at(checkpointing: bool, optim: str | None) -> Candidate:
            return self.candidate(self.plan(method, micro, checkpointing, optim))

        first = optims[0] if optims else None
        found = [at(checkpointing, first) for checkpointing in self.checkpointing_choices()]
        least = min(found, key=lambda c: c.memory.process_bytes or 0)
        rest = optims[1:] if optims else optimizer.smaller(self.facts, method, self.pins)
        others = [at(least.plan.activation_checkpointing, optim) for optim in rest]
        found += [c for c in others if c.memory.process_bytes is not None]
        kept = [c for c in found if c.memory.verdict in (*accept, "unknown")]
        smallest = min(kept, key=lambda c: c.memory.process_bytes or 0, default=None)
        if smallest is None or least not in kept:
            return smallest
        saved = (least.memory.process_bytes or 0) - (smallest.memory.process_bytes or 0)
        return smallest if saved > WORTH_CHANGING * (least.memory.process_bytes or 0) else least
