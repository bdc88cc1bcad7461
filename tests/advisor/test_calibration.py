"""Runs teach their own kind and no other."""

import json
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.calibration import NOTHING, Card, Learned, Peak, kind_of, learn, taught_by
from advisor.data import DataDescription
from advisor.hardware.machine import Gpu, Machine, TorchBuild
from advisor.memory import MemoryEstimate
from advisor.model import ModelDescription
from advisor.peaks import spread
from advisor.plan import LoraSettings, Quantization, TrainingPlan
from advisor.recommendation import Recommendation
from advisor.units import GIB, MIB

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


PROOF = {"kind": "proof"}
STEP = {"step_seconds": 2.0, "tokens_per_second": None}
CARD = Card(gpu="Tesla T4", driver="550.54", torch="2.10.0")


ROWS = DataDescription(
    name="d",
    path="/d",
    format="txt",
    columns=("text",),
    text_column="text",
    num_rows=40,
    num_eval_rows=0,
    num_measured_rows=40,
    lengths=(5,) * 20 + (9,) * 20,
    length_source="tokenizer",
    mean_tokens=7.0,
    p50_tokens=5,
    p95_tokens=9,
    p99_tokens=9,
    max_tokens=9,
)
"""One pass is 40 steps of PLAN."""


def write_run(
    root, name, *, plan=PLAN, gpus=(), record=None, predicted=None, measured=None, data=None,
    occasions=None,
):  # fmt: skip
    directory = root / name
    directory.mkdir(parents=True)
    saved = Recommendation(
        plan=plan,
        advice=(),
        memory=MemoryEstimate(
            allocated_bytes=1,
            reserved_bytes=None,
            process_bytes=1,
            verdict="fits",
            occasions=occasions or {},
        ),
        time=None,
        alternatives=(),
        conflicts=(),
        machine=Machine(
            name="m", gpus=gpus, driver_version=CARD.driver, torch=TorchBuild(version=CARD.torch)
        ),
        model=ModelDescription(
            name="m",
            path="/m",
            config={},
            model_type="llama",
            architecture="LlamaForCausalLM",
            num_parameters=1,
        ),
        data=data,
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


def told(learned, fixed=400, kept=600):
    """What is predicted now where `fixed` and `kept` were."""
    return fixed + learned.offset() + learned.memory() * kept


def test_a_finished_run_teaches_its_kind(tmp_path):
    write_run(tmp_path, "a")
    learned = learn(tmp_path, KIND)
    assert learned.peaks == (Peak(fixed=400, kept=600, measured=1_120),)
    assert told(learned) == pytest.approx(1_120)
    assert learned.speed() == pytest.approx(0.8)
    assert taught_by(tmp_path / "a") == {"memory", "time"}


@pytest.mark.parametrize(
    "other",
    [
        kind_of(PLAN, "cpu", "gpt2"),
        kind_of(PLAN, "Tesla T4", "llama"),
        kind_of(PLAN.replace(activation_checkpointing=True), "cpu", "llama"),
        kind_of(PLAN.replace(bf16=True), "cpu", "llama"),
        kind_of(PLAN.replace(dtype="bfloat16"), "cpu", "llama"),
        kind_of(PLAN.replace(method="lora", lora=LoraSettings(r=4)), "cpu", "llama"),
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


@given(applied=st.floats(0.6, 1.8), offset=st.integers(-200, 200))
def test_a_correction_is_not_applied_twice(applied, offset, tmp_path_factory):
    """A prediction that was already corrected teaches the same as one that was not."""
    root = tmp_path_factory.mktemp("runs")
    corrected = {
        "process_bytes": 400 + offset + round(600 * applied),
        "context_bytes": 400 + offset,
        "memory_correction": round(600 * applied) / 600,
        "memory_correction_bytes": offset,
    }
    write_run(root, "a", predicted=corrected)
    assert learn(root, KIND).peaks == (Peak(fixed=400, kept=600, measured=1_120),)


MIB_COUNTS = st.integers(1, 10**6)
PEAKS = st.builds(
    lambda fixed, kept, ratio: Peak(fixed=fixed, kept=kept, measured=round((fixed + kept) * ratio)),
    MIB_COUNTS, MIB_COUNTS, st.floats(0.5, 2.0),
)  # fmt: skip


@given(peak=PEAKS)
def test_the_same_question_is_answered_with_what_was_measured(peak):
    learned = Learned(peaks=(peak,))
    assert told(learned, peak.fixed, peak.kept) == pytest.approx(peak.measured)
    assert learned.memory_misses()[0] == pytest.approx(1)


@given(peaks=st.lists(PEAKS, min_size=1, max_size=5), sizes=st.tuples(MIB_COUNTS, MIB_COUNTS))
def test_more_is_never_less_after_learning(peaks, sizes):
    learned = Learned(peaks=tuple(peaks))
    assert learned.memory() > 0
    assert told(learned, 400, min(sizes)) <= told(learned, 400, max(sizes)) + 1e-3


@given(kept=st.integers(0, 10**12))
def test_a_small_run_says_little_of_a_large_one(kept):
    """A toy that took 13 % less, most of it the process, moves no other by more."""
    toy = Peak(fixed=560 * MIB, kept=140 * MIB, measured=609 * MIB)
    found = told(Learned(peaks=(toy,)), toy.fixed, kept)
    assert 0.82 * (toy.fixed + kept) < found < toy.fixed + kept


@given(seen=st.sampled_from((0.7, 0.8, 0.9, 1.1, 1.2)), times=st.integers(1, 6))
def test_the_range_holds_the_runs_and_shrinks_as_they_agree(seen, times):
    peak = Peak(fixed=400, kept=600, measured=round(1_000 * seen))
    agreed = spread(Learned(peaks=(peak,) * times).memory_misses(), 0.04, (0.08, 0.12))
    assert agreed[0] <= 1 <= agreed[1]
    once = spread(Learned(peaks=(peak,)).memory_misses(), 0.04, (0.08, 0.12))
    assert agreed[1] - agreed[0] <= once[1] - once[0] <= 0.2 + 1e-3
    other = Peak(fixed=400, kept=600, measured=round(1_300 * seen))
    apart = spread(Learned(peaks=(peak, other)).memory_misses(), 0.04, (0.08, 0.12))
    assert apart[1] - apart[0] > once[1] - once[0]


@pytest.mark.parametrize(
    ("num_steps", "record", "change", "counts"),
    [
        (39, {}, {}, False),
        (40, {}, {}, True),
        (3, {"kind": "proof"}, {}, True),
        (40, {}, {"padding_free": True, "attn_implementation": "flash_attention_2"}, False),
        (12, {}, {"packing": True}, True),
    ],
)
def test_less_than_predicted_counts_where_the_longest_batch_was_seen(
    tmp_path, num_steps, record, change, counts
):
    plan = PLAN.replace(per_device_train_batch_size=1, gradient_accumulation_steps=1, **change)
    kind = kind_of(plan, "cpu", "llama")
    measured = {"process_bytes": 868, "num_steps": num_steps}
    write_run(tmp_path, "a", plan=plan, record=record, measured=measured, data=ROWS)
    learned = learn(tmp_path, kind)
    assert told(learned) == pytest.approx(868 if counts else 1_000)
    assert ("memory" in taught_by(tmp_path / "a")) is counts
    more = {"process_bytes": 1_100, "num_steps": 12}
    write_run(tmp_path / "more", "b", plan=plan, measured=more, data=ROWS)
    assert told(learn(tmp_path / "more", kind)) == pytest.approx(1_100)


def test_a_run_is_compared_with_the_highest_it_passes_and_a_proof_with_its_steps(tmp_path):
    occasions = {"load": 500, "first_step": 900, "evaluation": 1_120}
    write_run(tmp_path / "run", "a", occasions=occasions)
    assert told(learn(tmp_path / "run", KIND)) == pytest.approx(1_000)
    write_run(
        tmp_path / "proof", "a", occasions=occasions, record={"kind": "proof"}, predicted=STEP
    )
    assert told(learn(tmp_path / "proof", KIND)) == pytest.approx(1_120)


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
    assert told(learned) == pytest.approx(1_120)
    assert len(learned.peaks) == 3
    assert taught_by(tmp_path / "r3") == {"time"}


def test_a_slow_run_alone_was_a_busy_machine_and_three_are_no_accident(tmp_path):
    for number in range(3):
        write_run(tmp_path, f"r{number}", measured={"tokens_per_second": 25.0})
        assert learn(tmp_path, KIND).speed() == (1.0 if number < 2 else pytest.approx(0.25))
    assert "time" in taught_by(tmp_path / "r0")
    for number in range(3, 7):
        write_run(tmp_path, f"r{number}")
    assert learn(tmp_path, KIND).speed() == pytest.approx(0.8)
    assert taught_by(tmp_path / "r0") == {"memory"}


NVML = {
    "process_bytes": 900,
    "reserved_bytes": 750,
    "allocated_bytes": 500,
    "process_source": "nvml",
}
ON_T4 = kind_of(TrainingPlan(), "Tesla T4", "llama")


def test_a_gpu_run_measures_the_context_and_remembers_running_out(tmp_path):
    plan = TrainingPlan()
    write_run(tmp_path, "a", plan=plan, gpus=(T4,), measured=NVML, data=ROWS)
    failed = {"state": "failed", "measured": {"out_of_memory": True}}
    write_run(tmp_path, "b", plan=plan, gpus=(T4,), record=failed)
    learned = learn(tmp_path, ON_T4, card=CARD)
    assert learned.contexts == (150,)
    assert learned.num_out_of_memory == 1


def test_a_context_is_of_card_driver_and_torch_whatever_the_kind(tmp_path):
    write_run(tmp_path, "a", plan=TrainingPlan(bf16=True), gpus=(T4,), measured=NVML)
    learned = learn(tmp_path, ON_T4, card=CARD)
    assert learned == Learned(contexts=(150,))
    for other in (
        replace(CARD, gpu="L4"),
        replace(CARD, driver="560.28"),
        replace(CARD, torch="2.11.0"),
    ):
        assert learn(tmp_path, ON_T4, card=other) == NOTHING


@pytest.mark.parametrize(
    "change",
    [
        {"process_source": "reserved+context"},
        {"process_bytes": 700},  # the driver was asked when torch had given some back
        {"process_bytes": 5 * GIB},
    ],
)
def test_a_context_that_was_not_measured_is_not_taken(tmp_path, change):
    write_run(tmp_path, "a", plan=TrainingPlan(), gpus=(T4,), measured={**NVML, **change})
    assert learn(tmp_path, ON_T4, card=CARD).contexts == ()


@pytest.mark.parametrize(("reserved", "factor"), [(750, 1.25), (540, 0.9), (200, 1.0)])
def test_reserved_is_learned_by_what_torch_reserved(tmp_path, reserved, factor):
    measured = {**NVML, "reserved_bytes": reserved}
    record = {"kind": "proof"}
    write_run(tmp_path, "a", plan=TrainingPlan(), gpus=(T4,), measured=measured, record=record)
    learned = learn(tmp_path, ON_T4)
    assert learned.memory() == pytest.approx(factor)
    assert learned.offset() == 0
    other = kind_of(TrainingPlan(bf16=True), "Tesla T4", "llama")
    assert learn(tmp_path, other) == NOTHING


def test_a_changed_record_is_read_again(tmp_path):
    write_run(tmp_path, "a", record={"state": "running"})
    assert learn(tmp_path, KIND) == NOTHING
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    (tmp_path / "a" / "run.json").write_text(json.dumps({**record, "state": "finished"}))
    assert len(learn(tmp_path, KIND).peaks) == 1


def test_a_proof_teaches_like_a_run_by_its_longest_step(tmp_path):
    measured = {"step_seconds": 2.5, "tokens_per_second": 900.0, "num_steps": 3}
    write_run(tmp_path, "a", record=PROOF, predicted=STEP, measured=measured)
    learned = learn(tmp_path, KIND)
    assert told(learned) == pytest.approx(1_120)
    assert learned.speed() == pytest.approx(0.8)


def test_a_proof_that_ran_out_of_memory_is_remembered(tmp_path):
    failed = {**PROOF, "state": "failed", "measured": {"out_of_memory": True}}
    write_run(tmp_path, "a", record=failed)
    assert learn(tmp_path, KIND).num_out_of_memory == 1


def test_a_run_that_is_being_deleted_teaches_nothing(tmp_path):
    write_run(tmp_path, ".deleted-1")
    assert learn(tmp_path, KIND) == NOTHING
