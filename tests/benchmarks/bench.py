"""Errors of the estimates against measured runs: `make bench`.

Rows of methods that are not simulated yet are counted as not answered, not dropped.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from advisor.errors import AdvisorError
from advisor.simulate.worker import Worker
from advisor.spec import answer

MEASURED = Path(__file__).with_name("measured")
FIGURES = ("allocated_bytes", "reserved_bytes", "process_bytes", "step_seconds")


def main() -> None:
    """Print one table for each file of measured runs."""
    worker = Worker()
    try:
        for path in sorted(MEASURED.glob("*.jsonl")):
            report(path, worker)
    finally:
        worker.close()


def report(path: Path, worker: Worker) -> None:
    """Estimate every row of a file and print the errors by method and figure."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    errors: dict[tuple[str, str], list[float]] = {}
    inside: dict[tuple[str, str], list[bool]] = {}
    asked: dict[str, int] = {}
    first = time.perf_counter()
    for row in rows:
        method = row["plan"]["method"]
        asked[method] = asked.get(method, 0) + 1
        try:
            found = answer(row, worker=worker)
        except AdvisorError as error:
            print(f"{row['id']}: {error}", file=sys.stderr)
            continue
        for figure in FIGURES:
            want, got = row["measured"].get(figure), found[figure]
            if want is None or got is None:
                continue
            errors.setdefault((method, figure), []).append(100 * (got / want - 1))
            low, high = found["interval"][figure]
            inside.setdefault((method, figure), []).append(low <= want <= high)
    print(f"\n{path.name}: {len(rows)} rows in {time.perf_counter() - first:.0f} s\n")
    print(
        "| method | figure | n of asked | median | p95 | worst under | worst over | in interval |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (method, figure), values in sorted(errors.items()):
        size = sorted(map(abs, values))
        p95 = size[min(int(0.95 * len(size)), len(size) - 1)]
        hit = inside[method, figure]
        print(
            f"| {method} | {figure} | {len(values)} of {asked[method]} | "
            f"{statistics.median(size):.2f} % "
            f"| {p95:.2f} % | {min(values):+.2f} % | {max(values):+.2f} % | {sum(hit)} of "
            f"{len(hit)} |"
        )
    for method, count in sorted(asked.items()):
        if not any(m == method for m, _ in errors):
            print(f"| {method} | | 0 of {count}: not simulated yet | | | | | |")


if __name__ == "__main__":
    main()
