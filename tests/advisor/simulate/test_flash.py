"""flash_attention_2 saves what PyTorch's own flash kernel saves, and refuses what it refuses."""

import pytest

from advisor.errors import SimulationError
from advisor.plan import LoraSettings, TrainingPlan
from advisor.row_borders import ROWS_APART
from advisor.simulate import replay
from advisor.simulate.fit import fit
from advisor.simulate.profile import Structure, canonical_config, structure_of

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def peak(**values):
    from advisor.simulate.step import record

    asked = {"dtype": "bfloat16", "compute_capability": (8, 0), **values}
    config = {**CONFIG, "model_type": asked.pop("model_type", "llama")}
    structure = Structure(config=canonical_config(config), **asked)

    def trace(depth, batch, length):
        return record(structure, depth=depth, batch=batch, length=length)

    profile = fit(trace, depth=2, replicate=False, single_row=False)
    return replay.live(profile, 4, 256, 2).allocated


def test_without_a_mask_it_costs_what_sdpa_costs():
    flash = peak(attn_implementation="flash_attention_2")
    assert flash == pytest.approx(peak(attn_implementation="sdpa"), rel=0.02)
    assert flash < 0.8 * peak(attn_implementation="eager")


def test_a_padded_batch_is_unpadded_and_needs_no_square_mask():
    padded = peak(attn_implementation="flash_attention_2", padded=True)
    assert padded > peak(attn_implementation="flash_attention_2")  # the unpadded copies
    assert padded < peak(attn_implementation="eager", padded=True)


def test_adapters_and_autocast_go_with_it():
    assert peak(
        attn_implementation="flash_attention_2", method="lora", lora=LoraSettings(r=4)
    ) < peak(attn_implementation="flash_attention_2", dtype="float32", autocast="bfloat16")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"compute_capability": (7, 5)}, "8.0"),
        ({"device": "cpu", "compute_capability": None}, "8.0"),
        ({"dtype": "float32"}, "16 bits"),
        ({"model_type": "xglm"}, "no (flash|sdpa) attention"),
    ],
)
def test_what_it_refuses_is_unknown(values, reason):
    with pytest.raises(SimulationError, match=reason):
        peak(attn_implementation="flash_attention_2", **values)


def batch_of(structure, batch, length):
    from advisor.simulate import batches
    from advisor.simulate.build import build_on_meta

    model = build_on_meta(structure, 2)
    return batches.plan_batch(structure, model, batch, length).tensors


def flattened(model_type="llama", **values):
    config = canonical_config({**CONFIG, "model_type": model_type})
    return Structure(
        config=config,
        dtype="bfloat16",
        compute_capability=(8, 0),
        attn_implementation="flash_attention_2",
        padding_free=True,
        **values,
    )


def test_a_flattened_batch_is_the_collators():
    from transformers import DataCollatorWithFlattening

    found = batch_of(flattened(), 3, 5)
    ids = found["input_ids"][2].reshape(3, 5).tolist()
    real = DataCollatorWithFlattening()([{"input_ids": row} for row in ids])
    assert list(found) == list(real)
    for name, (shape, dtype, numbers) in found.items():
        assert (shape, dtype) == (tuple(real[name].shape), real[name].dtype)
        assert numbers.equal(real[name])


def attention_flops(structure, batch):
    from advisor.simulate.step import record

    kernels = record(structure, depth=2, batch=batch, length=64).kernels
    return sum(k.flops for k in kernels if k.kind == "attention")


def test_rows_do_not_see_each_other_and_no_copy_is_unpadded():
    assert attention_flops(flattened(), 6) == 6 * attention_flops(flattened(single_row=True), 1)
    free = peak(attn_implementation="flash_attention_2", padding_free=True)
    whole = peak(attn_implementation="flash_attention_2")
    assert whole < free < peak(attn_implementation="flash_attention_2", padded=True)


@pytest.mark.parametrize("model_type", ["bart", "gpt_bigcode", "roberta", "qwen3_next", "minimax"])
def test_models_that_mix_rows_are_refused(model_type):
    from advisor.simulate.build import build_on_meta

    with pytest.raises(SimulationError, match="rows of a flattened batch"):
        build_on_meta(flattened(model_type), 2)


SAMPLE = {"gemma2", "gpt2", "llama", "phi3", "qwen3"}


@pytest.mark.parametrize(
    "model_type",
    [m if m in SAMPLE else pytest.param(m, marks=pytest.mark.full) for m in sorted(ROWS_APART)],
)
def test_every_layer_hands_the_borders_to_the_attention(model_type):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    given = []

    def attention(_module, query, _key, value, _mask, **kwargs):
        given.append(kwargs.get("position_ids"))
        return query.new_zeros(*query.transpose(1, 2).shape[:3], value.shape[-1]), None

    ALL_ATTENTION_FUNCTIONS.register("test_rows", attention)
    model = AutoModelForCausalLM.from_config(tiny(model_type))
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "test_rows"
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    model(input_ids=torch.ones_like(positions), position_ids=positions)
    assert len(given) == 2
    assert all(found is not None and found.tolist() == positions.tolist() for found in given)


def tiny(model_type):
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    small = dict.fromkeys(("hidden_size", "n_embd", "intermediate_size", "ffn_dim"), 64)
    small |= dict.fromkeys(("num_hidden_layers", "n_layer"), 2) | {"word_embed_proj_dim": 64}
    small |= dict.fromkeys(("num_attention_heads", "n_head", "num_key_value_heads"), 4)
    small |= dict.fromkeys(("num_experts", "num_local_experts"), 4) | {"head_dim": 16}
    small |= {"vocab_size": 128, "pad_token_id": 0, "moe_intermediate_size": 32}
    for name, value in small.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    return config


def test_the_plan_decides():
    plan = TrainingPlan(attn_implementation="flash_attention_2", padding_free=True)
    assert structure_of(plan, CONFIG, (8, 0)).padding_free
    assert structure_of(plan, CONFIG, (8, 0)).evaluation(4).padding_free
