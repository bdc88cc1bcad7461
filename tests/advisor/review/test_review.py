"""Arguments of every release: each old name has its replacement, and what is left loads."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor import training_arguments
from advisor.argument_checks import NEVER_WRITTEN, check_arguments
from advisor.arguments import arguments_for
from advisor.data import DataDescription
from advisor.errors import InputError
from advisor.hardware.machine import Gpu, Machine
from advisor.locale import LANGUAGES, Message
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.recommend import Question
from advisor.recommendation import Advice, Recommendation
from advisor.review import former, proven, read_arguments, read_arguments_file, review
from advisor.review.better import suggestions
from advisor.review.pins import question_from
from advisor.rules import optimizer

GPU = Machine(
    name="t4",
    gpus=(Gpu(name="Tesla T4", index=0, compute_capability=(7, 5), bf16_native=False),),
)
CPU = Machine(name="cpu")
TUTORIAL = {
    "output_dir": "out",
    "evaluation_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "warmup_ratio": 0.1,
    "group_by_length": True,
    "no_cuda": True,
    "gradient_checkpointing": True,
    "fp16": True,
}
"""As the tutorials of transformers 4.x write it."""
OLDEST = {
    "output_dir": "out",
    "overwrite_output_dir": True,
    "evaluate_during_training": True,
    "per_gpu_train_batch_size": 4,
    "per_gpu_eval_batch_size": 8,
    "logging_dir": "logs",
    "fp16_opt_level": "O2",
    "tpu_num_cores": None,
    "tpu_metrics_debug": False,
    "local_rank": -1,
}
"""As 2.9 and 3.0 take it."""


def nothing_installed(_name):
    return False


def everything_installed(_name):
    return True


def reviewed(arguments, machine=None, installed=everything_installed):
    return review(arguments, machine, installed)


def found(result, field):
    return [f for f in result.findings if f.field == field]


def one(result, field):
    (finding,) = found(result, field)
    return finding


# --- names -----------------------------------------------------------------------------------


def test_a_tutorial_of_4x_names_every_replacement():
    result = reviewed(TUTORIAL)
    assert result.arguments == {
        "output_dir": "out",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "warmup_steps": 0.1,
        "train_sampling_strategy": "group_by_length",
        "use_cpu": True,
        "activation_checkpointing": True,
    }
    replaced = {f.field: dict(f.replacement) for f in result.findings}
    assert replaced == {
        "evaluation_strategy": {"evaluation_strategy": None, "eval_strategy": "epoch"},
        "warmup_ratio": {"warmup_ratio": None, "warmup_steps": 0.1},
        "group_by_length": {
            "group_by_length": None,
            "train_sampling_strategy": "group_by_length",
        },
        "no_cuda": {"no_cuda": None, "use_cpu": True},
        "gradient_checkpointing": {
            "gradient_checkpointing": None,
            "activation_checkpointing": True,
        },
        "fp16": {"fp16": None},
    }
    assert result.findings[0].field == "fp16"  # the worst first: it would silently do nothing
    assert result.findings[0].severity == "warning"


def test_the_first_release_is_understood():
    result = reviewed(OLDEST)
    assert result.arguments == {
        "output_dir": "out",
        "eval_strategy": "steps",
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
    }
    assert {f.severity for f in result.findings} == {"change"}


@pytest.mark.parametrize("name", former.last_releases())
def test_every_name_that_ever_was_has_a_conversion_and_a_sentence(name):
    assert name not in training_arguments.fields()
    assert name in training_arguments.RENAMED
    result = reviewed({name: True, "output_dir": "out"})
    finding = one(result, name)
    assert name not in result.arguments
    assert set(result.arguments) <= set(training_arguments.fields())
    if name != "push_to_hub_token":
        assert former.last_releases()[name] in finding.to_dict()["text"]
    for lang in LANGUAGES:
        said = finding.to_dict(lang)
        assert said["text"]
        assert said["do"]


def test_the_tables_of_old_names_agree():
    assert set(former.CONVERSIONS) == set(training_arguments.RENAMED)
    assert set(former.last_releases()) <= set(former.CONVERSIONS)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"warmup_ratio": 0.1, "warmup_steps": 0}, {"warmup_steps": 0.1}),
        ({"warmup_steps": 0, "warmup_ratio": 0.0}, {"warmup_steps": 0}),
        ({"warmup_ratio": 0.1, "warmup_steps": 50}, {"warmup_steps": 50}),
        ({"warmup_ratio": 0.0}, {}),
        ({"warmup_ratio": None}, {}),
        ({"group_by_length": False}, {}),
        ({"no_cuda": False}, {"use_cpu": False}),
        ({"no_cuda": "true"}, {"use_cpu": True}),
        ({"adafactor": True, "optim": "adamw_hf"}, {"optim": "adafactor"}),
        ({"adafactor": True, "optim": "sgd"}, {"optim": "sgd"}),
        ({"evaluation_strategy": True}, {"eval_strategy": "steps"}),
        ({"evaluation_strategy": "no", "eval_strategy": "epoch"}, {"eval_strategy": "epoch"}),
        ({"push_to_hub_organization": "o", "push_to_hub_model_id": "m"}, {"hub_model_id": "o/m"}),
        (
            {"push_to_hub_organization": "o", "output_dir": "a/b"},
            {"output_dir": "a/b", "hub_model_id": "o/b"},
        ),
        ({"include_inputs_for_metrics": True}, {"include_for_metrics": ["inputs"]}),
        (
            {"dispatch_batches": False, "split_batches": True},
            {"accelerator_config": {"dispatch_batches": False, "split_batches": True}},
        ),
        ({"torchdynamo": "inductor"}, {"torch_compile_backend": "inductor"}),
        ({"xpu_backend": "ccl"}, {"ddp_backend": "xccl"}),
        ({"tpu_metrics_debug": True}, {"debug": "tpu_metrics_debug"}),
        ({"sharded_ddp": "zero_dp_2"}, {"fsdp": True}),
        ({"sharded_ddp": "simple", "no_cuda": True}, {"use_cpu": True}),
        (
            {"fsdp": "full_shard auto_wrap", "fsdp_transformer_layer_cls_to_wrap": "LlamaLayer"},
            {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": "LlamaLayer"}},
        ),
        (
            {"fsdp": ["shard_grad_op", "offload"]},
            {"fsdp": True, "fsdp_config": {"reshard_after_forward": False, "cpu_offload": True}},
        ),
        ({"torch_dtype": "torch.bfloat16", "block_size": 128},
         {"dtype": "bfloat16", "max_seq_length": 128}),
        ({"gradient_checkpointing": True, "activation_checkpointing": False},
         {"activation_checkpointing": False}),
        ({"gradient_checkpointing": True, "activation_checkpointing": None},
         {"activation_checkpointing": True}),
        ({"evaluation_strategy": "steps", "eval_strategy": None}, {"eval_strategy": "steps"}),
        ({"sharded_ddp": "simple", "fsdp": None}, {"fsdp": True}),
        ({"per_gpu_train_batch_size": 4, "per_device_train_batch_size": 8},
         {"per_device_train_batch_size": 4}),
        ({"per_gpu_eval_batch_size": None, "per_device_eval_batch_size": 8},
         {"per_device_eval_batch_size": 8}),
        ({"per_gpu_train_batch_size": 0, "per_device_train_batch_size": 8},
         {"per_device_train_batch_size": 8}),
    ],
)  # fmt: skip
def test_values_are_converted(given, left):
    assert reviewed(given).arguments == left


def test_a_warmup_ratio_of_one_or_more_is_not_taken_for_a_share():
    for more in ({}, {"warmup_steps": 0}):
        finding = one(reviewed({"warmup_ratio": 10, **more}), "warmup_ratio")
        assert finding.severity == "error"
        assert dict(finding.replacement) == {"warmup_ratio": None}


def test_unknown_names_come_with_the_nearest():
    finding = one(reviewed({"learning_rat": 1e-4}), "learning_rat")
    assert finding.severity == "error"
    assert "learning_rate" in finding.to_dict()["text"]
    assert "none is like it" in one(reviewed({"qqqq": 1}), "qqqq").to_dict()["text"]
    script = one(reviewed({"dataset_name": "x"}), "dataset_name")
    assert "example script" in script.to_dict()["text"]


def test_secrets_and_code_are_taken_out_and_not_repeated():
    result = reviewed(
        {
            "hub_token": "hf_secretsecretsecret",
            "push_to_hub_token": "hf_secretsecretsecret",
            "run_name": "hf_secretsecretsecret",
            "trust_remote_code": True,
            "parallelism_config": {"tp_size": 2},
            "local_rank": 3,
        }
    )
    assert result.arguments == {}
    assert "secretsecret" not in json.dumps(result.to_dict())
    assert {f.field for f in result.findings if f.severity == "error"} == {
        "hub_token",
        "push_to_hub_token",
        "run_name",
        "trust_remote_code",
    }


# --- types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "got", "meant"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "nonsense", None),
        ("per_device_train_batch_size", 8.0, 8),
        ("per_device_train_batch_size", "8", 8),
        ("per_device_train_batch_size", 4.5, None),
        ("per_device_train_batch_size", 0, None),
        ("max_steps", "100.0", 100),
        ("bf16", "true", True),
        ("bf16", "False", False),
        ("bf16", 1, True),
        ("eval_strategy", "IntervalStrategy.STEPS", "steps"),
        ("save_strategy", "EPOCH", "epoch"),
        ("lr_scheduler_type", "SchedulerType.COSINE", "cosine"),
        ("optim", "adamw_hf", "adamw_torch"),
        ("optim", "adamw_apex_fused", "adamw_torch_fused"),
        ("report_to", None, "none"),
        ("fsdp", "", ""),
        ("fsdp", [], ""),
        ("debug", False, ""),
        ("save_total_limit", "None", None),
        ("label_names", "labels", ["labels"]),
        ("logging_steps", 2.5, None),
        ("num_train_epochs", -1, None),
        ("weight_decay", float("nan"), None),
    ],
)
def test_values_of_another_type_are_read_as_they_are_meant(name, got, meant):
    result = reviewed({name: got, "eval_steps": 10})
    assert result.arguments.get(name) == meant
    assert type(result.arguments.get(name)) is type(meant)
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_is_right_is_left_alone():
    right = {"learning_rate": 1e-4, "warmup_steps": 0.1, "bf16": True, "report_to": "none"}
    result = reviewed(right, CPU)
    assert {k: v for k, v in result.arguments.items() if k != "use_cpu"} == right


# --- combinations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "machine", "field", "left"),
    [
        ({"bf16": True, "fp16": True}, None, "fp16", {"bf16": True}),
        ({"bf16": True, "fp16": True}, GPU, "bf16", {"fp16": True}),
        ({"fp16": True, "use_cpu": True}, None, "fp16", {"use_cpu": True}),
        ({"fp16": True}, CPU, "fp16", {}),
        ({"fsdp": True, "fsdp_config": {"version": 2}}, CPU, "fsdp", {}),
        ({"bf16": True}, CPU, "bf16", {"bf16": True, "use_cpu": True}),
        ({"tf32": True}, GPU, "tf32", {}),
        ({"dataloader_prefetch_factor": 2}, None, "dataloader_prefetch_factor", {}),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "steps"},
            None,
            "load_best_model_at_end",
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
        ),
        (
            {
                "load_best_model_at_end": True,
                "eval_strategy": "steps",
                "eval_steps": 200,
                "save_steps": 500,
            },
            None,
            "save_steps",
            {
                "load_best_model_at_end": True,
                "eval_strategy": "steps",
                "eval_steps": 200,
                "save_steps": 600,
            },
        ),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau"},
            None,
            "eval_strategy",
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        ),
        ({"max_steps": 10, "num_train_epochs": 3}, None, "num_train_epochs", {"max_steps": 10}),
        ({"warmup_steps": 1.5}, None, "warmup_steps", {"warmup_steps": 1}),
    ],
)
def test_what_cannot_work_together_is_mended(given, machine, field, left):
    result = reviewed(given, machine)
    assert found(result, field)
    assert result.arguments == left


def test_packages_that_are_missing_are_named():
    given = {"report_to": ["wandb", "tensorboard"], "optim": "adamw_bnb_8bit", "deepspeed": "ds"}
    result = reviewed(given, None, nothing_installed)
    assert result.arguments == {"report_to": "none", "optim": "adamw_torch_fused"}
    assert "bitsandbytes" in one(result, "optim").to_dict()["text"]
    assert reviewed({"optim": "paged_adamw_8bit"}).findings == ()


@pytest.mark.parametrize("optim", training_arguments.fields()["optim"].choices)
def test_an_optimizer_stays_where_its_package_is_installed_or_none_is_needed(optim):
    package = optimizer.PACKAGES.get(optim)
    alone = reviewed({"optim": optim}, None, nothing_installed).arguments["optim"]
    assert alone == ("adamw_torch_fused" if package else optim)
    assert reviewed({"optim": optim}, None, lambda name: name == package).findings == ()


@pytest.mark.parametrize(
    ("optim", "module"),
    [("ademamix", "bitsandbytes"), ("adamw_torch_4bit", "torchao"), ("lomo", "lomo_optim")],
)
def test_an_optimizer_names_the_module_that_is_missing(optim, module):
    result = reviewed({"optim": optim}, None, nothing_installed)
    assert module in one(result, "optim").to_dict()["text"]
    assert result.arguments == {"optim": "adamw_torch_fused"}


def test_emulated_bf16_is_a_remark_not_a_change():
    result = reviewed({"bf16": True}, GPU)
    assert result.arguments == {"bf16": True}
    assert one(result, "bf16").severity == "advice"


# --- whatever is given -----------------------------------------------------------------------

NAMES = sorted({*training_arguments.fields(), *training_arguments.RENAMED} - {"hub_token"})
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 1000),
    st.floats(allow_nan=True),
    st.sampled_from(
        ["", "true", "steps", "epoch", "STEPS", "1e-4", "8", "none", "cosine", "adamw_hf", "x"]
    ),
    st.lists(st.sampled_from(["labels", "wandb"]), max_size=2),
    st.dictionaries(st.sampled_from(["a", "version"]), st.integers(0, 2), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(
    arguments=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=12),
    machine=st.sampled_from([None, CPU, GPU]),
)
def test_what_is_left_passes_our_own_check(arguments, machine):
    result = review(arguments, machine, nothing_installed)
    own = {"dtype", "max_seq_length", "bnb_4bit_use_double_quant"}
    check_arguments({n: v for n, v in result.arguments.items() if n not in own}, training_only=True)
    json.dumps(result.to_dict("zh"), allow_nan=False)
    again = review(result.arguments, machine, nothing_installed)
    assert again.arguments == result.arguments
    assert {f.severity for f in again.findings} <= {"advice"}


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "name"),
    [(b"PK\x03\x04...", "args.json"), (b"\x80\x04", "x"), (b"{}", "training_args.bin")],
)
def test_a_pickle_is_refused_with_the_reason(raw, name):
    with pytest.raises(InputError, match=r"is a pickle, which runs code .* as JSON"):
        read_arguments(raw, name)


def test_files_that_are_no_arguments(tmp_path):
    with pytest.raises(InputError, match="must hold a JSON object"):
        read_arguments(b"[1]", "args.json")
    with pytest.raises(InputError, match="line 1, column 2"):
        read_arguments(b"{", "args.json")
    with pytest.raises(InputError, match="more than any arguments take"):
        read_arguments(b" " * (2**20 + 1), "args.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_arguments_file(tmp_path / "none.json")
    path = tmp_path / "args.json"
    path.write_text('{"seed": 1}', encoding="utf-8")
    assert read_arguments_file(path) == {"seed": 1}


# --- the real class --------------------------------------------------------------------------

DUMP = {
    **{n: f.default for n, f in training_arguments.fields().items()},
    "output_dir": "out",
    "hub_token": "<HUB_TOKEN>",
    "push_to_hub_token": "<PUSH_TO_HUB_TOKEN>",
    "local_rank": 0,
    "_n_gpu": 1,
    "fsdp": [],
    "fsdp_config": {"min_num_params": 0, "xla": False, "xla_fsdp_grad_ckpt": False},
    "accelerator_config": {"split_batches": False, "even_batches": True},
    "optim": "adamw_hf",
    "report_to": ["wandb"],
    "evaluation_strategy": "steps",
    "eval_strategy": "steps",
    "half_precision_backend": "auto",
    "past_index": -1,
    "ray_scope": "last",
    "save_safetensors": True,
    "warmup_ratio": 0.1,
    "mp_parameters": "",
    "deepspeed": None,
}
"""What to_dict() of 4.x leaves: every field, derived ones and old ones."""
WRONG = {
    "learning_rate": "5e-5",
    "num_train_epochs": "3",
    "fp16": "false",
    "bf16": "true",
    "tf32": True,
    "logging_steps": 0,
    "save_strategy": "IntervalStrategy.NO",
    "load_best_model_at_end": True,
    "dataloader_prefetch_factor": 2,
    "lr_scheduler_type": "greedy",
    "label_smoothing_factor": 0,
}
SCRIPT = """
import json, sys
from advisor.arguments import verify
from advisor.review import Review, proven
results = []
for arguments in json.load(sys.stdin):
    result = proven(Review(findings=(), arguments=arguments), verify)
    results.append([f.to_dict()["text"] for f in result.findings])
