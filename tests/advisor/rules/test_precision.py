"""Dtypes follow the card and what the model's activations need."""

import dataclasses

import pytest

from advisor.hardware.catalogue import machine_from_name
from advisor.rules import precision
from advisor.rules.facts import Facts
from tests.advisor.fakes import model


def facts(card, kind="llama"):
    described = dataclasses.replace(model(3e8), model_type=kind)
    return Facts(machine=machine_from_name(card), model=described, data=None, task="causal-lm")


@pytest.mark.parametrize(
    ("card", "kind", "dtype"),
    [
        ("A100-SXM4-80GB", "gemma2", "bfloat16"),
        ("Tesla T4", "llama", "float16"),
        ("Tesla T4", "gemma2", "float32"),
        ("Tesla T4", "t5", "float32"),
        ("GTX 1660 Ti", "llama", "float32"),
        ("GTX 1080", "llama", "float32"),
    ],
)
def test_quantised_layers_compute_in_what_is_fast_and_does_not_overflow(card, kind, dtype):
    asked = facts(card, kind)
    assert precision.quantization(asked).bnb_4bit_compute_dtype == dtype
    assert precision.values(asked, "qlora")["fp16"] == (dtype == "float16")
