"""What a recommendation is written as: one module per reader of our output."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from advisor.errors import UnknownNameError
from advisor.export import command, hf_json, plan_json, training_arguments_json
from advisor.recommendation import Recommendation


@dataclass(frozen=True, kw_only=True)
class Format:
    """One form of the answer."""

    name: str
    filename: str
    """What the file is called where nobody chose a name."""
    description: str
    """Who reads it, in one line."""
    render: Callable[[Recommendation], str]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A recommendation in one format; the same recommendation always gives the same text."""

    filename: str
    text: str


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            name="hf-json",
            filename=hf_json.FILENAME,
            description="args.json for python -m trainer, read by HfArgumentParser",
            render=hf_json.render,
        ),
        Format(
            name="training-arguments-json",
            filename="training_arguments.json",
            description="TrainingArguments alone, for any script: TrainingArguments(**d)",
            render=training_arguments_json.render,
        ),
        Format(
            name="command",
            filename="command.sh",
            description="the command line that trains it",
            render=command.render,
        ),
        Format(
            name="plan-json",
            filename=plan_json.FILENAME,
            description="the whole answer: plan, reasons, memory, time, alternatives",
            render=plan_json.render,
        ),
    )
}


def find_format(name: str) -> Format:
    """The format called `name`.

    Raises:
        UnknownNameError: there is none; names the ones there are.
    """
    if name not in FORMATS:
        raise UnknownNameError(
            "export.format",
            names=tuple(FORMATS),
            name=name,
            nearest=tuple(difflib.get_close_matches(name, FORMATS)) or tuple(FORMATS),
            field="format",
        )
    return FORMATS[name]


def export(recommendation: Recommendation, name: str) -> Exported:
    """A recommendation as a file.

    Raises:
        UnknownNameError: no such format.
        InputError: the format needs a plan, or data, that the recommendation lacks.
    """
    found = find_format(name)
    return Exported(filename=found.filename, text=found.render(recommendation))