print(json.dumps(results))
"""


def test_the_ratio_of_a_dump_outlives_its_zero_steps():
    assert DUMP["warmup_steps"] == 0
    assert review(DUMP, CPU, everything_installed).arguments["warmup_steps"] == DUMP["warmup_ratio"]


def test_what_is_left_loads_in_the_installed_class():
    cases = [TUTORIAL, OLDEST, DUMP, WRONG]
    mended = [review(case, CPU, nothing_installed).arguments for case in cases]
    broken = {"deepspeed": "/no/such.json"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=False,
        input=json.dumps([*mended, broken]),
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    *fine, refused = json.loads(done.stdout.splitlines()[-1])
    assert fine == [[]] * len(cases)
    assert "does not load" in refused[0]
    assert not set(NEVER_WRITTEN) & {name for arguments in mended for name in arguments}


def test_proof_says_what_the_class_said():
    def verify(_arguments, _format):
        raise InputError("plan.bf16_fp16", field="fp16")

    result = proven(review({"seed": 1}), verify)
    assert result.findings[0].field == "fp16"


# --- the command line ------------------------------------------------------------------------


def test_command_line_prints_findings_and_arguments(tmp_path, capsys, monkeypatch):
    from advisor import __main__ as cli

    monkeypatch.setattr(cli, "verify", lambda _arguments, _format: None)
    path = tmp_path / "args.json"
    path.write_text(json.dumps(TUTORIAL), encoding="utf-8")
    assert cli.main(["review", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"findings", "arguments"}
    assert answer["arguments"] == reviewed(TUTORIAL).arguments
    assert {"severity", "field", "got", "text", "do", "replacement"} <= set(answer["findings"][0])
    assert cli.main(["review", str(path), "--lang", "zh"]) == 0
    text = capsys.readouterr().out
    assert "请写 eval_strategy" in text
    for option, value in (("--data", "demo"), ("--task", "causal-lm")):
        assert cli.main(["review", str(path), option, value]) == 2
        said = capsys.readouterr().err
        assert f"{option} is judged together" in said
        assert "add --model" in said


def _classified():
    """A recommendation for a pair of texts with classes."""
    length = {f"{name}_tokens": 20 for name in ("mean", "p50", "p95", "p99", "max")}
    data = DataDescription(
        name="pairs", path="/data/pairs.csv", format="csv", text_column="premise,claim",
        columns=("premise", "claim", "verdict"), label_column="verdict", labels=("no", "yes"),
        num_rows=100, num_eval_rows=5, num_measured_rows=105, lengths=(20,),
        length_source="tokenizer", **length,
    )  # fmt: skip
    model = ModelDescription(
        name="m", path="/m", config={"model_type": "bert"}, model_type="bert",
        architecture="BertForMaskedLM", num_parameters=10**6, has_weights=True,
    )  # fmt: skip
    plan = TrainingPlan(task="text-classification", use_cpu=True)
    return Recommendation(
        plan=plan, advice=(), memory=None, time=None, alternatives=(), conflicts=(),
        machine=CPU, model=model, data=data, versions={},
    )  # fmt: skip


def test_columns_of_an_exported_file_are_asked_for_again():
    written = arguments_for(_classified())
    assert (written["text_column_names"], written["label_column_name"]) == (
        "premise,claim",
        "verdict",
    )
    other = Question(data="other.csv", text_column="body", label_column="mood", validation="v.csv")
    mended = reviewed(written)
    assert not {"text_column_names", "label_column_name"} & {f.field for f in mended.findings}
    asked, refused = question_from(mended.arguments, other)
    assert not refused
    assert (asked.task, asked.data) == ("text-classification", "/data/pairs.csv")
    assert (asked.text_column, asked.label_column) == ("premise,claim", "verdict")
    assert asked.validation is None


def test_columns_of_the_former_data_do_not_stay():
    other = Question(data="other.csv", text_column="body", label_column="mood", validation="v.csv")
    asked, _ = question_from({"train_file": "/data/new.csv"}, other)
    assert (asked.text_column, asked.label_column, asked.validation) == (None, None, None)
    asked, _ = question_from({"train_file": "other.csv"}, other)
    assert (asked.text_column, asked.label_column) == ("body", "mood")


def recommendation(model_type="llama"):
    plan = TrainingPlan(per_device_train_batch_size=8, gradient_accumulation_steps=2, use_cpu=True)
    values = {"learning_rate": 1e-3, "effective_batch_size": 16, "warmup_steps": 0.03,
              "max_length": 1024}  # fmt: skip
    reason = Message(id="why.weight_decay")
    advice = tuple(
        Advice(field=n, value=v, reason=reason, source="rule", reference="a paper")
        for n, v in values.items()
    )
    model = ModelDescription(
        name="m", path="/m", config={"model_type": model_type}, model_type=model_type,
        architecture="LlamaForCausalLM", num_parameters=10**6,
    )  # fmt: skip
    return Recommendation(
        plan=plan, advice=advice, memory=None, time=None, alternatives=(), conflicts=(),
        machine=CPU, model=model, data=None, versions={},
    )  # fmt: skip


def test_suggestions_name_value_reason_and_source():
    given = {"per_device_train_batch_size": 64, "max_seq_length": 512}
    by_field = {f.field: f for f in suggestions(given, recommendation())}
    assert set(by_field) == {
        "learning_rate",
        "per_device_train_batch_size",
        "warmup_steps",
        "max_seq_length",
    }
    rate = by_field["learning_rate"]
    # from scratch under 100 M: 1e-3 at 16 rows, twice that at 64
    assert dict(rate.replacement) == {"learning_rate": 2e-3}
    assert "arXiv" in rate.reference
    assert rate.to_dict()["reason"]
    good = {"learning_rate": 1e-3, "per_device_train_batch_size": 16, "warmup_steps": 0.1}
    assert suggestions(good, recommendation()) == ()


def test_the_rate_is_judged_for_the_optimizer_of_the_file():
    good = {"per_device_train_batch_size": 16, "warmup_steps": 0.1}
    lion = {**good, "optim": "lion_32bit"}
    assert suggestions({**lion, "learning_rate": 2e-4}, recommendation()) == ()
    (found,) = suggestions({**lion, "learning_rate": 1e-3}, recommendation())
    assert dict(found.replacement) == {"learning_rate": 2e-4}
    assert found.reason.id == "rate.lion"
    assert suggestions({**good, "optim": "sgd", "learning_rate": 0.1}, recommendation()) == ()


def test_adafactor_of_t5_needs_no_warmup():
    asked = {"per_device_train_batch_size": 16, "warmup_steps": 0, "learning_rate": 1e-3}
    fields = [f.field for f in suggestions(asked, recommendation("t5"))]
    assert fields == ["warmup_steps"]
    assert suggestions({**asked, "optim": "adafactor"}, recommendation("t5")) == ()
