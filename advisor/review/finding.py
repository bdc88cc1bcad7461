"""What a review says: findings, and the draft that they mend."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from advisor.argument_checks import is_secret, shown
from advisor.errors import words
from advisor.locale import Message, render, sentence

Severity = Literal["error", "warning", "change", "advice"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "change", "advice")
"""Would not load or run; runs, and not as meant; another name or none today; a better value."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to know about one argument."""

    severity: Severity
    field: str
    got: Any
    """The value in the file; None where it was not given or may not be repeated."""
    text: Message
    """What is wrong, of the errors' catalogue."""
    do: Message
    """What to do, of the same."""
    replacement: Mapping[str, Any] = field(default_factory=dict)
    """Arguments to write in its place; a name with None is one to leave out."""
    reason: Message | None = None
    """Why the value is better, of the reasons' catalogue."""
    reference: str | None = None
    """Where the reason comes from."""

    def to_dict(self, lang: str = "en") -> dict[str, Any]:
        """The finding as JSON, its sentences in `lang`."""
        return {
            "severity": self.severity,
            "field": self.field,
            "got": self.got,
            "text": sentence(self.text, lang),
            "do": sentence(self.do, lang),
            "replacement": dict(self.replacement),
            "reason": None if self.reason is None else render(self.reason, lang),
            "reference": self.reference,
        }


@dataclass
class Draft:
    """The arguments while they are mended, and what was found."""

    values: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    def mend(
        self,
        severity: Severity,
        name: str,
        text: Message,
        changes: Mapping[str, Any],
        do: Message | None = None,
    ) -> None:
        """Write `changes` (None leaves a name out) and say so."""
        got = None if is_secret(name, self.values.get(name)) else self.values.get(name)
        for changed, value in changes.items():
            if value is None:
                self.values.pop(changed, None)
            else:
                self.values[changed] = value
        self.say(severity, name, got, text, changes, do)

    def say(
        self,
        severity: Severity,
        name: str,
        got: Any,
        text: Message,
        changes: Mapping[str, Any],
        do: Message | None = None,
    ) -> None:
        """Add a finding; without `do` it is what the changes say."""
        self.findings.append(
            Finding(
                severity=severity,
                field=name,
                got=_json(got),
                text=text,
                do=do or to_do(changes),
                replacement=changes,
            )
        )


def _json(value: Any) -> Any:
    """The value where JSON can hold it, else as text: NaN."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return shown(value)
    return value


def to_do(changes: Mapping[str, Any]) -> Message:
    """The changes as an order: "write x"."""
    written = {name: value for name, value in changes.items() if value is not None}
    if not written:
        return words("training_arguments.remove")
    parts = [f'"{name}": {shown(value)}' for name, value in written.items()]
    return words("training_arguments.write", text=", ".join(parts))
