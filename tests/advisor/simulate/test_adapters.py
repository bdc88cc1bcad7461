"""What is trained beside frozen half weights: float32 under autocast, heads as well."""

import pytest

from advisor.plan import LoraSettings
from advisor.simulate.profile import Structure, canonical_config
from advisor.tasks import TASKS

torch = pytest.importorskip("torch")

from advisor.simulate.build import build_on_meta  # noqa: E402

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
ADAPTED = [task for task in TASKS.values() if task.recipes is not None]


def built(task, dtype, autocast):
    structure = Structure(
        config=canonical_config(LLAMA),
        task=task.slug,
        method="lora",
        lora=LoraSettings(),
        dtype=dtype,
        autocast=autocast,
    )
    return build_on_meta(structure, 2)


@pytest.mark.parametrize("task", ADAPTED, ids=lambda task: task.slug)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nothing_that_autocast_trains_is_half_precision(task, dtype):
    model = built(task, dtype, dtype)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, dtype)}


def test_without_autocast_a_head_has_the_dtype_of_what_it_is_given():
    task = next(task for task in ADAPTED if task.peft_type == "SEQ_CLS")
    heads = [p for name, p in built(task, "bfloat16", None).named_parameters() if ".score." in name]
    assert heads
    assert {p.dtype for p in heads} == {torch.bfloat16}
