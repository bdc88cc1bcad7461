"""The whole answer, with the real worker and simulator, for a card of the catalogue."""

import itertools
import json
import shutil
import signal

import pytest

from advisor import demo
from advisor.errors import InputError, PlanError, UnknownNameError, WorkerError
from advisor.locale import say
from advisor.recommend import Advisor, Question
from advisor.recommendation import Recommendation

LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


@pytest.fixture(scope="module")
def advisor(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(home))
        advisor = Advisor(home=home)
        yield advisor
        advisor.close()


def advisor_home(advisor):
    return advisor._worker._home


def ask(advisor, **changes):
    return advisor.recommend(Question(**{"machine": "Tesla T4", **changes}))


@pytest.fixture(scope="module")
def answer(advisor):
    return ask(advisor)


def test_the_demo_fits_a_t4_with_a_margin(answer):
    assert answer.memory.verdict == "fits"
    low, high = answer.memory.interval["process_bytes"]
    assert low <= answer.memory.process_bytes <= high < answer.memory.capacity_bytes
    assert sum(answer.memory.categories.values()) == answer.memory.process_bytes
    assert answer.time.num_steps == answer.plan.optimizer_steps(answer.data.num_rows)


def test_answer_survives_plan_json(answer):
    written = json.loads(json.dumps(answer.to_dict("zh"), allow_nan=False))
    read = Recommendation.from_dict(written)
    assert read.to_dict("zh") == written
    read = Recommendation.from_dict(json.loads(json.dumps(answer.to_dict())))
    assert (read.plan, read.memory, read.time) == (answer.plan, answer.memory, answer.time)


def test_assumptions_are_text_in_the_language_that_is_asked_for(answer):
    english, chinese = (
        [*written["memory"]["assumptions"], *written["time"]["assumptions"]]
        for written in (json.loads(json.dumps(answer.to_dict(lang))) for lang in ("en", "zh"))
    )
    assert len(english) == len(chinese) > 4
    assert all(isinstance(text, str) and text.isascii() for text in english)
    assert not any(text.isascii() for text in chinese)
    recalled = Recommendation.from_dict(answer.to_dict("zh")).time.assumptions[0]
    assert recalled == say(answer.time.assumptions[0], "zh")


def test_timeline_peaks_where_the_estimate_says(answer):
    line = answer.timeline
    levels = [sum(values) for values in zip(*line.bytes_by_category.values(), strict=True)]
    context = answer.memory.categories["context"]
    assert max(levels) - context == pytest.approx(answer.memory.allocated_bytes, rel=0.02)
    assert list(line.time_fraction) == sorted(line.time_fraction)


def test_pin_keeps_the_contract_and_says_who_chose(advisor, answer):
    pinned = ask(advisor, pins={"per_device_train_batch_size": 1})
    assert pinned.plan.effective_batch_size() == answer.plan.effective_batch_size()
    row = next(a for a in pinned.advice if a.field == "per_device_train_batch_size")
    assert (row.value, row.source, row.pinned) == (1, "user", True)
    assert pinned.memory.process_bytes < answer.memory.process_bytes


def test_packing_counts_blocks_and_keeps_the_data_as_they_are(advisor, answer):
    packed = ask(advisor, pins={"packing": True, "max_length": 128})
    rows = packed.data.rows_of(packed.plan)
    assert packed.data == answer.data
    assert rows.num_rows > packed.data.num_rows  # texts of the demo are longer than a block
    assert packed.time.num_steps == packed.plan.optimizer_steps(rows.num_rows)
    assert any(f"{rows.num_rows:,} full rows" in text for text in packed.time.assumptions)
    assert "Every row of the worst batch has 128 tokens." in packed.memory.assumptions
    assert advisor.sweep(Question(machine="Tesla T4"), packed.plan)


def test_alternatives_fit_and_their_pins_yield_them(advisor, answer):
    assert answer.alternatives
    for other in answer.alternatives:
        assert other.memory.verdict in ("fits", "tight")
        again = ask(advisor, pins=other.pins)
        assert again.plan == other.plan


def test_sweep_grows_with_batch_and_length(advisor, answer):
    cells = advisor.sweep(Question(machine="Tesla T4"), answer.plan)
    known = {(c.batch, c.length): c.process_bytes for c in cells}
    lengths = sorted({c.length for c in cells})
    for batch in (1, 2, 4, 8, 16):
        for length in lengths:
            assert known[batch, length] <= known[batch * 2, length]
    for a, b in itertools.pairwise(lengths):
        assert known[32, a] < known[32, b]


