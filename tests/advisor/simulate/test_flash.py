"""flash_attention_2 saves what PyTorch's own flash kernel saves, and refuses what it refuses."""

import pytest

from advisor.errors import SimulationError
from advisor.plan import LoraSettings
from advisor.simulate import replay
from advisor.simulate.fit import fit
from advisor.simulate.profile import Structure, canonical_config

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
