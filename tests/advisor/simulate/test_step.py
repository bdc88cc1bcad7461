"""The recorded step: its marks, and an order of events that no shape changes."""

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from advisor.simulate import replay
from advisor.simulate.fit import fit
from advisor.simulate.profile import PHASES, Structure, canonical_config
from advisor.simulate.step import fake_mode, record

LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
QWEN = LLAMA | {"model_type": "qwen2"}
GPT2 = {"model_type": "gpt2", "vocab_size": 256, "n_embd": 32, "n_layer": 2, "n_head": 2}


def structure(config, **values):
    return Structure(config=canonical_config(config), compute_capability=(9, 0), **values)


def profile(asked, depth=2):
    def trace(depth, batch, length):
        return record(asked, depth=depth, batch=batch, length=length)

    return fit(trace, depth=depth, replicate=False, single_row=False)


def test_phases_that_end_at_one_position_are_all_told():
    """Nothing is born between the end of backward and the fused optimizer's of a bare loop."""
    made = profile(structure(LLAMA, dtype="bfloat16", clip=False, loop="script"))
    peaks = replay.on_cuda(made, 2, 64, 2)
    assert set(peaks.phases) == set(PHASES)
    assert peaks.phases["optimizer"] < peaks.phases["backward"]
    assert replay.live(made, 2, 64, 2).phases["optimizer"] <= peaks.phases["optimizer"]


@pytest.mark.parametrize("config", [GPT2, QWEN], ids=lambda c: c["model_type"])
def test_autocast_inside_a_checkpoint_frees_in_the_order_of_births(config):
    """Its cache is a hash map over addresses: its order is another one each time."""
    asked = structure(config, autocast="bfloat16", activation_checkpointing=True)
    traces = [record(asked, depth=2, batch=b, length=s) for b, s in ((4, 64), (5, 64), (4, 96))]
    assert traces[0].events == traces[1].events == traces[2].events
    trace = traces[0]
    for before, after, layer, next_layer in zip(
        trace.events, trace.events[1:], trace.layers, trace.layers[1:], strict=False
    ):
        if before < 0 and after < 0 and layer == next_layer >= 0:
            assert -before < -after


@pytest.mark.parametrize(
    "values",
    [{}, {"autocast": "bfloat16", "padded": True, "activation_checkpointing": True}],
    ids=["plain", "autocast, padded, checkpointing"],
)
def test_quick_fake_tensors_record_what_torchs_own_do(values, monkeypatch):
    """Each twice: at the second time every result that can be known is known."""
    asked = structure(LLAMA, **values)
    quick = [record(asked, depth=2, batch=3, length=64) for _ in range(2)]
    assert type(fake_mode()) is not FakeTensorMode
    monkeypatch.setattr("advisor.simulate.step.QUICK_FAKES_OF", "another version")
    assert type(fake_mode()) is FakeTensorMode
    own = [record(asked, depth=2, batch=3, length=64) for _ in range(2)]
    assert quick[0] == quick[1] == own[0] == own[1]
