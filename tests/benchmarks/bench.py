"""Errors of the estimates against measured runs, beside other estimators': `make bench`.

Rows of methods that are not simulated yet are counted as not answered, not dropped.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cpu_jobs
import first_plan
import fit_times
import fitcheck
import formulas
import latency
import slider
import tables
import ticks
from tables import Answer

from advisor.errors import AdvisorError
from advisor.hardware.catalogue import machine_from_name
from advisor.home import cache_dir
from advisor.simulate.worker import Worker
from advisor.spec import answer

MEASURED = Path(__file__).with_name("measured")
README = Path(__file__).parents[2] / "README.md"
FITCHECK = f"fitcheck-llm {fitcheck.VERSION}"
NOTE = (
    'Other estimators: median error (worst). "answered" is of the rows with that figure. '
    'A verdict is right when a run that fitted is called "fits" or "tight", or one that ran out '
    'of memory "does not fit". fitcheck-llm\'s constants are fitted to rows of t4_lora_qlora. '
    "Other estimators are not asked about several devices. "
)

TIME_NOTE = (
    "The constants of the time model were fitted on 126 public rows of A100, T4, L40S, B200 and "
    "H100 runs, most of these among them: these errors are not held-out ones. Each row is answered "
    "as today's libraries run it, but for the layout of experts where it states older software. "
    "Source left out: the shared constants fitted again without any "
    "row of the source (tests/benchmarks/fit_times.py); a card that no other source ran takes the "
    "shares of an unknown card."
)


def main() -> None:
    """Print the table; with --readme write it into README.md too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every 5th row only")
    parser.add_argument("--readme", action="store_true", help="rewrite the table of README.md")
    parser.add_argument("--times", action="store_true", help="step times alone")
    options = parser.parse_args()
    started = time.perf_counter()
    asked = read_rows(MEASURED)[:: 5 if options.quick else 1]
    sections: list[tuple[str, tuple[str, str]]] = []
    if options.times:
        asked = [(s, row) for s, row in asked if row["measured"].get(tables.TIME) is not None]
        rows = timed([row for _, row in asked], [source for source, _ in asked])
    else:
        rows = answered([row for _, row in asked], [source for source, _ in asked])
        text = tables.table(rows, [FITCHECK, *formulas.FORMULAS])
        sections = [(f"{text}\n\n{NOTE}", tables.MARKERS)]
    add_left_out(rows, asked)
    sections.append((f"{tables.times(rows)}\n\n{TIME_NOTE}", tables.TIME_MARKERS))
    for text, markers in sections:
        print(f"\n{text}")
        if options.readme:
            README.write_text(tables.splice(README.read_text(), text, markers))
    if not options.times:
        print(f"\n{latency.report()}")
        print(f"\n{first_plan.report()}")
        print(f"\n{ticks.report()}")
        moved = slider.report()
        print(f"\n{moved}")
        readme = README.read_text()
        if options.readme and all(marker in readme for marker in tables.SLIDER_MARKERS):
            README.write_text(tables.splice(readme, moved, tables.SLIDER_MARKERS))
        try:
            print(f"\n{cpu_jobs.report()}")
        except AdvisorError as busy:
            print(f"\nJobs on this CPU were not measured. {busy}")
    print(f"\n{len(rows)} rows, {time.perf_counter() - started:.0f} s")


def read_rows(directory: Path) -> list[tuple[str, dict[str, Any]]]:
    """(source, row) of every measured run; rows whose measurement failed are left out."""
    rows = []
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["measured"].get("error") is None:
                rows.append((path.stem, row))
    return rows


def answered(rows: Sequence[dict[str, Any]], sources: Sequence[str]) -> list[tables.Row]:
    """The rows with the answers of every estimator."""
    shapes = [formulas.shape_of(row["model"]["config"], row["plan"]) for row in rows]
    answers = [_by_formulas(row, shape) for row, shape in zip(rows, shapes, strict=True)]
    alone = [i for i, row in enumerate(rows) if row["plan"].get("devices", 1) == 1]
    questions = [fitcheck.question(rows[i], shapes[i].params) for i in alone]
    for i, reply in zip(alone, _ask_fitcheck(questions), strict=False):
        answers[i][FITCHECK] = Answer(values=reply, verdict=reply.get("verdict"))
    worker = Worker()
    try:
        for row, found in zip(rows, answers, strict=True):
            found[tables.OURS] = _by_advisor(row, worker)
    finally:
        worker.close()
    return _table_rows(rows, sources, answers)


def timed(rows: Sequence[dict[str, Any]], sources: Sequence[str]) -> list[tables.Row]:
    """The rows with our step times alone."""
    worker = Worker()
    try:
        answers = [{tables.OURS: _by_advisor(row, worker)} for row in rows]
    finally:
        worker.close()
    return _table_rows(rows, sources, answers)


def add_left_out(rows: Sequence[tables.Row], asked: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Add the step times by constants fitted without each row's source."""
    worker = Worker()
    try:
        timed_rows = fit_times.read([row for _, row in asked], [s for s, _ in asked], worker)
    finally:
        worker.close()
    found = fit_times.left_out(timed_rows)
    for row, (_, question) in zip(rows, asked, strict=True):
        if question["id"] in found:
            row.answers[tables.LEFT_OUT] = Answer(values={tables.TIME: found[question["id"]]})


def _table_rows(
    rows: Sequence[dict[str, Any]], sources: Sequence[str], answers: Sequence[dict[str, Answer]]
) -> list[tables.Row]:
    return [
        tables.Row(
            source=source,
            method=tables.method_of(row["plan"]),
            measured=row["measured"],
            answers=found,
        )
        for source, row, found in zip(sources, rows, answers, strict=True)
    ]


def _by_advisor(row: dict[str, Any], worker: Worker) -> Answer:
    try:
        found = answer(row, worker=worker)
    except AdvisorError as error:
        print(f"{row['id']}: {error}", file=sys.stderr)
        return Answer()
    except Exception:  # noqa: BLE001 - a defect met on one row must not take the table away
        print(f"{row['id']}: a defect of the library's\n{traceback.format_exc()}", file=sys.stderr)
        return Answer()
    if found["verdict"] == "unknown":
        print(f"{row['id']}: unknown: {found['assumptions'][0]}", file=sys.stderr)
    return Answer(values=found, intervals=found["interval"], verdict=found["verdict"])


def _by_formulas(row: dict[str, Any], shape: formulas.Shape) -> dict[str, Answer]:
    capacity = machine_from_name(row["machine"]["accelerator"]).capacity_bytes()
    answers: dict[str, Answer] = {}
    if row["plan"].get("devices", 1) > 1:  # they know one device
        return answers
    for name, formula in formulas.FORMULAS.items():
        size = formula(shape, row["plan"])
        fits = capacity is None or size <= capacity
        answers[name] = Answer(
            values={"allocated_bytes": size}, verdict="fits" if fits else "does_not_fit"
        )
    return answers


def _ask_fitcheck(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        replies = fitcheck.ask(questions, cache_dir())
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{FITCHECK} could not be had: {error}", file=sys.stderr)
        return []
    for asked, reply in zip(questions, replies, strict=True):
        if "refused" in reply:
            name = asked["model"].get("name", asked["model"]["config"]["model_type"])
            print(f"{FITCHECK} refuses {name}: {reply['refused']}", file=sys.stderr)
    return replies


if __name__ == "__main__":
    main()
