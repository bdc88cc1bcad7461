"""The command line: probe, estimate, recommend, review, export; reads files, starts a worker.

Exit 0: answered, whatever the answer. 2: the user's error, one line on stderr. 3: recommend found
no plan. 1: the program's own failure.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from advisor import console, export, records
from advisor.arguments import read_json, verify
from advisor.errors import AdvisorError, InputError
from advisor.locale import LANGUAGES
from advisor.recommendation import Recommendation

EXIT_ANSWERED, EXIT_FAILED, EXIT_USER_ERROR, EXIT_NO_PLAN = 0, 1, 2, 3
_VERIFIED = ("hf-json", "training-arguments-json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one line on stderr."""
    lang = "en"
    try:
        args = _parser().parse_args(argv)
        lang = getattr(args, "lang", lang)
        code = args.run(args)
        sys.stdout.flush()
    except InputError as error:
        return _fail(error, EXIT_USER_ERROR, lang)
    except AdvisorError as error:
        return _fail(error, EXIT_FAILED, lang)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has left; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ANSWERED
    return code


def _fail(error: AdvisorError, code: int, lang: str) -> int:
    print(console.error_line(error, lang), file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """argparse that leaves through our errors: one line, no usage block."""

    def error(self, message: str) -> NoReturn:
        raise InputError("advisor.usage", program=self.prog, message=message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="training-advisor",
        description="What a transformers.Trainer run needs, before it starts.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=run)
        return command

    add("probe", _probe, "what this machine has")

    command = add("calibrate", _calibrate, "measure how fast this machine trains, under a minute")
    command.add_argument(
        "--machine", help='a GPU of this machine: its UUID, "cuda:1"; or "cpu"; else what trains'
    )
    command.add_argument("--lang", choices=tuple(LANGUAGES), default="en")

    command = add("estimate", _estimate, "memory and time of one exact plan")
    command.add_argument("file", type=Path, metavar="SPEC.json|plan.json")

    command = add("recommend", _recommend, "the arguments to train with, and why")
    command.add_argument(
        "--model",
        required=True,
        help='directory, config.json, hub id (owner/name[@revision]) or "demo"',
    )
    command.add_argument("--data", help='file, directory, hub id or "demo"')
    command.add_argument("--task", help="kind of training; inferred when left out")
    command.add_argument(
        "--text-column", help='column with the text, "one,two" for a pair; found when left out'
    )
    command.add_argument("--label-column", help="column with the class; found when left out")
    command.add_argument("--validation", help="evaluation rows; split off when left out")
    command.add_argument("--method", choices=("auto", "full", "lora", "qlora"), default="auto")
    command.add_argument(
        "--machine", help='"A100-SXM4-80GB x 8", or a GPU of this machine: its UUID, "cuda:1"'
    )
    command.add_argument("--goal", choices=("fastest", "smallest"), default="fastest")
    command.add_argument(
        "--pin", action="append", default=[], metavar="field=value", help="a value to keep"
    )
    command.add_argument("--lang", choices=tuple(LANGUAGES), default="en")

    command = add(
        "review", _review, "existing arguments: what is wrong or renamed, and mended ones"
    )
    command.add_argument("file", type=Path, metavar="args.json")
    command.add_argument("--model", help="judge the values for this model, too")
    command.add_argument("--data", help="and for this data")
    command.add_argument("--task", help="kind of training; inferred when left out")
    command.add_argument("--lang", choices=tuple(LANGUAGES), default="en")

    command = add("export", _export, "a recommendation as a file of another program")
    command.add_argument("file", type=Path, nargs="?", metavar="plan.json")
    command.add_argument("--format", required=True, help='a name, or "list" for all of them')
    return parser


def _probe(args: argparse.Namespace) -> int:
    from advisor.hardware.probe import probe_machine

    machine = probe_machine()
    _print(records.encode(machine) if args.json else console.probe_text(machine))
    return EXIT_ANSWERED


def _calibrate(args: argparse.Namespace) -> int:
    from advisor.hardware.choice import choose
    from advisor.hardware.probe import probe_machine
    from advisor.recommend import Advisor

    machine = probe_machine()
    if args.machine not in (None, "cpu"):
        machine = choose(machine, args.machine)
    gpu = None if args.machine == "cpu" else machine.accelerator()
    advisor = Advisor()
    try:
        found = advisor.calibrate(gpu, _progress())
    finally:
        advisor.close()
    _print(records.encode(found) if args.json else console.calibration_text(found, args.lang))
    return EXIT_ANSWERED


def _estimate(args: argparse.Namespace) -> int:
    from advisor.simulate.worker import Worker
    from advisor.spec import answer

    document = read_json(args.file)
    worker = Worker()
    try:
        result = answer(document, worker=worker)
    finally:
        worker.close()
    _print(result if args.json else console.estimate_text(result))
    return EXIT_ANSWERED


def _recommend(args: argparse.Namespace) -> int:
    from advisor.recommend import Advisor, Question

    question = Question(
        model=args.model,
        data=args.data,
        task=args.task,
        text_column=args.text_column,
        label_column=args.label_column,
        validation=args.validation,
        method=args.method,
        machine=args.machine,
        goal=args.goal,
        pins=_pins(args.pin),
    )
    advisor = Advisor()
    try:
        found = advisor.recommend(question, on_progress=_progress())
    finally:
        advisor.close()
    _print(found.to_dict(args.lang) if args.json else console.recommend_text(found, args.lang))
    return EXIT_ANSWERED if found.plan is not None else EXIT_NO_PLAN


def _review(args: argparse.Namespace) -> int:
    from advisor.hardware.probe import probe_machine
    from advisor.recommend import Advisor, Question
    from advisor.review import proven, read_arguments_file, review
    from advisor.review.ask import with_advice

    document = read_arguments_file(args.file)
    for option in ("data", "task"):
        if args.model is None and getattr(args, option) is not None:
            raise InputError("advisor.review_needs_model", option=f"--{option}", field="model")
    if args.model is None:
        result = review(document, probe_machine())
    else:
        question = Question(model=args.model, data=args.data, task=args.task)
        advisor = Advisor()
        try:
            result = review(document, advisor.machine())
            result = with_advice(result, advisor, question, _progress())
        finally:
            advisor.close()
    result = proven(result, verify)
    _print(result.to_dict(args.lang) if args.json else console.review_text(result, args.lang))
    return EXIT_ANSWERED


def _pins(texts: list[str]) -> dict[str, Any]:
    """field=value pairs; a value is JSON where it parses, else text."""
    pins: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError("advisor.pin_form", text=text)
        if name in pins:
            raise InputError("advisor.pin_twice", field=name)
        try:
            pins[name] = json.loads(value, parse_constant=_not_json)
        except ValueError:
            pins[name] = value
    return pins


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _progress() -> Callable[[str, dict[str, Any]], None] | None:
    """Prints stages on stderr where a person looks at it."""
    if not sys.stderr.isatty():
        return None

    def show(stage: str, details: dict[str, Any]) -> None:
        rest = " ".join(f"{name}={value}" for name, value in details.items())
        print(f"{stage} {rest}".rstrip(), file=sys.stderr)

    return show


def _export(args: argparse.Namespace) -> int:
    if args.format == "list":
        rows = [(f.name, f.filename, f.description) for f in export.FORMATS.values()]
        names = ("name", "filename", "description")
        as_json = [dict(zip(names, row, strict=True)) for row in rows]
        _print(as_json if args.json else console.formats_text(rows))
        return EXIT_ANSWERED
    export.find_format(args.format)
    if args.file is None:
        raise InputError("advisor.export_needs_file", format=args.format, field="file")
    recommendation = Recommendation.from_dict(read_json(args.file))
    exported = export.export(recommendation, args.format)
    if args.format in _VERIFIED:
        verify(json.loads(exported.text), args.format)
    _print(records.encode(exported) if args.json else exported.text)
    return EXIT_ANSWERED


def _print(answer: Any) -> None:
    """A text as it is, anything else as JSON."""
    if not isinstance(answer, str):
        answer = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    sys.stdout.write(answer)


if __name__ == "__main__":
    sys.exit(main())
