"""Nothing fits: which pins exclude each other, and what giving one of them up yields."""

from collections.abc import Mapping
from typing import Any

from advisor.errors import PlanError
from advisor.locale import Message
from advisor.memory import MemoryEstimate
from advisor.recommendation import Conflict
from advisor.rules.facts import Facts
from advisor.search import Candidate, EstimatorProtocol, Search

GUILTY = (
    "method", "memory_ceiling_bytes", "per_device_train_batch_size", "max_length",
    "activation_checkpointing", "effective_batch_size", "gradient_accumulation_steps", "dtype",
    "optim", "attn_implementation", "use_liger_kernel", "packing", "padding_free",
)  # fmt: skip
"""Pins that decide memory, most first. The others are dropped before them: that asks for no
structure which the likely culprits do not ask for as well, so few are traced."""


def find_conflicts(
    facts: Facts, estimator: EstimatorProtocol, pins: Mapping[str, Any]
) -> tuple[Conflict, ...]:
    """Why no plan keeps all pins.

    Args:
        facts: the question.
        estimator: answers for plans.
        pins: what is held and cannot be; the method the question asks for is the pin `method`.

    Returns:
        Minimal sets of pins without a common one: each has no plan, and without any one of its
        pins it has one. One set of no pins where the machine fits nothing at all.
    """
    trials = _Trials(facts, estimator, pins)
    if trials.plan(()) is None:
        return (_machine(trials),)
    rest = tuple(sorted(pins, key=_innocence))
    found = []
    while trials.plan(rest) is None:
        fields = _minimal(trials, rest)
        found.append(_conflict(trials, fields))
        rest = tuple(name for name in rest if name not in fields)
    return tuple(found)


class _Trials:
    """The smallest plan that keeps some of the pins; remembers what was tried."""

    def __init__(self, facts: Facts, estimator: EstimatorProtocol, pins: Mapping[str, Any]) -> None:
        self.facts = facts
        self.pins = pins
        self._estimator = estimator
        self._known: dict[frozenset[str], Candidate | None] = {}
        self._least: dict[frozenset[str], MemoryEstimate | None] = {}

    def plan(self, kept: tuple[str, ...]) -> Candidate | None:
        """A plan that keeps these pins; None is none."""
        key = frozenset(kept)
        if key not in self._known:
            held = {name: self.pins[name] for name in kept if name != "method"}
            methods = (self.pins["method"],) if "method" in key else self.facts.methods()
            search = Search(self.facts, self._estimator, held)
            try:
                self._known[key] = search.best(methods, "smallest")
            except PlanError:  # what the rules choose in its place cannot go with the others
                self._known[key] = None
            self._least[key] = search.least()
        return self._known[key]

    def least(self, kept: tuple[str, ...]) -> MemoryEstimate | None:
        """The least memory anything needs that keeps these pins."""
        self.plan(kept)
        return self._least[frozenset(kept)]


def _innocence(name: str) -> int:
    return -GUILTY.index(name) if name in GUILTY else -len(GUILTY)


def _minimal(trials: _Trials, fields: tuple[str, ...]) -> tuple[str, ...]:
    """Drop every pin without which there is no plan either, until none can be dropped.

    One pass would do if a plan could never be lost by giving up a pin; where the rules' own choice
    is worse than what was pinned, it can.
    """
    for name in fields:
        without = tuple(other for other in fields if other != name)
        if trials.plan(without) is None:
            return _minimal(trials, without)
    return fields


def _conflict(trials: _Trials, fields: tuple[str, ...]) -> Conflict:
    fields = tuple(reversed(fields))
    ways = tuple((name, _way_out(trials, fields, name)) for name in fields)
    return Conflict(fields=fields, reason=_reason("conflict.pins", trials, fields), ways_out=ways)


def _way_out(trials: _Trials, fields: tuple[str, ...], name: str) -> Message:
    """What giving up `name` yields: beside all other pins, or where others conflict, these."""
    found = trials.plan(tuple(other for other in trials.pins if other != name))
    if found is None:
        found = trials.plan(tuple(other for other in fields if other != name))
    assert found is not None, "the set is minimal"
    if found.memory.process_bytes is None:
        return Message(id="way.unknown", params={"field": name})
    return Message(
        id="way.method" if name == "method" else "way.other",
        params={
            "peak": found.memory.process_bytes,
            "method": found.plan.method,
            "field": name,
        },
    )


def _machine(trials: _Trials) -> Conflict:
    return Conflict(fields=(), reason=_reason("conflict.machine", trials, ()))


def _reason(key: str, trials: _Trials, fields: tuple[str, ...]) -> Message:
    least = trials.least(fields)
    free = least.capacity_bytes if least else trials.facts.machine.capacity_bytes()
    method = trials.pins["method"] if "method" in fields else trials.facts.methods()[-1]
    need = least.process_bytes if least else None
    return Message(id=key, params={"need": need, "free": free, "method": method})
