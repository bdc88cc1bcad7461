"""Field specs: order, text of values, options."""

import pytest

from advisor.plan import TrainingPlan
from app import forms


def test_rows_keep_their_order_whatever_the_advice_is_sorted_by(records):
    advice = records.recommendation().advice
    forward, backward = forms.ordered(advice), forms.ordered(advice[::-1])
    assert [a.field for a in forward[0]] == [a.field for a in backward[0]]
    assert [a.field for a in forward[0]][:2] == ["method", "effective_batch_size"]


def test_no_row_is_lost(records):
    advice = records.recommendation().advice
    main, rest = forms.ordered(advice)
    assert sorted(a.field for a in (*main, *rest)) == sorted(a.field for a in advice)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("learning_rate", 2e-5, "2e-5"),
        ("warmup_steps", 0.03, "3 %"),
        ("warmup_steps", 40.0, "40"),
        ("max_length", 2048, "2,048"),
        ("activation_checkpointing", False, "off"),
        ("eval_steps", None, "none"),
        ("method", "lora", "LoRA"),
        ("optim", "something_else", "something_else"),
        ("lora.target_modules", ("q_proj", "v_proj"), "q_proj, v_proj"),
        ("a_field_of_tomorrow", 3, "3"),
    ],
)
def test_values_read_as_people_write_them(name, value, text):
    assert forms.format_value(name, value, "en") == text


def test_micro_batch_shows_its_accumulation():
    plan = TrainingPlan(per_device_train_batch_size=2, gradient_accumulation_steps=32)
    assert forms.format_value("per_device_train_batch_size", 2, "en", plan) == "2 \u00d7 32"
    assert forms.format_value("per_device_train_batch_size", 2, "en") == "2"


def test_every_plan_field_with_an_editor_exists():
    """A renamed plan field must not leave an editor behind that pins nothing."""
    plan = set(TrainingPlan.__dataclass_fields__) | {"effective_batch_size"}
    assert {n for n in forms.FIELDS if "." not in n} <= plan


@pytest.mark.parametrize(
    ("longest", "context", "current", "options"),
    [
        (1986, 4096, 2048, [64, 128, 256, 512, 1024, 2048]),
        (1986, 1024, 1000, [64, 128, 256, 512, 1000, 1024]),
        (40, None, 64, [64]),
    ],
)
def test_length_options_end_at_the_longest_row_or_the_context(longest, context, current, options):
    assert forms.length_options(longest, context, current) == options