@pytest.mark.parametrize(
    ("layers", "fields"), [pytest.param(80, (), marks=pytest.mark.full), (8, ("method",))]
)
def test_impossible_question_names_its_pins(advisor, tmp_path, layers, fields):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA_8B, "num_hidden_layers": layers}))
    found = ask(advisor, model=str(path), method="full", pins={"offload": "none", "seed": 7})
    assert found.plan is None
    assert found.memory.verdict == "does_not_fit"
    (conflict,) = found.conflicts
    assert conflict.fields == fields
    assert tuple(name for name, _ in conflict.ways_out) == fields
    assert conflict.reason.params["need"] > conflict.reason.params["free"]


def test_adapters_are_answered_for_a_config_and_refused_for_a_model_without_weights(
    advisor, tmp_path
):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA_8B))
    for where in (config, tmp_path):
        found = ask(advisor, model=str(where), method="lora", machine="A100-SXM4-80GB")
        assert found.plan.method == "lora"
    (tmp_path / "tokenizer.json").write_bytes(
        (demo.resolve("demo", "model") / "tokenizer.json").read_bytes()
    )
    with pytest.raises(InputError, match="no weights, so there is nothing to adapt") as refused:
        ask(advisor, model=str(tmp_path), method="lora", machine="A100-SXM4-80GB")
    assert refused.value.field == "method"


def test_bad_questions_are_refused_in_one_sentence(advisor):
    with pytest.raises(UnknownNameError, match="nearest"):
        ask(advisor, machine="RTX 9999")
    with pytest.raises(InputError, match="There is no model at"):
        ask(advisor, model="/nowhere/at/all")
    with pytest.raises(InputError, match="nothing to adapt"):
        ask(advisor, method="lora")
    with pytest.raises(UnknownNameError, match="task must be one of"):
        ask(advisor, task="poetry")
    with pytest.raises(InputError, match=r"can be estimated, .* text-classification can\."):
        ask(advisor, task="masked-lm")


def test_worker_is_started_again_after_it_died(advisor, answer):
    dead = advisor._worker._process
    dead.kill()
    dead.wait()
    described = advisor._worker.call("describe_model", {"path": "demo", "task": "causal-lm"})
    assert described["num_parameters"] == answer.model.num_parameters
    assert advisor._worker._process is not dead


def test_a_cancelled_answer_ends_the_worker_and_the_next_question_is_answered(advisor, answer):
    dead = advisor._worker._process
    config = {**LLAMA_8B, "hidden_size": 64, "intermediate_size": 96, "rms_norm_eps": 2e-6}
    path = advisor_home(advisor) / "cancelled"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))

    def cancel_at_the_trace(name, _params):
        if name == "trace":
            advisor.cancel()

    question = Question(machine="Tesla T4", model=str(path), method="full")
    with pytest.raises(WorkerError, match="Cancelled"):
        advisor.recommend(question, on_progress=cancel_at_the_trace)
    assert dead.wait(timeout=10) == -signal.SIGKILL
    assert ask(advisor).plan == answer.plan
    assert advisor.recommend(question).plan is not None  # by a new worker


def test_the_plan_is_told_before_the_plans_beside_it(advisor, answer):
    told = []
    whole = advisor.recommend(Question(machine="Tesla T4"), on_first=told.append)
    assert [(first.plan, first.memory, first.time) for first in told] == [
        (whole.plan, whole.memory, whole.time)
    ]


def test_worker_that_does_not_answer_is_ended_and_said_so(advisor, answer):
    silent = advisor._worker._process
    silent.send_signal(signal.SIGSTOP)
    with pytest.raises(WorkerError, match="No answer to describe_model within"):
        advisor._worker.call(
            "describe_model", {"path": "demo", "task": "causal-lm"}, timeout_seconds=0.1
        )
    assert silent.wait(timeout=10) == -signal.SIGKILL


def test_packing_without_an_end_of_text_is_refused_by_the_plan(advisor, answer, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(demo.resolve("demo", "model"), model)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (model / file).exists():
            known = json.loads((model / file).read_text("utf-8"))
            known.pop("eos_token", None)
            (model / file).write_text(json.dumps(known), "utf-8")
    assert answer.data.ends_texts is True
    with pytest.raises(PlanError, match="end-of-text") as refused:
        ask(advisor, model=str(model), pins={"packing": True})
    assert refused.value.field == "packing"
    assert ask(advisor, model=str(model)).data.ends_texts is False
