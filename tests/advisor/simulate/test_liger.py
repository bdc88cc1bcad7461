"""Liger's operators allocate what liger-kernel 0.8.5 does: bytes worked out from its source."""

import dataclasses

import numpy as np
import pytest

from advisor.errors import PlanError, SimulationError
from advisor.plan import LigerKernels, LoraSettings, TrainingPlan
from advisor.simulate import replay, temporaries
from advisor.simulate.fit import fit
from advisor.simulate.profile import Sharding, Structure, canonical_config
from advisor.simulate.profile import structure_of as of_plan
from advisor.simulate.trace import MARK

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
AUTOCAST = {"dtype": "float32", "autocast": "bfloat16"}


def structure_of(**values):
    config = {**CONFIG, "model_type": values.pop("model_type", "llama")}
    asked = {"dtype": "bfloat16", "compute_capability": (8, 0), "use_liger_kernel": True, **values}
    return Structure(config=canonical_config(config), **asked)


def record(structure, *, depth=2, batch=2, length=96):
    from advisor.simulate.step import record

    return record(structure, depth=depth, batch=batch, length=length)


def profile_of(structure, depth=2):
    def trace(depth, batch, length):
        return record(structure, depth=depth, batch=batch, length=length)

    return fit(trace, depth=depth, replicate=depth > 4, single_row=False)


