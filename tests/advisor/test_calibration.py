"""Runs teach their own kind and no other."""

import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.calibration import NOTHING, kind_of, learn
from advisor.hardware.machine import Gpu, Machine
from advisor.memory import MemoryEstimate
from advisor.model import ModelDescription
from advisor.plan import LoraSettings, Quantization, TrainingPlan
from advisor.recommendation import Recommendation
from advisor.units import GIB

PLAN = TrainingPlan(use_cpu=True)
KIND = kind_of(PLAN, "cpu", "llama")
T4 = Gpu(name="Tesla T4", index=1, free_bytes=14 * GIB)
PREDICTED = {
    "process_bytes": 1_000,
    "context_bytes": 400,
    "tokens_per_second": 100.0,
    "memory_correction": 1.0,
    "speed_correction": 1.0,
}
MEASURED = {"process_bytes": 1_120, "tokens_per_second": 80.0, "num_steps": 50}


def write_run(root, name, *, plan=PLAN, gpus=(), record=None, predicted=None, measured=None):
    directory = root / name
    directory.mkdir(parents=True)
    saved = Recommendation(
        plan=plan,
        advice=(),
        memory=MemoryEstimate(
            allocated_bytes=1, reserved_bytes=None, process_bytes=1, verdict="fits"
        ),
        time=None,
        alternatives=(),
        conflicts=(),
        machine=Machine(name="m", gpus=gpus),
        model=ModelDescription(
            name="m",
            path="/m",
            config={},
            model_type="llama",
            architecture="LlamaForCausalLM",
            num_parameters=1,
        ),
        data=None,
        versions={},
    )
    (directory / "plan.json").write_text(json.dumps(saved.to_dict()))
    whole = {
        "host": socket.gethostname(),
        "state": "finished",
        "predicted": {**PREDICTED, **(predicted or {})},
        "measured": {**MEASURED, **(measured or {})},
        **(record or {}),
    }
    (directory / "run.json").write_text(json.dumps(whole))


def test_a_finished_run_teaches_its_kind(tmp_path):
    write_run(tmp_path, "a")
    learned = learn(tmp_path, KIND)
    assert len(learned.memory_ratios) == len(learned.speed_ratios) == 1
    assert learned.memory() == pytest.approx((1_120 - 400) / (1_000 - 400))
    assert learned.speed() == pytest.approx(0.8)


@pytest.mark.parametrize(
    "other",
    [
        kind_of(PLAN, "cpu", "gpt2"),
        kind_of(PLAN, "Tesla T4", "llama"),
        kind_of(PLAN.replace(activation_checkpointing=True), "cpu", "llama"),
        kind_of(PLAN.replace(bf16=True), "cpu", "llama"),
        kind_of(PLAN.replace(attention_mask=True), "cpu", "llama"),
        kind_of(PLAN.replace(devices=2), "cpu", "llama"),
    ],
)
def test_an_unrelated_kind_is_never_changed(tmp_path, other):
    write_run(tmp_path, "a")
    assert learn(tmp_path, other) == NOTHING


def test_bits_and_shards_are_kinds_of_their_own():
    lora = LoraSettings(r=4)
    four, eight = (
        TrainingPlan(method="qlora", lora=lora, quantization=Quantization(**{bits: True}))
        for bits in ("load_in_4bit", "load_in_8bit")
    )
    shards = TrainingPlan(devices=2, fsdp=True)
    plans = (four, eight, shards, shards.replace(fsdp=False), TrainingPlan())
    assert len({kind_of(plan, "Tesla T4", "llama") for plan in plans}) == len(plans)


@given(applied=st.floats(0.6, 1.8))
def test_a_correction_is_not_applied_twice(applied, tmp_path_factory):
    """A prediction that was already corrected teaches the same as one that was not."""
    root = tmp_path_factory.mktemp("runs")
    corrected = {
        "process_bytes": 400 + round(600 * applied),
        "memory_correction": round(600 * applied) / 600,
    }
    write_run(root, "a", predicted=corrected)
    assert learn(root, KIND).memory() == pytest.approx(1.2)


