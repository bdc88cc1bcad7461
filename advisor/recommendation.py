"""Recommendation: the answer as one record, written to plan.json and read back."""

from dataclasses import dataclass, field
from typing import Any, Literal

from advisor import records
from advisor.data import DataDescription
from advisor.hardware.machine import Machine
from advisor.locale import Message, Note, render, say
from advisor.memory import MemoryEstimate, StepTimeline
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.speed import TimeEstimate

Source = Literal["measured", "simulated", "read", "rule", "user"]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One recommended value with its reason, source and counterfactual."""

    field: str
    """A TrainingPlan field, or a derived quantity such as effective_batch_size."""
    value: Any
    reason: Message
    source: Source
    """user for a pinned value."""
    counterfactual: Message | None = None
    """What another value would do: "8 would need 14.2 GiB, 2.2 more than is free"."""
    pinned: bool = False
    rule: str | None = None
    """Id of the rule, e.g. "R-LR-01"."""
    reference: str | None = None
    """Where the rule comes from: paper, documentation or recipe."""
    options: tuple[Any, ...] = ()
    """Values worth offering, the recommended one among them."""


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Another plan on the front of memory and time."""

    label: Message
    plan: TrainingPlan
    memory: MemoryEstimate
    time: TimeEstimate
    pins: dict[str, Any] = field(default_factory=dict)
    """The pins that turn the recommendation into this plan."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A smallest set of pins (or limits) that cannot hold together, and the ways out."""

    fields: tuple[str, ...]
    """The pinned fields; giving up any one of them is enough."""
    reason: Message
    ways_out: tuple[tuple[str, Message], ...] = ()
    """(field to give up, what that would yield)."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The whole answer; `plan` is None when nothing fits, and `conflicts` says why."""

    plan: TrainingPlan | None
    advice: tuple[Advice, ...]
    memory: MemoryEstimate | None
    time: TimeEstimate | None
    alternatives: tuple[Alternative, ...]
    conflicts: tuple[Conflict, ...]
    machine: Machine
    model: ModelDescription
    data: DataDescription | None
    versions: dict[str, str]
    """Of this program, torch, transformers, peft, accelerate, python."""
    timeline: StepTimeline | None = None
    """Memory through one step; for the chart, not part of plan.json."""

    def to_dict(self, lang: str = "en") -> dict[str, Any]:
        """plan.json: every message as id, params and the text in `lang`; notes as text."""
        result = records.encode(self)
        del result["timeline"]
        return _with_text(result, lang)

    @staticmethod
    def from_dict(data: Any) -> "Recommendation":
        """Read plan.json back; the rendered texts are dropped.

        Raises:
            InputError: not a plan.json of this version.
        """
        return records.decode(Recommendation, _without_text(data), "plan.json")


def _with_text(value: Any, lang: str) -> Any:
    if isinstance(value, Note):
        return say(value, lang)
    if isinstance(value, dict):
        result = {k: _with_text(v, lang) for k, v in value.items()}
        if set(value) == {"id", "params"}:
            result["text"] = render(Message(id=value["id"], params=value["params"]), lang)
        return result
    if isinstance(value, list):
        return [_with_text(v, lang) for v in value]
    return value


def _without_text(value: Any) -> Any:
    if isinstance(value, dict):
        keep = {
            k: v for k, v in value.items() if k != "text" or set(value) != {"id", "params", "text"}
        }
        return {k: _without_text(v) for k, v in keep.items()}
    if isinstance(value, list):
        return [_without_text(v) for v in value]
    return value
