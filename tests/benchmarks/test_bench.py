"""The rows make bench asks, and how it asks them."""

import bench
import convert_public_runs
import fitcheck
import formulas
import pytest
import tables

from advisor.spec import read_spec


def test_every_measured_row_is_a_question_with_something_measured():
    rows = [row for _, row in bench.read_rows(bench.MEASURED)]
    assert len({row["id"] for row in rows}) == len(rows) >= 87
    for row in rows:
        assert row["source"]
        assert {"allocated_bytes", "reserved_bytes", "verdict", tables.TIME} & set(row["measured"])
        read_spec(row, worker=None)


def test_a_missing_fitcheck_is_said_and_the_rest_goes_on(monkeypatch, capsys):
    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(fitcheck, "ask", refuse)
    assert bench._ask_fitcheck([{"plan": {}}]) == []
    assert "could not be had: no network" in capsys.readouterr().err


def test_a_defect_met_on_one_row_is_told_and_is_one_missing_answer(monkeypatch, capsys):
    _, row = bench.read_rows(bench.MEASURED)[0]
    monkeypatch.setattr(bench, "answer", lambda *_, **__: {}["backward1"])
    assert bench._by_advisor(row, worker=None) == bench.Answer()
    assert "KeyError: 'backward1'" in capsys.readouterr().err


def _plan(**more):
    plan = {"dtype": "float32", "method": "full", "max_length": 8, "attn_implementation": "eager"}
    plan |= {"per_device_train_batch_size": 2, "activation_checkpointing": False}
    return plan | more


def test_formulas_by_hand():
    shape = formulas.Shape(params=1000, adapter_params=10, layers=3, hidden=4, heads=2, vocab=5)
    assert formulas.accelerate(shape, _plan()) == 16_000
    assert formulas.accelerate(shape, _plan(bf16=True)) == 8_000
    assert formulas.llama_factory(shape, _plan(dtype="bfloat16")) == 8_000
    nf4 = _plan(method="qlora", quantization={"load_in_4bit": True})
    assert formulas.llama_factory(shape, nf4) == 500
    layer = 34 * 16 * 4 + 5 * 2 * 16 * 8
    output = 4 * 16 * (4 + 5)
    assert formulas.korthikanti(shape, _plan(bf16=True)) == 16_000 + 3 * layer + output
    less = _plan(bf16=True, activation_checkpointing=True, attn_implementation="sdpa")
    assert formulas.korthikanti(shape, less) == 16_000 + 2 * 16 * 4 * 3 + 34 * 16 * 4 + output
    lora = _plan(method="lora", dtype="bfloat16")
    assert formulas.korthikanti(shape, lora) == 2_000 + 160 + 3 * layer + output


def test_a_public_run_that_cannot_be_expressed_says_why():
    row = {"id": "fms-1", "n_gpus": "8", "seq_len": "4096", "micro_batch": "1", "framework": "x"}
    with pytest.raises(convert_public_runs.SkippedError, match="several devices"):
        convert_public_runs.convert(row, {})
    with pytest.raises(convert_public_runs.SkippedError, match="varies"):
        convert_public_runs.convert(row | {"n_gpus": "1", "seq_len": "variable"}, {})
