"""The peak of an evaluation between two steps, and the verdict that follows it."""

import pytest

from advisor.memory import MemoryEstimate
from advisor.simulate import replay
from advisor.simulate.fit import fit
from advisor.simulate.profile import Structure, canonical_config
from advisor.simulate.step import record
from advisor.simulate.worker import Worker
from advisor.spec import answer

VOCABULARY, WIDTH, LENGTH = 4096, 32, 64
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
PLAN = {"eval_strategy": "steps", "eval_steps": 5, "per_device_train_batch_size": 2}


def profile(asked):
    def trace(depth, batch, length):
        return record(asked, depth=depth, batch=batch, length=length)

    return fit(trace, depth=2, replicate=False, single_row=False)


@pytest.fixture(scope="module")
def profiles():
    training = Structure(config=canonical_config(LLAMA), compute_capability=(9, 0))
    return profile(training), profile(training.evaluation(2))


def test_a_large_evaluation_takes_its_logits(profiles):
    training, evaluating = profiles
    before = replay.on_cuda(training, 2, LENGTH, 2)
    later = replay.Evaluation(profile=lambda: evaluating, batch=64, length=LENGTH)
    peaks = replay.on_cuda(training, 2, LENGTH, 2, evaluation=later)
    assert "evaluation" not in before.occasions
    assert (before.allocated, before.reserved) == (peaks.allocated, peaks.reserved)
    logits = 64 * LENGTH * VOCABULARY * 4
    grown = peaks.occasions["evaluation"] - peaks.reserved
    assert logits < grown < 4 * logits
    assert peaks.occasions["load"] <= peaks.occasions["first_step"] <= peaks.reserved


def test_a_small_evaluation_fits_into_what_training_left(profiles):
    training, evaluating = profiles
    later = replay.Evaluation(profile=lambda: evaluating, batch=2, length=LENGTH)
    peaks = replay.on_cuda(training, 2, LENGTH, 2, evaluation=later)
    assert peaks.occasions["evaluation"] == peaks.reserved
    live = replay.live(training, 2, LENGTH, 2, evaluation=later)
    assert live.occasions["evaluation"] < live.allocated


def test_the_verdict_follows_the_highest_occasion():
    memory = MemoryEstimate(
        allocated_bytes=1,
        reserved_bytes=1,
        process_bytes=100,
        interval={"process_bytes": (90, 110)},
        capacity_bytes=1000,
        occasions={"load": 10, "evaluation": 1100},
    )
    assert memory.high_bytes() == 1110
    assert memory.judged().verdict == "does_not_fit"


def test_an_answer_tells_when_evaluation_runs_out_of_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path))
    worker = Worker(home=tmp_path)

    def ask(**more):
        return answer(
            {
                "model": {"config": LLAMA},
                "plan": {"task": "causal-lm", "max_length": 512, **PLAN, **more},
                "machine": {"accelerator": "Tesla T4", "count": 1},
            },
            worker=worker,
        )

    try:
        small, large = (ask(per_device_eval_batch_size=rows) for rows in (2, 1024))
        never = ask(per_device_eval_batch_size=1024, eval_strategy="no", eval_steps=None)
    finally:
        worker.close()
    assert small["verdict"] == never["verdict"] == "fits"
    assert large["verdict"] == "does_not_fit"
    assert large["process_bytes"] == small["process_bytes"] == never["process_bytes"]
    assert large["occasions"]["evaluation"] > large["capacity_bytes"]
    assert "evaluation" not in never["occasions"]
