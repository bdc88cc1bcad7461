"""The plans beside the chosen one: its neighbours, the front of memory and time, and how many."""

from typing import Any

from advisor.errors import LeftOutError
from advisor.locale import Message
from advisor.memory import MemoryEstimate
from advisor.plan import Method, TrainingPlan
from advisor.recommendation import Alternative
from advisor.rules import optimizer
from advisor.search import Candidate, Search
from advisor.simulate.make import ProfileStore
from advisor.simulate.profile import Profile, Structure
from advisor.simulate.worker import Progress
from advisor.solve import effective_batch, micro_batches, needs_padding

MOST_PROFILES = 8
"""Of one recommendation: each takes seconds where it is new."""


class Counted:
    """The profiles of one recommendation.

    Once it is `limited`, what needs more than MOST_PROFILES is left out, be they kept or not: what
    an answer holds does not depend on what was asked before.
    """

    def __init__(self, store: ProfileStore) -> None:
        self._store = store
        self.used: dict[Structure, None] = {}
        """In the order they were asked for."""
        self.limited = False
        """Set where a plan that fits is known: without one the search goes on."""

    def get(self, structure: Structure, on_progress: Progress | None = None) -> Profile:
        """The profile of a structure.

        Raises:
            SimulationError: it cannot be simulated.
            LeftOutError: it would be one too many.
        """
        if structure not in self.used:
            if self.limited and len(self.used) >= MOST_PROFILES:
                raise LeftOutError("front.left_out", most=MOST_PROFILES)
            self.used[structure] = None
        return self._store.get(structure, on_progress)


def neighbours(search: Search, best: Candidate) -> dict[str, MemoryEstimate | Message]:
    """Memory of the plans next to the chosen one, or why it was not simulated."""
    plan = best.plan
    micro, effective = plan.per_device_train_batch_size, plan.effective_batch_size()
    result: dict[str, MemoryEstimate | Message] = {}
    larger = plan.replace(
        per_device_train_batch_size=micro * 2,
        gradient_accumulation_steps=max(effective // (micro * 2), 1),
        attention_mask=needs_padding(search.facts, search.pins, micro * 2, plan.max_length),
    )
    result["larger"] = _told(search.candidate(larger))
    switched = plan.replace(activation_checkpointing=not plan.activation_checkpointing)
    result["checkpointing"] = _told(search.candidate(switched))
    if plan.optim != optimizer.DEFAULT and "optim" not in search.pins:
        adamw = search.plan(plan.method, micro, plan.activation_checkpointing)
        result["optim"] = _told(search.candidate(adamw))
    if len(search.facts.methods()) > 1:
        other: Method = "full" if plan.method == "lora" else "lora"
        batch = effective_batch(search.facts, other, search.pins)
        micro = max(
            m
            for m in micro_batches(batch, search.pins)
            if m <= plan.per_device_train_batch_size or m == 1
        )
        built = search.plan(other, micro, plan.activation_checkpointing)
        result["method"] = _told(search.candidate(built))
    return result


def _told(found: Candidate) -> MemoryEstimate | Message:
    return (
        Message(id="other.left_out", params={"most": MOST_PROFILES})
        if found.left_out
        else found.memory
    )


def alternatives(search: Search, best: Candidate) -> tuple[Alternative, ...]:
    """Other plans that fit, none worse than another in both time and memory."""
    plan = best.plan
    found = []
    for c in search.tried():
        if (
            c.plan == plan
            or c.memory.verdict not in ("fits", "tight")
            or c.time.total_seconds is None
        ):
            continue
        if (
            c.plan.effective_batch_size() != plan.effective_batch_size()
            and c.plan.method == plan.method
        ):
            continue
        found.append(c)
    pool = [*found, best]

    def beaten(c: Candidate) -> bool:
        return any(
            o is not c
            and (o.memory.process_bytes or 0) <= (c.memory.process_bytes or 0)
            and (o.time.total_seconds or 0) < (c.time.total_seconds or 0)
            for o in pool
        )

    kept = [c for c in found if not beaten(c)] or found[:3]
    kept.sort(key=lambda c: c.time.total_seconds or 0)
    return tuple(_alternative(plan, c) for c in kept[:5])


def _alternative(plan: TrainingPlan, c: Candidate) -> Alternative:
    pins: dict[str, Any] = {}
    other = c.plan
    if other.method != plan.method:
        pins["method"] = other.method
    if other.activation_checkpointing != plan.activation_checkpointing:
        pins["activation_checkpointing"] = other.activation_checkpointing
    if other.per_device_train_batch_size != plan.per_device_train_batch_size:
        pins["per_device_train_batch_size"] = other.per_device_train_batch_size
    if other.optim != plan.optim and "method" not in pins:
        pins["optim"] = other.optim
    if "method" in pins:
        label = Message(id=f"alternative.{other.method}")
    elif "optim" in pins:
        label = Message(id="alternative.optim", params={"optim": other.optim})
    elif "per_device_train_batch_size" in pins:
        label = Message(
            id="alternative.micro",
            params={
                "micro": other.per_device_train_batch_size,
                "accumulation": other.gradient_accumulation_steps,
            },
        )
    else:
        label = Message(
            id=f"alternative.checkpointing.{'on' if other.activation_checkpointing else 'off'}"
        )
    return Alternative(label=label, plan=other, memory=c.memory, time=c.time, pins=pins)
