"""Plan to arguments and back, and every refusal of the check."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from advisor import training_arguments
from advisor.arguments import (
    CONSTANTS,
    ONLY_WHEN_SET,
    arguments_for,
    check_arguments,
    plan_from_arguments,
    read_json,
    training_arguments_for,
)
from advisor.data import DataDescription
from advisor.errors import InputError, PlanError, UnknownNameError
from advisor.hardware.machine import Machine
from advisor.locale import Message, sentence
from advisor.model import ModelDescription
from advisor.plan import (
    Checkpointing,
    FsdpConfig,
    LigerKernels,
    LoraSettings,
    Quantization,
    TrainingPlan,
)
from advisor.recommendation import Advice, Recommendation

DATA = DataDescription(
    name="rows",
    path="/data/rows.jsonl",
    format="jsonl",
    columns=("text",),
    text_column="text",
    num_rows=1000,
    num_eval_rows=50,
    num_measured_rows=1050,
    lengths=(10, 20, 30),
    length_source="tokenizer",
    mean_tokens=20.0,
    p50_tokens=20,
    p95_tokens=30,
    p99_tokens=30,
    max_tokens=30,
)
MODEL = ModelDescription(
    name="tiny",
    path="/models/tiny",
    config={"model_type": "llama"},
    model_type="llama",
    architecture="LlamaForCausalLM",
    num_parameters=1000,
    has_weights=True,
    has_tokenizer=True,
)
LORA = LoraSettings(r=8, target_modules=("q_proj", "v_proj"))


def recommendation(plan, *, pins=(), advised=(), model=MODEL, data=DATA):
    def advice(field, value, pinned):
        source = "user" if pinned else "rule"
        return Advice(
            field=field, value=value, reason=Message(id="x"), source=source, pinned=pinned
        )

    return Recommendation(
        plan=plan,
        advice=tuple(advice(*p, True) for p in pins) + tuple(advice(*a, False) for a in advised),
        memory=None,
        time=None,
        alternatives=(),
        conflicts=(),
        machine=Machine(name="test"),
        model=model,
        data=data,
        versions={},
    )


def written(plan, **more):
    """The arguments as they come back from a file."""
    return json.loads(json.dumps(arguments_for(recommendation(plan, **more)), allow_nan=False))


def refusal(**changes):
    values = {**written(TrainingPlan()), **changes}
    with pytest.raises(InputError) as caught:
        check_arguments(values)
    return caught.value


# --- round trip ------------------------------------------------------------------------------


def _numbers(low, high):
    return st.floats(low, high, exclude_min=True, exclude_max=True, allow_subnormal=False)


@st.composite
def plans(draw):
    method = draw(st.sampled_from(["full", "lora", "qlora"]))
    dtypes = st.sampled_from(["float32", "bfloat16", "float16"])
    use_cpu = draw(st.booleans())
    precision = draw(st.sampled_from(["none", "bf16"] + ([] if use_cpu else ["fp16"])))
    dtype = draw(dtypes)
    assume(not (precision == "fp16" and dtype == "float16" and method == "full"))
    positive, workers = st.integers(1, 4096), draw(st.integers(0, 8))
    cadence = draw(st.sampled_from(["epochs", "steps"]))
    evaluate = draw(st.sampled_from(["no", "steps", "epoch"]))
    schedules = training_arguments.fields()["lr_scheduler_type"].choices
    schedule = draw(st.sampled_from(schedules))
    assume(evaluate != "no" or schedule not in ("reduce_lr_on_plateau", "greedy"))
    names = st.lists(st.sampled_from(["q_proj", "k_proj", "down_proj"]), min_size=1, unique=True)
    lora = st.builds(
        LoraSettings,
        r=positive,
        lora_alpha=positive,
        lora_dropout=st.sampled_from([0.0, 0.05]),
        target_modules=st.just("all-linear") | names.map(tuple),
        use_dora=st.booleans(),
        use_rslora=st.booleans(),
    )
    four = draw(st.booleans())
    quantization = st.builds(
        Quantization,
        load_in_4bit=st.just(four),
        load_in_8bit=st.just(not four),
        bnb_4bit_quant_type=st.sampled_from(["nf4", "fp4"]),
        bnb_4bit_use_double_quant=st.booleans(),
        bnb_4bit_compute_dtype=dtypes,
    )
    fsdp = draw(st.sampled_from([None, False] if use_cpu else [None, False, True]))
    configs = st.builds(
        FsdpConfig, reshard_after_forward=st.booleans(), activation_checkpointing=st.booleans()
    )
    sharding = draw(st.none() | configs) if fsdp else None
    return TrainingPlan(
        method=method,
        lora=None if method == "full" else draw(lora),
        quantization=draw(quantization) if method == "qlora" else None,
        dtype=dtype,
        attn_implementation=draw(st.sampled_from(["sdpa", "eager"])),
        max_length=draw(positive),
        attention_mask=draw(st.booleans()),
        devices=draw(st.integers(1, 8)),
        use_cpu=use_cpu,
        fsdp=fsdp,
        fsdp_config=sharding,
        ddp_bucket_cap_mb=draw(st.none() | st.integers(1, 100)),
        ddp_find_unused_parameters=draw(st.sampled_from([None, True, False])),
        per_device_train_batch_size=draw(positive),
        per_device_eval_batch_size=draw(positive),
        gradient_accumulation_steps=draw(positive),
        num_train_epochs=draw(_numbers(0, 100)) if cadence == "epochs" else None,
        max_steps=-1 if cadence == "epochs" else draw(st.integers(1, 10**6)),
        learning_rate=draw(_numbers(0, 1)),
        weight_decay=draw(_numbers(0, 1)),
        adam_beta1=draw(_numbers(0, 1)),
        adam_beta2=draw(_numbers(0, 1)),
        adam_epsilon=draw(_numbers(0, 1)),
        max_grad_norm=draw(_numbers(0, 10)),
        lr_scheduler_type=schedule,
        warmup_steps=draw(_numbers(0, 1000)),
        optim=draw(st.sampled_from(training_arguments.fields()["optim"].choices)),
        optim_args=draw(st.sampled_from([None, "rank=8,scale=0.5"])),
        optim_target_modules=draw(st.sampled_from([None, "all-linear", ("q_proj", "mlp")])),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        tf32=draw(st.sampled_from([None, True, False])),
        activation_checkpointing=draw(st.booleans()) and not (fsdp and sharding),
        logging_steps=draw(positive),
        eval_strategy=evaluate,
        eval_steps=draw(positive) if evaluate == "steps" else None,
        save_strategy=draw(st.sampled_from(["no", "steps", "epoch"])),
        save_steps=draw(positive),
        save_total_limit=draw(st.none() | st.integers(1, 5)),
        dataloader_num_workers=workers,
        dataloader_pin_memory=draw(st.booleans()),
        dataloader_prefetch_factor=draw(st.none() | st.integers(1, 8)) if workers else None,
        dataloader_persistent_workers=draw(st.booleans()) if workers else False,
        train_sampling_strategy=draw(st.sampled_from(["random", "sequential", "group_by_length"])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@settings(max_examples=150, deadline=None)
@given(plan=plans())
def test_plan_survives_the_arguments(plan):
    back = plan_from_arguments(
        written(plan), devices=plan.devices, attention_mask=plan.attention_mask
    )
    assert back == plan


@settings(max_examples=50, deadline=None)
@given(plan=plans())
def test_arguments_hold_every_field_of_the_plan_that_decides(plan):
    values = written(plan)
    for name in training_arguments.fields():
        if hasattr(plan, name) and name not in values:
            assert name in (
                "num_train_epochs",
                "dataloader_prefetch_factor",
                "activation_checkpointing_kwargs",
                *ONLY_WHEN_SET,
            )
    for name in ONLY_WHEN_SET:
        assert (name in values) == (getattr(plan, name) is not None)
    assert ("num_train_epochs" in values) == (plan.max_steps <= 0)
    assert ("dataloader_prefetch_factor" in values) == (plan.dataloader_num_workers > 0)
    assert not {"hub_token", "parallelism_config", "local_rank"} & set(values)
    assert not {"gradient_checkpointing", "metric_for_best_model"} & set(values)


def test_what_every_run_sets_is_written():
    values = written(TrainingPlan())
    assert {name: values[name] for name in CONSTANTS} == CONSTANTS
    assert values["do_eval"] is False
    assert written(TrainingPlan(eval_strategy="epoch"))["do_eval"] is True


def test_order_is_model_data_then_the_class():
    names = list(written(TrainingPlan()))
    assert names[0] == "model_name_or_path"
    assert names.index("task") < names.index("max_seq_length") < names.index("output_dir")
    training = [n for n in names if n in training_arguments.fields()]
    assert training == [n for n in training_arguments.fields() if n in training]


def test_checkpointing_is_not_reentrant():
    values = written(TrainingPlan(activation_checkpointing=True))
    assert values["activation_checkpointing_kwargs"] == {"use_reentrant": False}
    assert "activation_checkpointing_kwargs" not in written(TrainingPlan())


def test_a_model_without_weights_is_a_config_and_a_tokenizer():
    bare = dataclasses.replace(MODEL, has_weights=False)
    values = written(TrainingPlan(), model=bare)
    assert values["model_name_or_path"] is None
    assert values["config_name"] == values["tokenizer_name"] == MODEL.path
    config_only = dataclasses.replace(bare, has_tokenizer=False)
    assert written(TrainingPlan(), model=config_only)["tokenizer_name"] is None
    assert written(TrainingPlan())["model_name_or_path"] == MODEL.path


def test_the_revision_of_a_hub_model_is_written_beside_its_name():
    named = dataclasses.replace(MODEL, path="owner/name@v1", name="owner/name@v1")
    values = written(TrainingPlan(), model=named)
    assert (values["model_name_or_path"], values["model_revision"]) == ("owner/name", "v1")
    bare = written(TrainingPlan(), model=dataclasses.replace(named, has_weights=False))
    assert (bare["config_name"], bare["tokenizer_name"]) == ("owner/name", "owner/name")
    assert bare["model_revision"] == "v1"
    assert "model_revision" not in written(TrainingPlan())
    with pytest.raises(InputError, match="keep one of them") as caught:
        check_arguments({**values, "model_name_or_path": "owner/name@v2"})
    assert caught.value.field == "model_revision"


def test_evaluation_by_steps_always_says_which_steps():
    values = written(TrainingPlan(eval_strategy="steps", logging_steps=7))
    assert values["eval_steps"] == 7


def test_best_model_is_tracked_only_for_a_user_who_asked():
    plan = TrainingPlan(eval_strategy="steps", eval_steps=500)
    field = ("load_best_model_at_end", True)
    assert "load_best_model_at_end" not in written(plan, advised=[field])
    assert written(plan, pins=[field])["load_best_model_at_end"] is True


def test_fields_outside_the_plan_that_are_pinned_or_advised_are_written():
    pins = [
        ("label_smoothing_factor", 0.1),
        ("pad_to_multiple_of", 8),
        ("logging_first_step", False),
    ]
    values = written(TrainingPlan(), pins=pins, advised=[("dataloader_drop_last", True)])
    assert values["label_smoothing_factor"] == 0.1
    assert values["pad_to_multiple_of"] == 8
    assert values["logging_first_step"] is False
    assert values["dataloader_drop_last"] is True


def test_derived_pins_do_not_become_arguments():
    assert "effective_batch_size" not in written(TrainingPlan(), pins=[("effective_batch_size", 8)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hub_token", "hf_abcdefghijklmnopqrstuv"),
        ("local_rank", 1),
        ("parallelism_config", {"tp_size": 2}),
        ("run_name", "hf_abcdefghijklmnopqrstuv"),
    ],
)
def test_what_no_file_may_hold_is_refused_not_dropped(field, value):
    for write in (arguments_for, training_arguments_for):
        with pytest.raises(InputError) as caught:
            write(recommendation(TrainingPlan(), pins=[(field, value)]))
        assert caught.value.field == field
        assert "hf_abc" not in str(caught.value)


def test_no_plan_and_no_data_have_no_arguments():
    with pytest.raises(InputError, match="holds no plan"):
        arguments_for(recommendation(None))
    with pytest.raises(InputError, match="add --data"):
        arguments_for(recommendation(TrainingPlan(), data=None))
    assert training_arguments_for(recommendation(TrainingPlan(), data=None))["seed"] == 42


# --- arguments to plan -----------------------------------------------------------------------


def test_epochs_that_max_steps_overrules_do_not_come_back():
    values = {**written(TrainingPlan()), "max_steps": 10}
    assert plan_from_arguments(values).num_train_epochs is None


def test_a_cadence_given_as_a_share_becomes_steps_as_trainer_counts_them():
    values = {**written(TrainingPlan(num_train_epochs=1.0)), "logging_steps": 0.1}
    # 1000 rows in batches of 8: 125 steps, a tenth of them rounded up
    assert plan_from_arguments(values, num_rows=1000).logging_steps == 13
    with pytest.raises(InputError, match=r"logging_steps is a share.*give a whole number"):
        plan_from_arguments(values)


def test_padding_is_assumed_where_a_batch_has_more_than_one_row():
    values = written(TrainingPlan())
    assert plan_from_arguments(values).attention_mask is True
    assert plan_from_arguments({**values, "per_device_train_batch_size": 1}).attention_mask is False


@pytest.mark.parametrize(
    "how",
    [{"packing": True}, {"padding_free": True, "attn_implementation": "flash_attention_2"}],
)
def test_full_batches_go_there_and_back_without_a_mask(how):
    plan = TrainingPlan(per_device_train_batch_size=4, **how)
    values = written(plan)
    assert {n: values[n] for n in how} == how
    assert plan_from_arguments(values) == plan


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"packing": True, "padding_free": True}, "exclude each other"),
        ({"padding_free": True}, "needs attn_implementation flash_attention_2, got sdpa"),
        ({"packing": True, "attention_mask": True}, "attention_mask says"),
        ({"packing": True, "task": "text-classification"}, "for causal-lm alone"),
    ],
)
def test_how_batches_cannot_be_made_is_refused(changes, sentence):
    with pytest.raises(PlanError, match=sentence):
        TrainingPlan(**changes)
    if set(changes) <= {"packing", "padding_free"}:
        assert sentence in str(refusal(**changes))


def test_how_layers_are_checkpointed_goes_there_and_back():
    how = Checkpointing(every_n_layers=2, offload=True)
    plan = TrainingPlan(activation_checkpointing=True, activation_checkpointing_kwargs=how)
    values = written(plan)
    assert values["activation_checkpointing_kwargs"] == {
        "use_reentrant": False,
        "every_n_layers": 2,
        "offload": True,
    }
    assert plan_from_arguments(values).activation_checkpointing_kwargs == how


def test_ligers_choice_is_written_without_what_it_leaves_open():
    """Liger takes null for false."""
    chosen = LigerKernels(rope=False, swiglu=True)
    plan = TrainingPlan(use_liger_kernel=True, liger_kernel_config=chosen)
    values = written(plan)
    assert values["liger_kernel_config"] == {"rope": False, "swiglu": True}
    assert plan_from_arguments(values).liger_kernel_config == chosen
    assert "liger_kernel_config" not in written(TrainingPlan(use_liger_kernel=True))
    with pytest.raises(InputError, match="layernorm"):
        plan_from_arguments({**values, "liger_kernel_config": {"layernorm": True}})


@pytest.mark.parametrize(
    "extra",
    [
        {"torch_compile": True},
        {"fsdp": "full_shard auto_wrap"},
        {"fsdp": True, "fsdp_config": {"version": 1}},
        {"fsdp": True, "fsdp_config": {"fsdp_cpu_offload": True}},
        {"fsdp": True, "fsdp_config": "fsdp.json"},
        {"deepspeed": {"train_batch_size": 8}},
        {"attn_implementation": "flex_attention"},
        {
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": True},
        },
        {"save_strategy": "best"},
    ],
)
def test_arguments_outside_a_plan_are_refused_not_approximated(extra):
    values = {**written(TrainingPlan()), **extra}
    check_arguments(values)
    with pytest.raises(InputError):
        plan_from_arguments(values)


def test_liger_is_a_choice_of_the_plan():
    values = written(TrainingPlan(use_liger_kernel=True))
    assert values["use_liger_kernel"] is True
    assert plan_from_arguments(values).use_liger_kernel


def test_sharding_is_read_as_trainer_reads_it():
    values = written(TrainingPlan(devices=8))
    config = {"fsdp_reshard_after_forward": False, "state_dict_type": "SHARDED_STATE_DICT"}
    plan = plan_from_arguments({**values, "fsdp": True, "fsdp_config": config}, devices=8)
    assert plan.fsdp_config == FsdpConfig(reshard_after_forward=False)
    assert plan.is_sharded()
    assert not plan.is_replicated()
    unused = plan_from_arguments({**values, "fsdp_config": config}, devices=8)
    assert unused.fsdp_config is None
    assert unused.is_replicated()


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "learning_rate",
            "5e-5",
            'learning_rate must be a number, got the text "5e-5"; write 5e-05 without quotes.',
        ),
        (
            "bf16",
            "false",
            'got the text "false"; write false without quotes',
        ),
        ("bf16", "True", 'got the text "True"; write true without quotes'),
        ("bf16", 1, "must be true or false, got 1; write true."),
        ("learning_rate", True, "must be a number, got true; leave it out for the default, 5e-05."),
        ("per_device_train_batch_size", 0, "must be at least 1, got 0; leave it out"),
        ("per_device_train_batch_size", -1, "must be at least 1, got -1; leave it out"),
        ("per_device_train_batch_size", 4.5, "must be a whole number, got 4.5; leave it out"),
        ("per_device_train_batch_size", "8", "write 8 without quotes"),
        ("gradient_accumulation_steps", 0, "must be at least 1, got 0"),
        ("num_train_epochs", -1, "must be greater than 0, got -1"),
        ("learning_rate", -1, "must be greater than 0, got -1"),
        ("learning_rate", float("nan"), "must be finite, got nan"),
        ("learning_rate", float("inf"), "must be finite, got inf"),
        ("learning_rate", None, "must be a number, got null"),
        ("max_steps", 0, "must be -1 (off) or at least 1, got 0"),
        ("logging_steps", 2.5, "must be a share below 1 or a whole number, got 2.5"),
        ("logging_steps", 0, "must be a share below 1 or a whole number, got 0"),
        ("eval_strategy", "STEPS", 'got the text "STEPS"; write "steps".'),
        ("eval_strategy", "IntervalStrategy.STEPS", 'write "steps".'),
        ("optim", "adamw_hf", 'got the text "adamw_hf"; choose one of them'),
        ("report_to", None, 'write "none".'),
        ("debug", "underflow", "must be one of underflow_overflow, tpu_metrics_debug"),
        ("include_num_input_tokens_seen", "some", "or one of all, non_padding, no"),
        ("lora_target_modules", "q_proj", "must be a list of texts"),
        ("method", "prefix", "must be one of full, lora, qlora"),
        ("validation_split_percentage", 100, "must be in 1..99, got 100"),
        ("lr_scheduler_kwargs", 3, "must be a JSON object or text or null, got 3"),
    ],
)
def test_ill_typed_values_are_refused_with_what_got_and_do(name, value, sentence):
    error = refusal(**{name: value})
    assert error.field == name
    assert str(error).startswith(f"args.json: {name} ")
    assert sentence in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"bf16": True, "fp16": True}, "fp16", "bf16 and fp16 exclude each other"),
        ({"bf16_full_eval": True, "fp16_full_eval": True}, "fp16_full_eval", "exclude each other"),
        ({"fp16": True, "use_cpu": True}, "fp16", "silently does nothing with use_cpu"),
        ({"fsdp": True, "use_cpu": True}, "fsdp", "silently does nothing with use_cpu"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor", "above 0, got 0"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers", "above 0"),
        ({"lr_scheduler_type": "greedy"}, "lr_scheduler_type", "needs evaluation"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end", "needs equal strategies"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 300},
            "save_steps",
            "multiple of eval_steps, got 500 and 300",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.5},
            "save_steps",
            "multiple of eval_steps",
        ),
        ({"method": "qlora"}, "method", 'got method "qlora" and neither'),
        ({"load_in_4bit": True}, "method", 'got method "full" and load_in_4bit'),
        ({"config_name": "/x"}, "model_name_or_path", "got model_name_or_path and config_name"),
        ({"model_name_or_path": None}, "model_name_or_path", "got neither"),
        ({"train_file": None}, "train_file", "must be text, got null"),
    ],
)
def test_pairs_that_cannot_run_together_are_refused(changes, field, sentence):
    error = refusal(**changes)
    assert error.field == field
    assert sentence in str(error)


def test_pairs_that_can_run_together_pass():
    good = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.1}
    check_arguments({**written(TrainingPlan()), **good, "save_steps": 0.3})
    check_arguments({**written(TrainingPlan()), **good, "eval_steps": 250})
    check_arguments({**written(TrainingPlan()), **good, "save_strategy": "best"})
    check_arguments({**written(TrainingPlan()), "fsdp": True, "debug": "", "eval_delay": 0})


@pytest.mark.parametrize("name", training_arguments.RENAMED)
def test_names_of_earlier_releases_say_what_to_do(name):
    error = refusal(**{name: 1})
    assert error.field == name
    assert str(error).endswith(f"{sentence(training_arguments.RENAMED[name])}.")


def test_the_mirror_that_to_dict_writes_of_a_deprecated_name_passes():
    both = {"gradient_checkpointing": True, "activation_checkpointing": True, "local_rank": -1}
    check_arguments({**written(TrainingPlan()), **both, "hub_token": None})
    assert refusal(**{**both, "gradient_checkpointing": False}).field == "gradient_checkpointing"


def test_unknown_names_come_with_the_nearest():
    error = refusal(learning_rat=1e-4)
    assert isinstance(error, UnknownNameError)
    assert error.nearest[0] == "learning_rate"
    assert "did you mean learning_rate" in str(error)
    assert "remove it." in str(refusal(zzzzqqqq=1))


@pytest.mark.parametrize(
    "name", ["trust_remote_code", "TRUST_REMOTE_CODE", "trust-remote-code", "trustRemoteCode"]
)
def test_remote_code_is_refused_in_any_spelling_and_depth(name):
    assert "never runs code" in str(refusal(**{name: True}))
    assert "never runs code" in str(refusal(accelerator_config={name: False}))


@pytest.mark.parametrize(
    "name",
    ["hub_token", "hf_token", "push_to_hub_token", "access_token", "wandb_api_key", "password"],
)
def test_secrets_are_refused_and_not_repeated(name):
    error = refusal(**{name: "s3cr3t-value"})
    assert error.field == name
    assert "holds a secret" in str(error)
    assert "s3cr3t" not in str(error)
    nested = refusal(accelerator_config={"x": [{name: "s3cr3t-value"}]})
    assert "s3cr3t" not in str(nested)


def test_names_with_tokens_that_are_no_secrets_pass():
    fine = {"tokenizer_name": "/t", "average_tokens_across_devices": True}
    check_arguments({**written(TrainingPlan()), **fine, "label_names": ["token"]})


def test_training_only_takes_no_names_of_ours():
    values = training_arguments_for(recommendation(TrainingPlan()))
    check_arguments(values, training_only=True)
    with pytest.raises(UnknownNameError):
        check_arguments({**values, "train_file": "x"}, training_only=True)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\xef\xbb\xbf{}", "line 1, column 1: starts with a UTF-8 byte order mark"),
        (b'{"seed": 1,\n "bf16": tru}', "line 2, column 10: not JSON: Expecting value"),
        (b'{"seed": 1, "seed": 2}', "seed is given twice; keep one."),
        (b"[1]", "must hold a JSON object, got [1]"),
        (b'{"a": "\xff"}', "must be UTF-8, got byte 0xff at offset 7"),
        (b"", "line 1, column 1: not JSON"),
        (b"[" * 100_000, "recursion"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "limit"),
    ],
)
def test_unreadable_files_say_where(tmp_path, raw, sentence):
    path = tmp_path / "args.json"
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.json cannot be read: No such file"):
        read_json(tmp_path / "none.json")


# --- the real classes ------------------------------------------------------------------------

SAMPLE = {
    "sharded": TrainingPlan(
        devices=8, bf16=True, fsdp=True, fsdp_config=FsdpConfig(activation_checkpointing=True)
    ),
    "full on a CPU": TrainingPlan(
        use_cpu=True, bf16=True, eval_strategy="epoch", save_strategy="epoch", max_length=64
    ),
    "bf16 and tf32 on a GPU that is elsewhere": TrainingPlan(
        bf16=True, tf32=True, activation_checkpointing=True, warmup_steps=0.1
    ),
    "lora by steps": TrainingPlan(
        method="lora",
        lora=LORA,
        dtype="bfloat16",
        max_steps=100,
        num_train_epochs=None,
        eval_strategy="steps",
        eval_steps=10,
        logging_steps=10,
    ),
    "qlora": TrainingPlan(
        method="qlora",
        lora=LoraSettings(),
        quantization=Quantization(load_in_4bit=True),
        fp16=True,
        dtype="float16",
        optim="paged_adamw_8bit",
        lr_scheduler_type="cosine",
    ),
    "workers": TrainingPlan(
        use_cpu=True,
        dataloader_num_workers=2,
        dataloader_prefetch_factor=4,
        dataloader_persistent_workers=True,
        train_sampling_strategy="group_by_length",
        save_total_limit=2,
    ),
}

SCRIPT = """
import json, sys
from pathlib import Path
from advisor import arguments, records
from advisor.errors import InputError
from transformers import HfArgumentParser, TrainingArguments

