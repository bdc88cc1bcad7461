"""Golden rows: a sample of the measured T4 runs. The full table is `make bench`."""

import json
from pathlib import Path

import pytest

from advisor.spec import answer

ROWS = Path(__file__).parents[2] / "benchmarks" / "measured" / "t4_lora_qlora.jsonl"


def measured_rows(method):
    rows = map(json.loads, ROWS.read_text().splitlines())
    return [
        r for r in rows if r["plan"]["method"] == method and "SmolLM2-135M" in r["model"]["name"]
    ]


@pytest.mark.parametrize("row", measured_rows("lora"), ids=lambda r: r["id"])
def test_lora_rows_are_within_the_bar(worker, row):
    found = answer(row, worker=worker)
    assert found["allocated_bytes"] == pytest.approx(row["measured"]["allocated_bytes"], rel=0.001)
    assert found["reserved_bytes"] == pytest.approx(row["measured"]["reserved_bytes"], rel=0.005)
    low, high = found["interval"]["allocated_bytes"]
    assert low <= row["measured"]["allocated_bytes"] <= high
    for phase, value in row["measured"]["phases"].items():
        assert found["phases"][phase] == pytest.approx(value, abs=2.5 * 2**20)


@pytest.mark.parametrize("row", measured_rows("qlora"), ids=lambda r: r["id"])
def test_nf4_rows_are_within_the_bar(worker, row):
    found, measured = answer(row, worker=worker), row["measured"]
    assert found["allocated_bytes"] == pytest.approx(measured["allocated_bytes"], rel=0.003)
    assert found["reserved_bytes"] == pytest.approx(measured["reserved_bytes"], rel=0.06)
    for figure in ("allocated_bytes", "reserved_bytes"):
        low, high = found["interval"][figure]
        assert low <= measured[figure] <= high
    assert high - low < 0.08 * found["reserved_bytes"]