def births_of(run, capability=(8, 0), autocast=None):
    """Bytes born while `run(recorder, *run(None))` runs on fake tensors; run(None) makes inputs."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from advisor.simulate.trace import Recorder

    recorder = Recorder(capability)
    recorder.phase = "forward"
    dtype = torch.bfloat16 if autocast is None else getattr(torch, autocast)
    with (
        FakeTensorMode(),
        torch.autocast("cpu", dtype=dtype, enabled=autocast is not None),
    ):
        tensors = run(None)
        for tensor in tensors:
            recorder.track(tensor, "input")
        with recorder:
            result = run(recorder, *tensors)
            made = recorder.trace.allocations[len(tensors) :]
            del result
    return [a.num_bytes for a in made if "cublas" not in a.op]


def loss_births(dtype, *, trained=True, with_input=True, **values):
    """Of the loss of 256 tokens, 64 wide, over 512 words: 8 chunks of 32 tokens."""
    import torch

    from advisor.simulate.liger_loss import FusedLinearCrossEntropy

    def run(recorder, *tensors):
        if recorder is None:
            x = torch.empty(256, 64, dtype=dtype, requires_grad=with_input)
            weight = torch.empty(512, 64, dtype=dtype, requires_grad=trained)
            return x, weight, torch.zeros(256, dtype=torch.long)
        return FusedLinearCrossEntropy.apply(*tensors, recorder)

    return births_of(run, **values)


def test_a_chunk_has_the_tokens_whose_logits_weigh_what_the_hidden_states_do():
    def rows(*sizes):
        return temporaries.liger_chunk(*sizes, 1)[0]

    assert rows(16384, 32000, 4096, 0) == 2048  # the example in the source
    assert rows(16384, 32000, 4096, 1) == 2048
    assert rows(1000, 512, 64, 0) == 128  # 125, rounded up to a power of two
    assert rows(1000, 512, 64, 7) == 104
    assert rows(1000, 64, 64, 0) == 1000
    assert rows(1000, 64, 64, 1) == 0


def test_half_weights_write_every_product_where_it_belongs():
    import torch

    always = [256 * 64 * 2, 256 * 4, 256, 8, 32 * 512 * 2, 4]
    trained = [always[0], 512 * 64 * 2, *always[1:]]
    assert loss_births(torch.bfloat16) == trained
    assert loss_births(torch.bfloat16, trained=False) == always
    assert loss_births(torch.bfloat16, with_input=False) == always


def test_before_ampere_the_weights_gradient_comes_through_a_float32_copy():
    import torch

    first = [256 * 64 * 2, 512 * 64 * 2, 256 * 4, 256, 8, 32 * 512 * 2]
    copies = [512 * 64 * 2, 512 * 64 * 4]
    assert loss_births(torch.float16, capability=(7, 5)) == [*first, *copies, *copies, 4]


def test_autocast_copies_the_chunk_each_time_and_a_trained_weight_twice():
    import torch

    weight, chunk, logits = 512 * 64 * 2, 32 * 64 * 2, 32 * 512 * 2
    first = [256 * 64 * 4, 512 * 64 * 4, 256 * 4, 256, 8]
    products = [weight, chunk, logits]
    assert loss_births(torch.float32, autocast="bfloat16") == [
        *first, *products, weight, chunk, chunk, *products, chunk, chunk, 4,
    ]  # fmt: skip
    frozen = [*products, weight, chunk]
    assert loss_births(torch.float32, autocast="bfloat16", trained=False) == [
        first[0], *first[2:], *frozen, *frozen, 4,
    ]  # fmt: skip


def test_the_loss_of_logits_makes_its_gradient_in_them():
    """Granite scales its logits, so that they are there: no log-probabilities beside them."""
    import torch

    from advisor.simulate.liger_loss import CrossEntropy

    def run(recorder, *tensors):
        if recorder is None:
            logits = torch.empty(192, 512, requires_grad=True)
            return logits, torch.zeros(192, dtype=torch.long)
        loss = CrossEntropy.apply(*tensors, recorder)
        return torch.autograd.grad(loss, tensors[0])

    assert max(births_of(run)) == 192 * 8  # of the labels
    logits = 2 * 96 * 512 * 4
    made = [a.num_bytes for a in record(structure_of(model_type="granite")).allocations]
    without = structure_of(model_type="granite", use_liger_kernel=False)
    usual = [a.num_bytes for a in record(without).allocations]
    assert made.count(logits) == 2  # the float32 copy of each of two steps
    # else beside it the log-probabilities, and the gradients of both
    assert usual.count(logits) == 4 * made.count(logits)


@pytest.mark.parametrize("overwrites", [True, False])
def test_a_norm_keeps_a_number_a_row_and_may_overwrite_the_gradient(overwrites):
    import torch

    from advisor.simulate.liger import MOST_PROCESSORS, _RMSNorm

    def run(recorder, *tensors):
        if recorder is None:
            x, y = (torch.empty(2, 96, 64, dtype=torch.bfloat16) for _ in range(2))
            weight = torch.empty(64, dtype=torch.bfloat16, requires_grad=True)
            return x.requires_grad_(), weight, y
        x, weight, gradient = tensors
        y = _RMSNorm.apply(x, weight, recorder, overwrites)
        return torch.autograd.grad(y, (x, weight), gradient)

    size = 2 * 96 * 64 * 2
    made = [] if overwrites else [size]
    assert births_of(run) == [size, 192 * 4, MOST_PROCESSORS * 64 * 4, *made, 64 * 4, 64 * 2]


def test_the_gated_product_and_rope_overwrite_what_they_got():
    import torch

    from advisor.simulate.liger import _GatedProduct, _Rope

    def gated(recorder, *tensors):
        if recorder is None:
            gate, up, gradient = (torch.empty(2, 96, 160) for _ in range(3))
            return gate.requires_grad_(), up.requires_grad_(), gradient
        gate, up, gradient = tensors
        return torch.autograd.grad(_GatedProduct.apply(gate, up, recorder), (gate, up), gradient)

    assert births_of(gated) == [2 * 96 * 160 * 4]

    def rope(recorder, *tensors):
        if recorder is None:
            q, k = (torch.empty(2, 96, n, 16, requires_grad=True).transpose(1, 2) for n in (4, 2))
            return q, k, torch.empty(1, 96, 16), torch.empty(1, 96, 16)
        return _Rope.apply(*tensors, recorder)

    assert births_of(rope) == []


@pytest.mark.parametrize(
    ("values", "depth"),
    [(AUTOCAST, 2), ({"evaluates": True}, 2), ({"activation_checkpointing": True}, 6)],
    ids=str,
)
def test_at_an_unseen_shape_the_profile_is_the_trace(values, depth):
    structure = structure_of(**values)
    profile = profile_of(structure, depth)
    trace = record(structure, depth=depth, batch=3, length=501)
    program = profile.program(depth)
    sizes = profile.sizes(3, 501, depth)[program.template]
    events = [e for e in trace.events if e < MARK]
    real = np.array([a.num_bytes for a in trace.allocations])
    slots = np.where(program.events >= 0, program.events, -program.events - 1)
    replayed = np.where(program.events >= 0, 1, -1) * sizes[slots]
    assert replayed.tolist() == [int(real[e]) if e >= 0 else -int(real[-e - 1]) for e in events]


@pytest.mark.parametrize(
    "model_type",
    [
        *("gemma", "gemma2", "gemma3_text", "granite", "mistral", "olmo2", "phi3", "qwen2"),
        *("qwen3", "smollm3"),
    ],
)
def test_every_model_type_that_was_read_takes_less(model_type):
    attention = "eager" if model_type == "gemma2" else "sdpa"
    with_liger = structure_of(model_type=model_type, attn_implementation=attention)
    without = dataclasses.replace(with_liger, use_liger_kernel=False)
    assert highest(record(with_liger)) < highest(record(without))


def highest(trace):
    real = [a.num_bytes for a in trace.allocations]
    changes = [real[e] if e >= 0 else -real[-e - 1] for e in trace.events if e < MARK]
    return max(np.cumsum(changes))


OFF = {
    "rope": False,
    "rms_norm": False,
    "swiglu": False,
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}


def born_bytes(structure):
    return [(a.op, a.num_bytes) for a in record(structure).allocations]


def test_with_every_operator_off_the_step_is_the_one_without_liger():
    off = structure_of(liger_kernels=LigerKernels(**OFF))
    assert born_bytes(off) == born_bytes(dataclasses.replace(off, use_liger_kernel=False))


@pytest.mark.parametrize("name", ["rope", "rms_norm", "swiglu", "fused_linear_cross_entropy"])
def test_each_operator_has_its_switch(name):
    without = structure_of(liger_kernels=LigerKernels(**OFF))
    alone = structure_of(liger_kernels=LigerKernels(**{**OFF, name: True}))
    assert born_bytes(alone) != born_bytes(without)
    unknown_to_llama = structure_of(liger_kernels=LigerKernels(geglu=False))
    assert born_bytes(unknown_to_llama) == born_bytes(structure_of())


def test_the_plan_hands_its_choice_on_where_liger_is_on():
    chosen = LigerKernels(rope=False)
    plan = TrainingPlan(use_liger_kernel=True, liger_kernel_config=chosen)
    assert of_plan(plan, CONFIG, (8, 0)).liger_kernels == chosen
    off = plan.replace(use_liger_kernel=False)
    assert of_plan(off, CONFIG, (8, 0)) == of_plan(TrainingPlan(), CONFIG, (8, 0))
    assert TrainingPlan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    ("model_type", "given"),
    [
        ("llama", {"cross_entropy": True}),
        ("granite", {"cross_entropy": False, "fused_linear_cross_entropy": True}),
    ],
)
def test_losses_that_liger_refuses_are_unknown(model_type, given):
    with pytest.raises(SimulationError, match="cross_entropy"):
        record(structure_of(model_type=model_type, liger_kernels=LigerKernels(**given)))


def test_adapters_and_the_evaluation_go_with_it():
    full = replay.live(profile_of(structure_of()), 4, 256, 2).allocated
    adapters = structure_of(method="lora", lora=LoraSettings(r=4, target_modules=("q_proj",)))
    assert replay.live(profile_of(adapters), 4, 256, 2).allocated < full
    evaluation = structure_of().evaluation(4)
    assert evaluation.use_liger_kernel
    logits = 4 * 256 * 512 * 2
    assert logits not in [a.num_bytes for a in record(evaluation, batch=4, length=256).allocations]


def test_the_answer_names_the_version_that_was_read():
    (note,) = record(structure_of()).notes
    assert "liger-kernel 0.8.5" in note
    assert "never measured" in note


def test_the_module_is_as_it_was_afterwards():
    import torch
    from transformers.models.llama import modeling_llama

    before = modeling_llama.apply_rotary_pos_emb, torch.nn.functional.cross_entropy
    record(structure_of())
    record(structure_of(model_type="granite"))
    assert (modeling_llama.apply_rotary_pos_emb, torch.nn.functional.cross_entropy) == before


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"device": "cpu", "compute_capability": None}, "7.0"),
        ({"compute_capability": (6, 1)}, "7.0"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"task": "text-classification"}, "causal-lm"),
        ({"sharding": Sharding(devices=2)}, "FSDP2"),
    ],
)
def test_what_was_not_read_is_unknown(values, reason):
    with pytest.raises(SimulationError, match=reason):
        record(structure_of(**values))


def test_a_cpu_has_no_liger():
    assert TrainingPlan(use_liger_kernel=True).to_dict()["use_liger_kernel"] is True
    with pytest.raises(PlanError, match="needs a GPU"):
        TrainingPlan(use_liger_kernel=True, use_cpu=True)
