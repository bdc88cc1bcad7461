"""Somebody's existing arguments: findings, and a set that loads and means the same.

Reads no file but the one it is given, and asks which packages are installed.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor import training_arguments
from advisor.argument_checks import parse_json, read_bytes, shown
from advisor.errors import InputError, words
from advisor.hardware.machine import Machine
from advisor.review.combinations import mend_combinations
from advisor.review.finding import SEVERITIES, Draft, Finding
from advisor.review.names import known_fields, mend_names, mend_types

__all__ = ["Finding", "Review", "proven", "read_arguments", "read_arguments_file", "review"]

MAX_BYTES = 2**20
"""Arguments take a few thousand bytes; what is this long is something else."""
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True, kw_only=True)
class Review:
    """What was found, worst first, and the mended arguments in the order of the classes."""

    findings: tuple[Finding, ...]
    arguments: dict[str, Any]

    def with_findings(self, more: tuple[Finding, ...]) -> "Review":
        """The same with more findings."""
        return Review(findings=_sorted((*self.findings, *more)), arguments=self.arguments)

    def to_dict(self, lang: str = "en") -> dict[str, Any]:
        """The review as JSON."""
        findings = [finding.to_dict(lang) for finding in self.findings]
        return {"findings": findings, "arguments": self.arguments}


def read_arguments(raw: bytes, name: str) -> dict[str, Any]:
    """The JSON object of an arguments file, or of what was pasted.

    Args:
        raw: the content.
        name: how it is called in messages.

    Raises:
        InputError: no JSON object; a pickle, such as training_args.bin, is not opened.
    """
    if raw.startswith((_ZIP, _PICKLE)) or name.endswith((".bin", ".pt", ".pkl", ".pickle")):
        raise InputError("review.pickle", name=name, field="file")
    if len(raw) > MAX_BYTES:
        raise InputError("review.too_large", name=name, bytes=len(raw), field="file")
    data = parse_json(raw, name)
    if not isinstance(data, dict):
        raise InputError("argument_checks.file_no_object", path=name, got=shown(data))
    return data


def read_arguments_file(path: Path) -> dict[str, Any]:
    """`read_arguments` of a file."""
    return read_arguments(read_bytes(path), str(path))


def review(
    arguments: dict[str, Any],
    machine: Machine | None = None,
    is_installed: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None,
) -> Review:
    """Check arguments written for any release, and mend what can be.

    Args:
        arguments: the object of the file.
        machine: what will train; without one only what fails everywhere is found.
        is_installed: whether a package can be imported.
    """
    draft = Draft(json.loads(json.dumps(arguments)))
    mend_names(draft)
    mend_types(draft)
    mend_combinations(draft, machine, is_installed)
    # null is the default of every field that may hold it, and some come back as another value.
    given = {name: value for name, value in draft.values.items() if value is not None}
    ordered = {name: given[name] for name in known_fields() if name in given}
    return Review(findings=_sorted(draft.findings), arguments=ordered)


def proven(result: Review, verify: Callable[[dict[str, Any], str], None]) -> Review:
    """The review, with a finding where the installed class does not take the mended arguments.

    Args:
        result: a review.
        verify: `arguments.verify`, in a process that may import transformers.
    """
    names = training_arguments.fields()
    training = {n: v for n, v in result.arguments.items() if n in names}
    try:
        verify(training, "training-arguments-json")
    except InputError as error:
        finding = Finding(
            severity="error",
            field=error.field or "",
            got=None,
            text=words("review.does_not_load", reason=error.words()),
            do=words("training_arguments.remove"),
        )
        return result.with_findings((finding,))
    return result


def _sorted(findings: "list[Finding] | tuple[Finding, ...]") -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))
