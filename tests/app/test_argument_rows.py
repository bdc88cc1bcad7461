"""Rows of the Arguments page, and what somebody types into one."""

import pytest

from advisor import own_arguments, training_arguments
from advisor.arguments import arguments_for
from advisor.errors import InputError
from advisor.locale import LANGUAGES
from advisor.recommend import Question
from app import argument_rows
from app.texts import t


@pytest.fixture
def every(records):
    def make(lang="en", **question):
        asked = Question(**question)
        found = records.recommendation(asked)
        return argument_rows.rows(found, arguments_for(found), asked, lang)

    return make


def named(rows, name):
    return next(row for row in rows if row.name == name)


def test_every_field_of_the_three_classes_is_a_row(every):
    names = [row.name for row in every()]
    assert names == [*own_arguments.fields(), *training_arguments.fields()]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_group_has_a_name(every, lang):
    for row in every(lang):
        name = argument_rows.group_name(row.field.group, lang)
        assert name
        assert lang == "en" or name != row.field.group or " " not in name


@pytest.mark.parametrize(
    "name",
    ["hub_token", "parallelism_config", "local_rank", "gradient_checkpointing", "train_file",
     "model_name_or_path", "load_in_4bit", "pad_to_multiple_of"],
)  # fmt: skip
def test_what_is_not_set_here_says_why(every, name):
    row = named(every(), name)
    assert row.pin is None
    assert row.why


@pytest.mark.parametrize("name", ["text_column", "text_column_names", "label_column_name"])
def test_columns_are_set_with_the_data(every, name):
    assert named(every(), name).why == t("arguments.locked.question", "en")


def test_pins_and_changes_are_marked(every):
    rows = every(pins={"learning_rate": 1e-3, "report_to": "tensorboard"})
    assert [r.name for r in argument_rows.chosen(rows, show="pinned")] == [
        "learning_rate",
        "report_to",
    ]
    assert named(rows, "report_to").value == "tensorboard"
    assert named(rows, "report_to").changed
    changed = {r.name for r in argument_rows.chosen(rows, show="changed")}
    assert "lr_scheduler_type" in changed
    assert "adam_beta1" not in changed


def test_search_looks_at_names_values_and_help(every):
    rows = every()
    assert "warmup_steps" in {r.name for r in argument_rows.chosen(rows, search="WARMUP")}
    assert "max_grad_norm" in {r.name for r in argument_rows.chosen(rows, search="clip")}
    assert argument_rows.chosen(rows, search="nothing has this") == ()
    group = argument_rows.chosen(rows, group="Mixed Precision")
    assert {r.field.group for r in group} == {"Mixed Precision"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("max_seq_length", "512", 512),
        ("bf16", "true", True),
        ("bf16", "False", False),
        ("run_name", "7", "7"),
        ("report_to", '["wandb"]', ["wandb"]),
        ("save_total_limit", "null", None),
        ("lora_r", "8", 8),
        ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
        ("warmup_steps", "0.1", 0.1),
    ],
)
def test_what_is_typed_becomes_a_value(every, name, text, value):
    assert argument_rows.parse(named(every(), name), text) == value


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("learning_rate", "fast", "must be a number"),
        ("learning_rate", "0", "greater than 0"),
        ("per_device_train_batch_size", "2.5", "must be a whole number"),
        ("seed", "-1", "must be in"),
        ("optim", "magic", "must be one of"),
        ("run_name", "hf_abcdefghijklmnopqrst", "a secret"),
    ],
)
def test_what_cannot_be_held_is_refused_beside_the_field(every, name, text, sentence):
    with pytest.raises(InputError, match=sentence):
        argument_rows.parse(named(every(), name), text)


def test_choices_are_those_of_the_class(every):
    assert argument_rows.kinds(named(every(), "eval_strategy").field) == ("no", "steps", "epoch")
    assert argument_rows.kinds(named(every(), "tf32").field) == (True, False, None)
    assert argument_rows.kinds(named(every(), "learning_rate").field) is None
