"""The training program: `python -m trainer args.json [--plan plan.json] [--run-dir DIR]`.

Reads an arguments file, writes a run directory, trains. Exit 0: finished, or stopped as asked. 2: the
user's error, one line on stderr. 1: a failure, with its traceback.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from advisor.arguments import check_arguments, read_json
from advisor.errors import AdvisorError, InputError
from trainer import launch, process, record, runs
from trainer.event_log import EventLog
from trainer.stopping import Stop, StopNowError

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    try:
        args = _parser().parse_args(argv)
        run_dir = _prepare(args)
        with _owned(run_dir) as primary:
            if primary:
                print(run_dir, flush=True)
            return _train(run_dir, primary=primary)
    except InputError as error:
        return _complain(error, EXIT_USER_ERROR)
    except AdvisorError as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _complain(error: AdvisorError, code: int) -> int:
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """argparse that leaves through our errors: one line, no usage block."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="training-advisor-train",
        description="Train as an arguments file says; writes a run directory.",
        allow_abbrev=False,
    )
    parser.add_argument("arguments", type=Path, metavar="args.json")
    parser.add_argument("--plan", type=Path, help="plan.json that predicts this run")
    parser.add_argument(
        "--run-dir", type=Path, help="new directory, or one to continue; made when left out"
    )
    return parser


# --- the run directory -----------------------------------------------------------------------


def _prepare(args: argparse.Namespace) -> Path:
    """Check what was given and have a run directory that holds it."""
    arguments = read_json(args.arguments)
    check_arguments(arguments, str(args.arguments))
    plan = None if args.plan is None else read_json(args.plan)
    if args.run_dir is None:
        if _world_size() > 1:
            raise InputError(
                f"{_world_size()} processes need one directory; give --run-dir.", field="run_dir"
            )
        return runs.create_run(_slug(arguments), plan=plan, arguments=arguments)
    run_dir = args.run_dir.absolute()
    if _rank() > 0:
        return run_dir
    if (run_dir / record.RECORD).exists():
        _require_same(run_dir, arguments)
    else:
        run_dir.mkdir(parents=True, exist_ok=True)
        runs.initialise(run_dir, plan=plan, arguments=arguments)
    return run_dir


def _require_same(run_dir: Path, arguments: Mapping[str, Any]) -> None:
    """A run is continued with the arguments it began with, or it would be another run."""
    before = read_json(run_dir / record.ARGUMENTS)
    now = runs.with_absolute_paths(arguments)
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{run_dir.name} was started with {name}={before.get(name)!r}, "
                f"got {now.get(name)!r}; leave --run-dir out to start another run.",
                field=name,
            )


def _slug(arguments: Mapping[str, Any]) -> str:
    model = arguments.get("model_name_or_path") or arguments["config_name"]
    names = (Path(model).absolute().name, Path(arguments["train_file"]).stem)
    return "-".join((*names, arguments.get("method", "full")))


@contextmanager
def _owned(run_dir: Path) -> Iterator[bool]:
    """Hold the directory while training, unless a supervisor does; yields whether we write there."""
    if _rank() > 0:
        yield False
        return
    data = record.read_object(run_dir / record.RECORD) or {}
    supervisor = data.get("supervisor") or {}
    if supervisor.get("pid") == os.getppid() and process.is_alive(supervisor):
        yield True
        return
    me = process.identify(os.getpid())
    with record.guard(run_dir):
        launch.claim(run_dir, me, trainer=me, argv=sys.orig_argv)
    code: int | None = None
    try:
        yield True
        code = EXIT_DONE
    except InputError:
        code = EXIT_USER_ERROR
        raise
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        raise
    except BaseException:
        code = EXIT_FAILED
        raise
    finally:
        launch.release(run_dir, exit_code=code)


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


# --- training --------------------------------------------------------------------------------


def _train(run_dir: Path, *, primary: bool) -> int:
    """Train and write how it ended, whatever happens."""
    stop = Stop(run_dir / record.STOP)
    log = EventLog(run_dir / record.EVENTS, enabled=primary)
    step = runs.read_status(run_dir).step or 0
    try:
        stop.listen()
        from trainer.train import train

        outcome = train(run_dir, log=log, stop=stop)
    except StopNowError:
        _finish(run_dir, log, primary, "stopped", step)
        return EXIT_DONE
    except KeyboardInterrupt:
        _finish(run_dir, log, primary, "stopped", step)
        raise
    except BaseException as error:
        text = " ".join(str(error).split())
        sentence = text if isinstance(error, AdvisorError) else f"{type(error).__name__}: {text}"
        _finish(run_dir, log, primary, "failed", runs.read_status(run_dir).step or 0, error=sentence)
        raise
    measured = {**outcome.measured}
    _finish(
        run_dir,
        log,
        primary,
        outcome.reason,
        outcome.step,
        error=outcome.error,
        measured=measured,
        model_path=outcome.model_path,
    )
    if outcome.error is not None:
        print("error:", outcome.error, file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE
