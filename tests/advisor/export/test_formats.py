"""Every export format: content, refusals, and that the same answer gives the same bytes."""

import json
import shlex
import sys

import pytest

import advisor.locale
from advisor.arguments import arguments_for, training_arguments_for
from advisor.data import DataDescription
from advisor.errors import InputError, UnknownNameError
from advisor.export import FORMATS, export
from advisor.hardware.machine import Gpu, Machine
from advisor.locale import Message
from advisor.memory import MemoryEstimate
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.recommendation import Advice, Conflict, Recommendation

GPU = Gpu(name="Tesla T4", index=0, uuid="GPU-1234", total_bytes=16 * 10**9, source="measured")


@pytest.fixture(autouse=True)
def reasons(monkeypatch):
    """A catalogue of one reason, so that these tests do not depend on anybody's wording."""
    monkeypatch.setattr(
        advisor.locale, "catalogue", lambda package, lang: {"reason": f"{lang}: {{n:int}}"}
    )


def recommendation(plan=TrainingPlan(), machine=Machine(name="here")):  # noqa: B008  frozen
    reason = Message(id="reason", params={"n": 1})
    conflicts = () if plan else (Conflict(fields=("max_length",), reason=reason),)
    return Recommendation(
        plan=plan,
        advice=(Advice(field="seed", value=42, reason=reason, source="rule"),),
        memory=MemoryEstimate(allocated_bytes=1, reserved_bytes=2, process_bytes=3),
        time=None,
        alternatives=(),
        conflicts=conflicts,
        machine=machine,
        model=ModelDescription(
            name="m",
            path="/models/mod\u00e8le 7",
            config={},
            model_type="llama",
            architecture="LlamaForCausalLM",
            num_parameters=1,
            has_weights=True,
        ),
        data=DataDescription(
            name="d",
            path="/data/rows.jsonl",
            format="jsonl",
            columns=("text",),
            text_column="text",
            num_rows=10,
            num_eval_rows=1,
            num_measured_rows=11,
            lengths=(1,),
            length_source="tokenizer",
            mean_tokens=1.0,
            p50_tokens=1,
            p95_tokens=1,
            p99_tokens=1,
            max_tokens=1,
        ),
        versions={},
    )


def test_formats_and_their_files_are_these():
    assert {f.name: f.filename for f in FORMATS.values()} == {
        "hf-json": "args.json",
        "training-arguments-json": "training_arguments.json",
        "command": "command.sh",
        "plan-json": "plan.json",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_answer_gives_the_same_text(name):
    first, second = export(recommendation(), name), export(recommendation(), name)
    assert first == second
    assert first.text.endswith("\n")
    assert not first.text.endswith("\n\n")


@pytest.mark.parametrize("name", FORMATS)
def test_plan_json_alone_can_be_written_without_a_plan(name):
    empty = recommendation(plan=None)
    if name == "plan-json":
        assert json.loads(export(empty, name).text)["plan"] is None
    else:
        with pytest.raises(InputError, match="holds no plan"):
            export(empty, name)


def test_unknown_format_lists_them_all():
    with pytest.raises(UnknownNameError) as caught:
        export(recommendation(), "hf_json")
    assert caught.value.nearest[0] == "hf-json"
    assert all(name in str(caught.value) for name in FORMATS)


def test_hf_json_is_the_arguments_in_order_and_readable():
    text = export(recommendation(), "hf-json").text
    assert list(json.loads(text).items()) == list(arguments_for(recommendation()).items())
    assert "/models/mod\u00e8le 7" in text
    assert text.startswith('{\n  "model_name_or_path"')


def test_training_arguments_json_is_that_part_of_hf_json():
    part = json.loads(export(recommendation(), "training-arguments-json").text)
    whole = json.loads(export(recommendation(), "hf-json").text)
    assert part == training_arguments_for(recommendation())
    assert part.items() <= whole.items()
    assert "train_file" not in part


def test_plan_json_reads_back_equal_with_its_reasons_rendered():
    text = export(recommendation(), "plan-json").text
    assert json.loads(text)["advice"][0]["reason"]["text"] == "en: 1"
    assert Recommendation.from_dict(json.loads(text)) == recommendation()


def test_command_is_what_runs_on_this_machine(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python3")
    text = export(recommendation(TrainingPlan(use_cpu=True)), "command").text
    assert shlex.split(text) == [
        "/opt/my python/bin/python3",
        *("-m", "trainer", "args.json", "--plan", "plan.json"),
    ]


def test_command_shows_the_child_one_gpu():
    text = export(recommendation(machine=Machine(name="t4", gpus=(GPU,))), "command").text
    assert shlex.split(text)[:2] == ["env", "CUDA_VISIBLE_DEVICES=GPU-1234"]
    on_cpu = recommendation(TrainingPlan(use_cpu=True), Machine(name="t4", gpus=(GPU,)))
    assert "CUDA" not in export(on_cpu, "command").text


def test_command_for_several_devices_has_a_launcher():
    two = recommendation(TrainingPlan(devices=2), Machine(name="2 x T4", source="catalogue"))
    assert shlex.split(export(two, "command").text) == [
        *("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "trainer", "args.json", "--plan", "plan.json"),
    ]
