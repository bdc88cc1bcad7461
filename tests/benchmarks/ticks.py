"""What a look at a run of a million event lines costs the server; bench.py prints it.

A tick reads what was written since the last one, thins it and makes every figure of the Run page.
Nothing here is a test: the figures depend on the machine.
"""

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from advisor import events
from advisor.units import MIB
from app import compare_charts, live_charts
from app.run_data import RunData

LINES = 1_000_000
NEW_LINES = 20
"""Between two ticks: ten steps a second, each with its memory."""


def report(*, lines: int = LINES, ticks: int = 50) -> str:
    """A table of the first opening and of ticks: seconds of processor time, the greatest too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.write(events.encode("start", step=0, time=0.0))
            file.writelines(_lines(1, lines // 2))
        process = psutil.Process()
        before, begun = process.memory_info().rss, time.process_time()
        data = RunData(Path(folder)).update()
        _draw(data)
        first = time.process_time() - begun
        kept = process.memory_info().rss - before
        spent: dict[str, list[float]] = {"Run": [], "Runs": []}
        for tick in range(ticks):
            start = lines // 2 + 1 + tick * NEW_LINES // 2
            with path.open("a", encoding="utf-8") as file:
                file.writelines(_lines(start, NEW_LINES // 2))
            begun = time.process_time()
            _draw(data.update())
            spent["Run"].append(time.process_time() - begun)
            begun = time.process_time()
            _overlay(data.update())
            spent["Runs"].append(time.process_time() - begun)
        size = path.stat().st_size
    rows = [
        f"| a tick of {page} with {NEW_LINES} new lines, p50 and p95 | {p50:.0f} and {p95:.0f} ms |"
        for page, seconds in spent.items()
        for p50, p95 in [np.percentile(seconds, (50, 95)) * 1000]
    ]
    return "\n".join(
        [
            f"| events.jsonl of {lines:,} lines, {size / MIB:,.0f} MiB | processor time |",
            "|---|---|",
            f"| first opening | {first:.1f} s |",
            *rows,
            "",
            f"It is held in {kept / MIB:,.0f} MiB.",
        ]
    )


def _lines(first: int, steps: int) -> list[str]:
    """A log and a memory event a step, as the trainer writes them; a spike and a NaN at times."""
    out = []
    for step in range(first, first + steps):
        loss = 1.2 + math.exp(-step / 60_000) + 0.1 * math.sin(step)
        loss = math.nan if step % 99_991 == 0 else loss + 5 * (step % 49_999 == 0)
        out.append(
            events.encode(
                "log",
                step=step,
                time=0.2 * step,
                loss=loss,
                grad_norm=1.1 + math.sin(0.7 * step),
                learning_rate=1e-4 * (1 - step / 1e6),
                epoch=step / 5000,
                num_input_tokens_seen=3000 * step,
                step_seconds=0.2,
                tokens_per_second=15_000 + 100 * math.sin(step),
            )
        )
        out.append(
            events.encode(
                "memory",
                step=step,
                time=0.2 * step,
                process_bytes=9_000_000_000 + step,
                process_source="nvml",
                allocated_bytes=8_000_000_000,
                reserved_bytes=8_500_000_000,
            )
        )
    return out


def _draw(data: RunData) -> None:
    """Every figure of Run."""
    loss, total = data.series["loss"], 600_000
    figures = [
        live_charts.line(loss, total, "en", smoothed=True, evals=data.evals),
        live_charts.line(data.series["learning_rate"], total, "en", fmt=".2e"),
        live_charts.line(data.series["grad_norm"], total, "en", smoothed=True),
        live_charts.line(data.series["tokens_per_second"], total, "en", smoothed=True),
        live_charts.memory_lane(data.series["process_bytes"], None, "process_bytes", total, "en"),
    ]
    for figure in figures:
        figure.to_json()
    loss.highest(), loss.last_mean(), (data.series["grad_norm"].values > 1).mean()


def _overlay(data: RunData) -> None:
    """Runs with all the runs that are drawn at once, each as long."""
    named = [(str(n), data) for n in range(compare_charts.MAX_RUNS)]
    compare_charts.overlay(named, "loss", "tokens", "en").to_json()


if __name__ == "__main__":
    print(report())
