"""`python -m trainer.runs list|show|stop|resume`: prints what the run directories say."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from advisor import records
from advisor.errors import InputError
from advisor.home import runs_dir
from advisor.locale import format_duration
from advisor.units import format_in_gib
from trainer import launch, record, runs


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit 0, or 2 with one line on stderr."""
    try:
        args = _parser().parse_args(argv)
        answer = args.run(args)
    except InputError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    if args.json:
        text = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False)
    else:
        text = args.text(answer)
    sys.stdout.write(text + "\n")
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse that leaves through our errors: one line, no usage block."""

    def error(self, message: str) -> NoReturn:
        raise InputError("advisor.usage", program=self.prog, message=message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m trainer.runs", description="Training runs of this user.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, run: Any, text: Any, help_: str, run_help: str | None) -> Any:
        command = commands.add_parser(name, help=help_, description=help_)
        command.add_argument("--json", action="store_true", help="print JSON")
        if run_help:
            command.add_argument(
                "name", nargs="?" if name == "show" else None, metavar="RUN", help=run_help
            )
        command.set_defaults(run=run, text=text)
        return command

    which = "name, start of a name, or directory of a run"
    add("list", _list, _list_text, "all runs, newest first", None)
    add("show", _show, _show_text, "one run", f"{which}; the newest when left out")
    add("resume", _resume, _show_text, "continue from the newest checkpoint", which)
    stop = add("stop", _stop, _show_text, "stop at the next step with a checkpoint", which)
    stop.add_argument("--force", action="store_true", help="kill it now, without a checkpoint")
    return parser


def _list(_args: argparse.Namespace) -> list[dict[str, Any]]:
    return [_plain(status) for status in runs.list_runs()]


def _show(args: argparse.Namespace) -> dict[str, Any]:
    return _plain(runs.read_status(_find(args.name)))


def _stop(args: argparse.Namespace) -> dict[str, Any]:
    run_dir = _find(args.name)
    launch.stop(run_dir, force=args.force)
    return _plain(runs.read_status(run_dir))


def _resume(args: argparse.Namespace) -> dict[str, Any]:
    run_dir = _find(args.name)
    launch.resume(run_dir)
    return _plain(runs.read_status(run_dir))


def _find(name: str | None) -> Path:
    if name and (Path(name) / record.RECORD).is_file():
        return Path(name)
    names = [status.name for status in runs.list_runs()]
    if not names:
        raise InputError("runs_cli.none", path=runs_dir())
    if name is None:
        return runs_dir() / names[0]
    found = [n for n in names if n == name] or [n for n in names if n.startswith(name)]
    if len(found) != 1:
        raise InputError("runs_cli.which", name=name, matches=len(found), names=found or names[:5])
    return runs_dir() / found[0]


def _plain(status: runs.RunStatus) -> dict[str, Any]:
    return {
        **records.encode(status),
        "run_dir": str(status.run_dir),
        "result": runs.result_lines(status),
    }


def _list_text(answer: list[dict[str, Any]]) -> str:
    if not answer:
        return f"No runs in {runs_dir()}."
    width = max(len(run["name"]) for run in answer)
    return "\n".join(
        f"{r['name']:<{width}}  {r['state']:<8}  {_progress(r)}"
        + ("  (proof)" if r["kind"] == "proof" else "")
        for r in answer
    )


def _progress(run: dict[str, Any]) -> str:
    unknown = "?" if run["num_steps"] is None else f"{run['num_steps']:,}"
    return f"{run['step'] or 0:,} of {unknown} steps"


def _show_text(run: dict[str, Any]) -> str:
    lines = [f"{run['name']}: {run['state']}, {_progress(run)}", f"  directory  {run['run_dir']}"]
    lines += [
        f"  {key:<10} {datetime.fromtimestamp(run[key], UTC):%Y-%m-%d %H:%M:%S} UTC"
        for key in ("started_at", "ended_at")
        if run[key] is not None
    ]
    if run["error"]:
        lines.append(f"  error      {run['error']}")
    for key in ("process_bytes", "step_seconds", "total_seconds"):
        predicted, measured = run["predicted"].get(key), run["measured"].get(key)
        if predicted is not None or measured is not None:
            words = f"predicted {_words(key, predicted)}, measured {_words(key, measured)}"
            lines.append(f"  {key}: {words}")
    lines += [f"  {line}" for line in run["result"]]
    return "\n".join(lines)


def _words(key: str, value: float | None) -> str:
    if key.endswith("_bytes"):
        return format_in_gib(value)
    if value is not None and value < 10:
        return f"{value:.3g} s"
    return format_duration(value)
