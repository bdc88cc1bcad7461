"""The training program: `python -m trainer args.json [--plan plan.json] [--run-dir DIR]`.

With `--prove N` it makes N steps with the longest batch alone and prints predicted and measured.
Reads an arguments file, writes a run directory, trains. Exit 0: finished, or stopped as asked. 2:
the user's error, one line on stderr. 1: a failure, with its traceback.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from advisor import own_arguments, training_arguments
from advisor.arguments import check_arguments, read_json
from advisor.errors import AdvisorError, InputError
from trainer import faults, launch, output, process, proof, record, runs
from trainer.event_log import EventLog
from trainer.stopping import Stop, StopNowError

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    try:
        run_dir = _prepare(_parser().parse_args(argv))
        owns = _claim(run_dir)
    except InputError as error:
        return _complain(error, EXIT_USER_ERROR)
    if _rank() == 0:
        output.say(str(run_dir))
    code = EXIT_FAILED  # what Python makes of an exception that goes through
    try:
        code = _train(run_dir)
    except InputError as error:
        code = _complain(error, EXIT_USER_ERROR)
    except AdvisorError as error:
        code = _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        if owns:
            with contextlib.suppress(InputError):  # deleted or read-only: there is no record
                launch.release(run_dir, exit_code=code)
        if _rank() == 0:
            _report(run_dir)
        output.close()
    return code


def _report(run_dir: Path) -> None:
    """The last lines: what was proved, or what was learned and where it is."""
    if proof.is_proof(run_dir):
        output.say(proof.report(run_dir))
    elif said := runs.result_lines(runs.read_status(run_dir)):
        output.say("\n".join(said))


def _complain(error: AdvisorError, code: int) -> int:
    output.say("error: " + " ".join(str(error).split()), to_stderr=True)
    return code


class _Parser(argparse.ArgumentParser):
    """argparse that leaves through our errors: one line, no usage block."""

    def error(self, message: str) -> NoReturn:
        raise InputError("advisor.usage", program=self.prog, message=message)


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
    parser.add_argument(
        "--prove",
        type=int,
        metavar="N",
        help="N steps with the longest batch alone; prints predicted beside measured",
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
            raise InputError("trainer.run_dir", processes=_world_size(), field="run_dir")
        if args.prove is not None:
            return proof.create(_slug(arguments), plan=plan, arguments=arguments, steps=args.prove)
        return runs.create_run(_slug(arguments), plan=plan, arguments=arguments)
    run_dir = args.run_dir.absolute()
    if _rank() > 0:
        return run_dir
    if args.prove is not None:
        slug = _slug(arguments)
        return proof.create(slug, plan=plan, arguments=arguments, steps=args.prove, run_dir=run_dir)
    if (run_dir / record.RECORD).exists():
        _require_same(run_dir, arguments)
    else:
        runs.make_directory(run_dir, may_exist=True)
        runs.initialise(run_dir, plan=plan, arguments=arguments)
    return run_dir


def _require_same(run_dir: Path, arguments: Mapping[str, Any]) -> None:
    """A run is continued with the arguments it began with, or it would be another run."""
    before = read_json(run_dir / record.ARGUMENTS)
    now = runs.with_absolute_paths(arguments)
    known = {**training_arguments.fields(), **own_arguments.fields()}
    defaults = {name: field.default for name, field in known.items()}
    for name in sorted({*before, *now}):
        was, asked = (given.get(name, defaults.get(name)) for given in (before, now))
        if was != asked:
            raise InputError(
                "trainer.other_arguments",
                run=run_dir.name,
                before=was,
                now=asked,
                field=name,
            )


def _slug(arguments: Mapping[str, Any]) -> str:
    model = arguments.get("model_name_or_path") or arguments["config_name"]
    names = (Path(model).absolute().name, Path(arguments["train_file"]).stem)
    return "-".join((*names, arguments.get("method", "full")))


def _claim(run_dir: Path) -> bool:
    """Take the directory, unless another process of this run did: the first one, a supervisor."""
    if _rank() > 0:
        return False
    data = record.read_object(run_dir / record.RECORD) or {}
    supervisor = data.get("supervisor") or {}
    if supervisor.get("pid") == os.getppid() and process.is_alive(supervisor):
        return False
    me = process.identify(os.getpid())
    with record.guard(run_dir):
        launch.claim(run_dir, me, trainer=me, argv=sys.orig_argv)
    return True


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


# --- training --------------------------------------------------------------------------------


def _train(run_dir: Path) -> int:
    """Train, and write how it ended whatever happens."""
    stop = Stop(run_dir / record.STOP)
    log = EventLog(run_dir / record.EVENTS, enabled=_rank() == 0)
    try:
        stop.listen()
        from trainer.train import train

        outcome = train(run_dir, log=log, stop=stop)
    except (StopNowError, KeyboardInterrupt) as error:
        _write_end(run_dir, log, reason="stopped")
        if isinstance(error, KeyboardInterrupt):
            raise
        return EXIT_DONE
    except BaseException as error:
        text = " ".join(str(error).split())
        if not isinstance(error, AdvisorError):
            text = f"{type(error).__name__}: {text}"
        elif not isinstance(error, InputError):
            output.say_traceback()  # where it was, for who wants to know more than the sentence
        fault = error if isinstance(error, AdvisorError) else AdvisorError("runs.said", said=text)
        on_cpu = bool((record.read_object(run_dir / record.ARGUMENTS) or {}).get("use_cpu"))
        short = faults.ran_out_of_planned_memory(error, on_cpu=on_cpu)
        measured = {"out_of_memory": True} if short else None
        _write_end(run_dir, log, reason="failed", error=text, fault=fault, measured=measured)
        raise
    _write_end(
        run_dir,
        log,
        reason=outcome.reason,
        step=outcome.step,
        error=outcome.error,
        measured=outcome.measured,
        model_path=outcome.model_path,
        load_code=outcome.load_code,
    )
    if outcome.error is None:
        return EXIT_DONE
    output.say(f"error: {outcome.error}", to_stderr=True)
    return EXIT_FAILED


def _write_end(
    run_dir: Path,
    log: EventLog,
    *,
    reason: str,
    step: int | None = None,
    error: str | None = None,
    fault: AdvisorError | None = None,
    measured: Mapping[str, Any] | None = None,
    model_path: str | None = None,
    load_code: str | None = None,
) -> None:
    """The end event and the record's last words; what earlier sessions measured is kept."""
    if _rank() > 0:
        return
    if step is None:
        step = runs.read_status(run_dir).step or 0
    end = {"reason": reason, "error": error, "model_path": model_path}
    if not log.write("end", step=step, **end) and record.free_reserve(run_dir):
        log.write("end", step=step, **end)
    log.close()
    before = (record.read_object(run_dir / record.RECORD) or {}).get("measured") or {}
    with contextlib.suppress(InputError):  # deleted or read-only: there is no record
        record.update(
            run_dir,
            state=reason,
            step=step,
            model_path=model_path,
            load_code=load_code,
            fault=None if fault is None else fault.encode(),
            measured=_merge(before, measured or {}),
        )


def _merge(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Measurements over all sessions of a run: the first loss, the whole time, else the latest.

    That memory did not suffice is true of the session that it ended.
    """
    merged = {**{k: v for k, v in before.items() if k != "out_of_memory"}, **now}
    if before.get("first_loss") is not None:
        merged["first_loss"] = before["first_loss"]
    if now.get("total_seconds") is not None and before.get("total_seconds") is not None:
        merged["total_seconds"] = before["total_seconds"] + now["total_seconds"]
    return merged


if __name__ == "__main__":
    sys.exit(main())