def attempt(call, *args):
    try:
        return {"value": call(*args)}
    except InputError as error:
        return {"error": str(error), "field": error.field}

def parsed(path):
    three = arguments.parse_arguments(Path(path))
    return arguments.plan_from_arguments(three, devices=1, attention_mask=False).to_dict()

job, results = json.load(sys.stdin), {}
for name, case in job["verify"].items():
    results[name] = attempt(arguments.verify, case["arguments"], case["format"])
for name, path in job["parse"].items():
    results[name] = attempt(parsed, path)
for name, (whole, part) in job["equal"].items():
    three = HfArgumentParser(
        (arguments.ModelArguments, arguments.DataArguments, TrainingArguments)
    ).parse_dict(whole)
    results[name] = {"value": three[2].to_dict() == TrainingArguments(**part).to_dict()}
help_text = HfArgumentParser((arguments.ModelArguments, arguments.DataArguments)).format_help()
results["help"] = {"value": help_text}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """What the installed transformers makes of our output, from one process of its own."""
    folder = tmp_path_factory.mktemp("arguments")
    job = {"verify": {}, "parse": {}, "equal": {}}
    for name, plan in SAMPLE.items():
        whole = written(plan)
        part = training_arguments_for(recommendation(plan))
        job["verify"][f"{name}, hf-json"] = {"arguments": whole, "format": "hf-json"}
        job["verify"][f"{name}, training-arguments-json"] = {
            "arguments": part,
            "format": "training-arguments-json",
        }
        path = folder / f"{len(job['parse'])}.json"
        path.write_text(json.dumps(whole), encoding="utf-8")
        job["parse"][name] = str(path)
        if plan.use_cpu or not (plan.bf16 or plan.tf32):
            job["equal"][f"{name}, equal"] = (whole, part)
    base = written(TrainingPlan(use_cpu=True))
    job["verify"]["changed"] = {
        "arguments": {**base, "output_dir": "~/checkpoints"},
        "format": "hf-json",
    }
    job["verify"]["no such format"] = {"arguments": base, "format": "yaml"}
    job["verify"]["refused"] = {
        "arguments": {**base, "fsdp_config": "/no/such.json", "use_cpu": False, "torch_compile": 1},
        "format": "hf-json",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=False,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("format_name", ["hf-json", "training-arguments-json"])
@pytest.mark.parametrize("name", SAMPLE)
def test_exports_parse_back_to_what_was_written(real, name, format_name):
    assert real[f"{name}, {format_name}"] == {"value": None}


def test_a_field_that_the_class_changes_is_named(real):
    assert real["changed"]["field"] == "output_dir"
    assert "was written as" in real["changed"]["error"]
    assert real["refused"]["field"] == "torch_compile"
    assert real["no such format"]["field"] == "format"


@pytest.mark.parametrize("name", ["full on a CPU", "lora by steps", "workers"])
def test_training_arguments_alone_equal_those_of_the_whole_file(real, name):
    assert real[f"{name}, equal"] == {"value": True}


@pytest.mark.parametrize("name", ["full on a CPU", "workers"])
def test_parsed_arguments_give_the_plan_back(real, name):
    plan = SAMPLE[name].replace(dataloader_pin_memory=False)  # what use_cpu makes of it
    assert real[name]["value"] == json.loads(json.dumps(plan.to_dict()))


def test_what_this_machine_cannot_do_is_one_sentence(real):
    assert real["qlora"]["field"] == "fp16"
    assert (
        "refused by transformers on this machine"
        in (real["bf16 and tf32 on a GPU that is elsewhere"]["error"])
    )


def test_help_of_the_real_parser_lists_our_fields(real):
    assert "--train_file" in real["help"]["value"]
    assert "--lora_target_modules" in real["help"]["value"]
