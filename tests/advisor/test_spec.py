"""A SPEC of any task is answered with what was assumed, or unknown with the reason."""

import json

import pytest

from advisor.simulate.profile import CONVOLUTIONS
from advisor.simulate.worker import Worker
from advisor.spec import answer
from tests.advisor.simulate.architectures import CASES, UNANSWERED

A100 = {"accelerator": "NVIDIA A100-SXM4-80GB"}
ENCODER, VISION, SEQ_TO_SEQ, EXPERTS = "bert", "vit", "bart", "qwen3_moe"


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        child = Worker()
        yield child
        child.close()


def ask(worker, task, model, **plan):
    plan = {"task": task, "per_device_train_batch_size": 3, "max_length": 128, **plan}
    return answer({"model": model, "plan": plan, "machine": A100}, worker=worker)


@pytest.mark.parametrize("name", [ENCODER, VISION, SEQ_TO_SEQ, EXPERTS])
def test_every_kind_is_answered(worker, name):
    task, config = CASES[name]
    found = ask(worker, task, {"config": config})
    assert found["verdict"] == "fits"
    assert found["allocated_bytes"] < found["reserved_bytes"] < found["process_bytes"]
    assert found["step_seconds"] > 0
    said = " ".join(found["assumptions"])
    assert ("balanced routing" in said) == (name == EXPERTS)
    assert ("Source and target" in said) == (name == SEQ_TO_SEQ)
    assert ("128 tokens" in said) == (name != VISION)
    low, high = found["interval"]["allocated_bytes"]
    width = (high - low) / 2 / found["allocated_bytes"]
    assert (width > 0.049) == (CONVOLUTIONS in said) == (name == VISION)


def test_a_model_directory_is_described_for_its_task(worker, tmp_path):
    task, config = CASES[ENCODER]
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    by_path = ask(worker, task, {"path": str(tmp_path)})
    assert by_path["allocated_bytes"] == ask(worker, task, {"config": config})["allocated_bytes"]


def test_more_rows_need_more(worker):
    task, config = CASES[VISION]
    sizes = [
        ask(worker, task, {"config": config}, per_device_train_batch_size=n)["allocated_bytes"]
        for n in (2, 8, 32)
    ]
    assert sizes == sorted(set(sizes))


def test_what_cannot_be_traced_is_unknown_with_the_reason(worker):
    task, config, reason = UNANSWERED["moonshine"]
    found = ask(worker, task, {"config": config})
    assert found["verdict"] == "unknown"
    assert found["allocated_bytes"] is None
    assert any(reason in text for text in found["assumptions"])


def test_the_step_that_is_timed_is_the_one_whose_memory_is_told(worker):
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 128}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 256}
    plan = {"per_device_train_batch_size": 4, "max_length": 2048, "dtype": "float16"}
    plan |= {"bf16": False, "fp16": False, "attn_implementation": "sdpa"}
    plain, expanded = (
        answer(
            {
                "model": {"config": config | {"vocab_size": 256}},
                "plan": plan,
                "machine": {"accelerator": "Tesla T4"},
                "loop": {"kind": "script", "expand_kv": expand},
            },
            worker=worker,
        )
        for expand in (False, True)
    )
    # grouped heads make all scores on a T4, repeated ones a fused kernel
    assert expanded["allocated_bytes"] < plain["allocated_bytes"]
    assert expanded["step_seconds"] < 0.7 * plain["step_seconds"]
    assert any("Time: limited by" in said for said in expanded["assumptions"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"save_strategy": "epoch"}, "nothing more on the device"),
        ({"save_strategy": "epoch", "devices": 4, "fsdp": True}, "one whole tensor at a time"),
        ({"save_strategy": "no"}, None),
    ],
)
def test_what_a_save_takes_is_said(changes, said):
    from advisor import saving
    from advisor.plan import TrainingPlan

    found = saving.assumptions(TrainingPlan(**changes))
    assert (said is None and not found) or said in found[0]
