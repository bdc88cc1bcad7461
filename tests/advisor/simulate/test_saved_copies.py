"""What a save copies on the device: which models do, how much, and the verdict that follows."""

import dataclasses
from collections import Counter

import pytest
import torch

from advisor.hardware.catalogue import machine_from_name
from advisor.peaks import Asked, on_gpu
from advisor.plan import LoraSettings, TrainingPlan
from advisor.simulate import replay, saved_copies
from advisor.simulate.build import build_on_meta, hf_config
from advisor.simulate.fit import fit
from advisor.simulate.profile import Profile, Structure, canonical_config
from advisor.simulate.step import record
from advisor.spec import answer
from tests.advisor.simulate.architectures import CASES

EXPERTS, WIDTH, INNER, LAYERS = 8, 64, 512, 6
MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 512,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
}
HALF = EXPERTS * INNER * WIDTH * 4
"""Bytes of the gate (or up) projections of a layer in float32."""


def structure(**values):
    values = {"compute_capability": (8, 0)} | values
    return Structure(config=canonical_config(MIXTRAL), **values)


@pytest.mark.parametrize(("model_type", "copies"), [("llama", False), ("mixtral", True)])
def test_they_are_what_the_real_conversion_makes(model_type, copies):
    """What `save_pretrained` does to the state dict of a model with real weights."""
    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    model = AutoModelForCausalLM.from_config(hf_config(CASES[model_type][1]))
    own = {p.untyped_storage().data_ptr() for p in model.state_dict().values()}
    saved = revert_weight_conversion(model, model.state_dict())
    new = [t for t in saved.values() if t.untyped_storage().data_ptr() not in own]
    made = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in new}
    fused = [p for name, p in model.named_parameters() if "gate_up_proj" in name and p.dim() == 3]
    assert sum(made.values()) == sum(p.numel() * p.itemsize for p in fused)
    assert bool(made) == copies
    asked = Structure(config=canonical_config(CASES[model_type][1]), device="cpu")
    assert Counter(saved_copies.made_by_save(build_on_meta(asked, 2))) == Counter(made.values())


def test_a_save_allocates_just_the_copies():
    """No temporary beside them: the most that is live is their sum."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers.core_model_loading import revert_weight_conversion

    born = []

    class Births(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.clone.default:
                born.append(result.untyped_storage().nbytes())
            else:
                assert func.is_view, func
            return result

    model = build_on_meta(structure(), 2)
    state = model.state_dict()
    with Births():
        revert_weight_conversion(model, state)
    assert born == [HALF] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora", "lora": LoraSettings(r=4)},
        {"separate_experts": True},
        {"evaluates": True},
    ],
)
def test_what_saves_no_fused_weight_copies_none(changes):
    assert saved_copies.by_size(structure(**changes), 4, growing=True) == ()
    assert saved_copies.by_size(structure(), 4, growing=True) == ((HALF, 8, 2),)
    assert saved_copies.by_size(structure(), 4, growing=False) == ((HALF, 8, 0),)


@pytest.fixture(scope="module")
def profile():
    asked = structure()
    found = fit(
        lambda depth, batch, length: record(asked, depth=depth, batch=batch, length=length),
        depth=LAYERS,
        replicate=True,
        single_row=False,
    )
    assert found.replicated
    copies = saved_copies.by_size(asked, found.traced_depth, growing=True)
    return dataclasses.replace(found, copies=copies)


def test_a_profile_knows_them_for_every_depth(profile, tmp_path):
    assert profile.copies_at_save(LAYERS).tolist() == [HALF] * 2 * LAYERS
    profile.save(tmp_path / "p.npz")
    again = Profile.load(tmp_path / "p.npz")
    assert again.copies_at_save(40).tolist() == [HALF] * 80


def test_they_come_on_top_of_what_a_step_leaves(profile):
    """Copies of 1 MiB are of the small pool, gradients of 2 MiB were not: no freed block is fit."""
    shape = (profile, 1, 64, LAYERS)
    without, found = (replay.on_cuda(*shape, saves=saves) for saves in (False, True))
    assert "save" not in without.occasions
    assert (without.allocated, without.reserved) == (found.allocated, found.reserved)
    more = found.occasions["save"] - found.reserved
    assert 0 < more <= 2 * LAYERS * HALF
    program = profile.program(LAYERS)
    sizes = profile.sizes(1, 64, LAYERS)[program.template]
    left = program.deltas((sizes + 511) // 512 * 512).sum()
    live = replay.live(*shape, saves=True)
    assert live.occasions["save"] == left + 2 * LAYERS * HALF
    assert live.occasions["save"] <= found.occasions["save"]


def test_larger_ones_take_the_place_of_gradients(profile):
    large = dataclasses.replace(profile, copies=((2 * HALF, 4, 1),))
    found = replay.on_cuda(large, 1, 64, LAYERS, saves=True)
    assert found.occasions["save"] == found.reserved


def test_malloc_keeps_them_too(profile):
    before, after = (replay.resident(profile, 1, 64, LAYERS, saves=s) for s in (False, True))
    assert before <= after <= before + 2 * LAYERS * HALF
    many = dataclasses.replace(profile, copies=((HALF, 400, 0),))
    least = 400 * HALF + replay.live(profile, 1, 64, LAYERS, saves=False).occasions["load"]
    assert replay.resident(many, 1, 64, LAYERS, saves=True) >= least


@pytest.mark.parametrize("saves", [False, True])
def test_the_verdict_follows_the_save(profile, saves):
    """On a card with room for the step and not for the copies after it."""
    gpu = machine_from_name("Tesla T4").accelerator()
    plan = TrainingPlan(per_device_train_batch_size=1, max_length=64)
    asked = Asked(profile=profile, batch=1, length=64, depth=LAYERS, plan=plan, saves=saves)
    step = on_gpu(dataclasses.replace(asked, saves=False), gpu).interval["process_bytes"][1]
    found = on_gpu(asked, dataclasses.replace(gpu, free_bytes=round(step * 1.045)))
    assert ("save" in found.occasions) == saves
    if saves:
        assert found.occasions["save"] > found.process_bytes
    assert (found.verdict == "fits") != saves


@pytest.mark.full
def test_an_answer_counts_them(worker):
    found, none = (
        answer(
            {
                "model": {"config": MIXTRAL},
                "plan": {"task": "causal-lm", "max_length": 64, "save_strategy": "no", **method},
                "machine": {"accelerator": "Tesla T4", "count": 1},
            },
            worker=worker,
        )
        for method in ({"method": "full"}, {"method": "lora", "lora": {"r": 4}})
    )
    assert found["occasions"]["save"] >= found["process_bytes"]
    assert any("copies on the device, 0.01 GiB" in said for said in found["assumptions"])
    assert "save" not in none["occasions"]
    assert not any("copies" in said for said in none["assumptions"])