@pytest.mark.parametrize(
    "change",
    [
        {"record": {"state": "stopped"}},
        {"record": {"host": "elsewhere"}},
        {"measured": {"num_steps": 3}},
        {"record": {"predicted": {}}},
    ],
)
def test_what_cannot_be_compared_teaches_nothing(tmp_path, change):
    write_run(tmp_path, "a", **change)
    assert learn(tmp_path, KIND) == NOTHING


def test_damaged_files_teach_nothing(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_run(tmp_path, name)
    (tmp_path / "a" / "run.json").write_text("{half")
    (tmp_path / "b" / "plan.json").unlink()
    older = json.loads((tmp_path / "c" / "plan.json").read_text())
    del older["plan"]["method"], older["machine"]
    (tmp_path / "c" / "plan.json").write_text(json.dumps(older))
    (tmp_path / "d" / "plan.json").write_text('{"plan": {"method": "full"}}')
    assert learn(tmp_path, KIND) == NOTHING
    assert learn(tmp_path / "nowhere", KIND) == NOTHING


def test_a_run_belongs_to_the_card_it_trained_on(tmp_path):
    """The one with most free memory, not the first."""
    busy = Gpu(name="Busy", index=0, free_bytes=GIB)
    write_run(tmp_path, "a", plan=TrainingPlan(), gpus=(busy, T4))
    assert learn(tmp_path, kind_of(TrainingPlan(), "Busy", "llama")) == NOTHING
    assert learn(tmp_path, kind_of(TrainingPlan(), "Tesla T4", "llama")).speed_ratios


def test_the_middle_of_several_runs_counts_and_wild_ones_do_not(tmp_path):
    for number, peak in enumerate((1_060, 1_120, 1_180, 9_000)):
        write_run(tmp_path, f"r{number}", measured={"process_bytes": peak})
    learned = learn(tmp_path, KIND)
    assert learned.memory() == pytest.approx(1.2)
    assert len(learned.memory_ratios) == 3


def test_a_gpu_run_measures_the_context_and_remembers_running_out(tmp_path):
    plan = TrainingPlan()
    kind = kind_of(plan, "Tesla T4", "llama")
    nvml = {"process_bytes": 900, "reserved_bytes": 750, "process_source": "nvml"}
    write_run(tmp_path, "a", plan=plan, gpus=(T4,), measured=nvml)
    failed = {"state": "failed", "measured": {"out_of_memory": True}}
    write_run(tmp_path, "b", plan=plan, gpus=(T4,), record=failed)
    learned = learn(tmp_path, kind)
    assert learned.contexts == (150,)
    assert learned.num_out_of_memory == 1


def test_a_changed_record_is_read_again(tmp_path):
    write_run(tmp_path, "a", record={"state": "running"})
    assert learn(tmp_path, KIND) == NOTHING
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    (tmp_path / "a" / "run.json").write_text(json.dumps({**record, "state": "finished"}))
    assert len(learn(tmp_path, KIND).memory_ratios) == 1


PROOF = {"kind": "proof"}
STEP = {"step_seconds": 2.0, "tokens_per_second": None}


def test_a_proof_teaches_like_a_run_by_its_longest_step(tmp_path):
    measured = {"step_seconds": 2.5, "tokens_per_second": 900.0, "num_steps": 3}
    write_run(tmp_path, "a", record=PROOF, predicted=STEP, measured=measured)
    learned = learn(tmp_path, KIND)
    assert learned.memory() == pytest.approx(1.2)
    assert learned.speed() == pytest.approx(0.8)


def test_a_proof_that_ran_out_of_memory_is_remembered(tmp_path):
    failed = {**PROOF, "state": "failed", "measured": {"out_of_memory": True}}
    write_run(tmp_path, "a", record=failed)
    assert learn(tmp_path, KIND).num_out_of_memory == 1


def test_a_run_that_is_being_deleted_teaches_nothing(tmp_path):
    write_run(tmp_path, ".deleted-1")
    assert learn(tmp_path, KIND) == NOTHING
