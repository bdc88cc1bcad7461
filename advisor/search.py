"""The search for the plan of a goal: ask the estimator for candidates, keep what fits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from advisor import likely
from advisor.errors import LeftOutError, SimulationError
from advisor.memory import MemoryEstimate
from advisor.plan import Method, TrainingPlan
from advisor.rules import optimizer
from advisor.rules.facts import Facts
from advisor.solve import base_plan, effective_batch, micro_batches, packed
from advisor.speed import TimeEstimate

Goal = Literal["fastest", "smallest"]
ENOUGH_TOKENS = 4096
"""A micro-batch of this many tokens keeps a device busy: more only costs memory."""
WORTH_CHANGING = 0.02
"""Share of the memory that another optimizer has to save, where the goal is the smallest plan."""


class EstimatorProtocol(Protocol):
    """What the solver asks of an estimator."""

    def memory(self, plan: TrainingPlan) -> MemoryEstimate:
        """Peak of the plan; SimulationError: unknown."""
        ...

    def time(self, plan: TrainingPlan) -> TimeEstimate:
        """Time of the plan."""
        ...

    def at_shape(
        self, plan: TrainingPlan, batch: int, length: int
    ) -> tuple[MemoryEstimate, float | None]:
        """Peak and tokens a second of the plan's own profile at another batch and length."""
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan with its numbers."""

    plan: TrainingPlan
    memory: MemoryEstimate
    time: TimeEstimate
    left_out: bool = False
    """Not simulated: the answer has as many profiles as it may."""

    def is_accepted(self, verdicts: tuple[str, ...]) -> bool:
        """Whether the verdict is one of these; what cannot be simulated is not refused."""
        unknown = self.memory.verdict == "unknown" and not self.left_out
        return unknown or self.memory.verdict in verdicts


class Search:
    """Finds plans for one question; remembers what it estimated."""

    def __init__(
        self,
        facts: Facts,
        estimator: EstimatorProtocol,
        pins: Mapping[str, Any],
        on_fit: Callable[[Candidate], None] | None = None,
    ) -> None:
        """Nothing is estimated yet.

        Args:
            facts: the question.
            estimator: answers for plans.
            pins: what is held.
            on_fit: given the first plan that fits, before the search is through.
        """
        self.facts = packed(facts, pins)
        self.pins = pins
        self._estimator = estimator
        self._on_fit = on_fit
        self._known: dict[TrainingPlan, Candidate] = {}
        self._hopeless: list[Method] = []
        self._ruled_out: list[TrainingPlan] = []

    def candidate(self, plan: TrainingPlan) -> Candidate:
        """Numbers of a plan."""
        if plan not in self._known:
            ceiling = self.pins.get("memory_ceiling_bytes")
            left_out = False
            try:
                memory = self._estimator.memory(plan)
                time = self._estimator.time(plan)
            except SimulationError as error:
                left_out = isinstance(error, LeftOutError)
                memory = MemoryEstimate.unknown(error.note(), self.facts.machine.capacity_bytes())
                time = TimeEstimate(step_seconds=None)
            if ceiling is not None:
                memory = memory.limited(ceiling)
            found = Candidate(plan=plan, memory=memory, time=time, left_out=left_out)
            self._known[plan] = found
            if memory.verdict == "fits" and self._on_fit is not None:
                tell, self._on_fit = self._on_fit, None
                tell(found)
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
        for plan in self._ruled_out:
            self.candidate(plan)
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

    def guess(self, methods: tuple[Method, ...], goal: Goal) -> Candidate | None:
        """The plan that will probably be chosen, estimated; None: nothing can be said before.

        Whatever it turns out to need, `best` decides.
        """
        choices = (True,) if goal == "smallest" else self.checkpointing_choices()
        for method in methods:
            if self._is_hopeless(method):
                continue
            for checkpointing in choices:
                plans, longest = self._useful(method, checkpointing)
                plans = plans[-1:] if goal == "smallest" else plans
                found = likely.micro_batch(self.facts, plans, longest, self._free())
                if found is not None:
                    return self.candidate(found)
        return None

    def largest(
        self,
        method: Method,
        checkpointing: bool,
        accept: tuple[str, ...],
        optim: str | None = None,
    ) -> Candidate | None:
        """The largest useful micro-batch whose verdict is accepted."""
        plans, longest = self._useful(method, checkpointing, optim)
        self._look_below(plans, longest)
        for plan in plans:
            if self._is_ruled_out(plan, longest):
                continue
            found = self.candidate(plan)
            if found.is_accepted(accept):
                return found
        return None

    def _useful(
        self, method: Method, checkpointing: bool, optim: str | None = None
    ) -> tuple[list[TrainingPlan], int]:
        """The plans of all useful micro-batches, largest first, and the longest row's tokens."""
        batch = effective_batch(self.facts, method, self.pins)
        sizes = micro_batches(batch, self.pins)
        length = self.plan(method, sizes[-1], checkpointing).max_length
        rows = self.facts.rows()
        longest = rows.longest_batch_tokens(length) if rows else length
        useful = [m for m in sizes if m * longest <= 4 * ENOUGH_TOKENS] or sizes[-1:]
        return [self.plan(method, m, checkpointing, optim) for m in useful], longest

    def _free(self) -> int | None:
        capacity, ceiling = (
            self.facts.machine.capacity_bytes(),
            self.pins.get("memory_ceiling_bytes"),
        )
        return min((n for n in (capacity, ceiling) if n), default=None)

    def _look_below(self, plans: list[TrainingPlan], longest: int) -> None:
        """Estimate the second one first where its profile probably rules out the first."""
        if len(plans) < 2 or plans[1].per_device_train_batch_size == 1:
            return
        first, second = plans[:2]
        is_alone = first.gradient_accumulation_steps == 1 < second.gradient_accumulation_steps
        if is_alone and likely.micro_batch(self.facts, [first], longest, self._free()) is None:
            self.candidate(second)

    def _is_ruled_out(self, plan: TrainingPlan, longest: int) -> bool:
        """Whether the profile of a like plan shows that this one cannot fit: none is traced.

        The two differ in accumulation, padding and whether a batch has one row.
        """
        if plan in self._known or plan in self._ruled_out:
            return plan in self._ruled_out
        alike = [c for c in self.tried() if _is_alike(c, plan)]
        free = self._free()
        if not alike or free is None:
            return False
        batch = plan.per_device_train_batch_size
        allocated = self._estimator.at_shape(alike[0].plan, batch, longest)[0].allocated_bytes or 0
        if likely.SURE * allocated - likely.gradients_bytes(self.facts, plan) <= free:
            return False
        self._ruled_out.append(plan)
        return True

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
        batch = effective_batch(self.facts, method, self.pins)
        plan = self.plan(method, micro_batches(batch, self.pins)[-1], True, optim)
        free = self._free()
        return free is not None and free < likely.weights_bytes(self.facts, plan)

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
        found = [c for c in found if not c.left_out]
        if not found:
            return None
        least = min(found, key=lambda c: c.memory.process_bytes or 0)
        rest = optims[1:] if optims else optimizer.smaller(self.facts, method, self.pins)
        others = [at(least.plan.activation_checkpointing, optim) for optim in rest]
        found += [c for c in others if c.memory.process_bytes is not None]
        kept = [c for c in found if c.is_accepted(accept)]
        smallest = min(kept, key=lambda c: c.memory.process_bytes or 0, default=None)
        if smallest is None or least not in kept:
            return smallest
        saved = (least.memory.process_bytes or 0) - (smallest.memory.process_bytes or 0)
        return smallest if saved > WORTH_CHANGING * (least.memory.process_bytes or 0) else least


def _is_alike(known: Candidate, plan: TrainingPlan) -> bool:
    """Whether what is known of a plan holds for `plan` but for accumulation, padding and rows."""
    names = (
        "method", "lora", "quantization", "dtype", "attn_implementation", "bf16", "fp16", "optim",
        "activation_checkpointing", "max_length", "packing", "padding_free", "devices", "fsdp",
    )  # fmt: skip
    is_one = known.plan.per_device_train_batch_size == 1 or known.memory.allocated_bytes is None
    return not is_one and all(getattr(known.plan, n) == getattr(plan, n) for n in names)
