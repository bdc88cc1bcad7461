"""The error tree of everything a user can get wrong or a machine can refuse.

AdvisorError
 +- InputError         a file, value or option that cannot be used (CLI: exit 2)
 |   +- PlanError      a set of values that cannot run together
 |   +- UnknownNameError   a name that is not in a table; carries the nearest ones
 +- SimulationError    the question is right, the answer is "unknown" (never a guess)
 |   +- LeftOutError   not simulated: the answer already has as many profiles as it may
 +- WorkerError        the worker process died or did not answer in time

An error is an id of `locale/errors_*.json` and its parameters. Its sentence says what, got what, do
what, in that order: `str(error)` in English, `error.sentence(lang)` in the reader's language. What
a library says is a parameter and stays as it is.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from advisor.locale import Message, Note, sentence


def words(message_id: str, /, **params: Any) -> Message:
    """A part of an error's sentence that has a language of its own; for use as a parameter."""
    return Message(id=message_id, params=_plain(params))


def note(message_id: str, /, **params: Any) -> Note:
    """A sentence of the catalogue that goes with an answer."""
    return Note(Message(id=message_id, params=_plain(params)))


class AdvisorError(Exception):
    """Base of the tree; catch it at the edge (CLI, UI) and show its sentence."""

    def __init__(self, message_id: str, /, *, field: str | None = None, **params: Any) -> None:
        super().__init__(message_id)
        self.id = message_id
        """Of the catalogues; text that is in neither is its own sentence in every language."""
        self.params: dict[str, Any] = _plain(params)
        """What the sentence names: numbers, text, `words`, and lists of these."""
        self.field = field
        """Name of the plan field or option the message belongs beside, or None."""

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self, lang: str = "en") -> str:
        """The error in `lang`; its field is one of the places."""
        return sentence(self.words(), lang)

    def words(self) -> Message:
        """The error as a part of another sentence."""
        return Message(id=self.id, params={**self.params, "field": self.field})

    def note(self) -> Note:
        """The error as the reason why something is unknown."""
        return Note(self.words())

    def encode(self) -> dict[str, Any]:
        """The error as JSON values, for `decode` in another process."""
        return {
            "type": type(self).__name__,
            "id": self.id,
            "params": encode(self.params),
            "field": self.field,
        }

    @staticmethod
    def decode(data: Mapping[str, Any]) -> "AdvisorError":
        """What `encode` wrote, as the same class."""
        cls = getattr(sys.modules[__name__], data["type"], AdvisorError)
        return cls(data["id"], field=data["field"], **decode(data["params"]))


class InputError(AdvisorError):
    """A file, value or option of the user's cannot be used."""


class PlanError(InputError):
    """Values that are each valid cannot run together."""


class UnknownNameError(InputError):
    """A name that a table does not hold."""

    def __init__(
        self,
        message_id: str,
        /,
        *,
        nearest: Iterable[str] = (),
        field: str | None = None,
        **params: Any,
    ) -> None:
        self.nearest = tuple(nearest)
        """The closest names the table does hold, best first; one of the places."""
        super().__init__(message_id, field=field, nearest=self.nearest, **params)


class SimulationError(AdvisorError):
    """The simulator cannot answer this question exactly; the reason is the message."""


class LeftOutError(SimulationError):
    """It could be simulated, but the answer already has as many profiles as it may."""


class WorkerError(AdvisorError):
    """The worker process died or did not answer in time."""


_WORDS, _NOTE = "words", "note"
"""Keys that tell an encoded `words` or `note` from an object of the user's."""


def _plain(value: Any) -> Any:
    """A parameter as it survives JSON: paths and exceptions become text."""
    if value is None or isinstance(value, (bool, int, float, str, Message)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value)


def encode(value: Any) -> Any:
    """JSON values with what has a language of its own, for `decode` in another process."""
    if isinstance(value, Message):
        return {_WORDS: value.id, "params": encode(value.params)}
    if isinstance(value, Note):
        return {_NOTE: value.message.id, "params": encode(value.message.params)}
    if isinstance(value, dict):
        return {name: encode(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(inner) for inner in value]
    return value


def decode(value: Any) -> Any:
    """What `encode` wrote."""
    if isinstance(value, dict):
        if value.keys() == {_WORDS, "params"}:
            return Message(id=value[_WORDS], params=decode(value["params"]))
        if value.keys() == {_NOTE, "params"}:
            return Note(Message(id=value[_NOTE], params=decode(value["params"])))
        return {name: decode(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [decode(inner) for inner in value]
    return value
