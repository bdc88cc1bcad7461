"""A profile must say exactly what a direct trace of the same shape and depth says."""

import dataclasses

import numpy as np
import pytest

from advisor import records
from advisor.plan import Checkpointing, LoraSettings, Quantization
from advisor.simulate import replay
from advisor.simulate.fit import fit
from advisor.simulate.profile import Profile, Structure, canonical_config

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": False,
}
CASES = {
    "full": {},
    "autocast": {"autocast": "bfloat16", "padded": True},
    "lora, checkpointing": {
        "method": "lora",
        "lora": LoraSettings(r=4),
        "dtype": "bfloat16",
        "activation_checkpointing": True,
    },
    "nf4, nested": {
        "method": "qlora",
        "lora": LoraSettings(r=4),
        "quantization": Quantization(load_in_4bit=True, bnb_4bit_use_double_quant=True),
        "dtype": "bfloat16",
        "autocast": "bfloat16",
        "activation_checkpointing": True,
    },
    "int8": {
        "method": "qlora",
        "lora": LoraSettings(r=4),
        "quantization": Quantization(load_in_8bit=True),
        "dtype": "float16",
    },
    "every layer offloaded": {
        "activation_checkpointing": True,
        "checkpointing": Checkpointing(offload=True),
    },
    "accumulation, foreach": {"accumulate": True, "optim": "adamw_torch"},
    "single row, eager": {"single_row": True, "attn_implementation": "eager"},
    "cpu": {"device": "cpu", "compute_capability": None, "padded": True},
}


def structure_for(case):
    values = {"compute_capability": (8, 0), **CASES[case]}
    return Structure(config=canonical_config(CONFIG), **values)


RARE = ("int8", "every layer offloaded", "accumulation, foreach")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.full) if c in RARE else c for c in CASES]
)
def test_profile_equals_a_direct_trace_of_another_depth_and_shape(case, tmp_path):
    from advisor.simulate.step import record

    structure = structure_for(case)

    def trace(depth, batch, length):
        return record(structure, depth=depth, batch=batch, length=length)

    profile = fit(trace, depth=7, replicate=True, single_row=structure.single_row)
    assert profile.replicated
    profile.save(tmp_path / "p.npz")
    loaded = Profile.load(tmp_path / "p.npz")
    batch = 1 if structure.single_row else 3
    direct = fit(trace, depth=7, replicate=False, single_row=structure.single_row)
    for length in (
        448,
        1600,
    ):  # below and above 3,072 tokens: both regimes of the embedding's backward
        a, b = loaded.program(7), direct.program(7)
        assert np.array_equal(a.events, b.events)
        sizes = loaded.sizes(batch, length, 7)[a.template]
        assert np.array_equal(sizes, direct.sizes(batch, length, 7)[b.template])
        assert replay.on_cuda(loaded, batch, length, 7) == replay.on_cuda(direct, batch, length, 7)


def test_live_bytes_never_exceed_what_the_allocator_counts():
    from advisor.simulate.step import record

    structure = structure_for("full")
    profile = fit(
        lambda d, b, s: record(structure, depth=d, batch=b, length=s),
        depth=7,
        replicate=True,
        single_row=False,
    )
    peaks = [replay.on_cuda(profile, b, 256, 7) for b in (2, 4, 8, 16)]
    assert [p.allocated for p in peaks] == sorted(p.allocated for p in peaks)
    for batch, peak in zip((2, 4, 8, 16), peaks, strict=True):
        assert replay.live(profile, batch, 256, 7).allocated <= peak.allocated <= peak.reserved
        assert sum(peak.categories.values()) == peak.allocated


def test_parent_of_the_worker_holds_no_torch():
    import subprocess
    import sys

    program = (
        "import sys, advisor.recommend, advisor.spec, advisor.estimate;"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)


@pytest.mark.full
def test_checkpointing_trades_memory_as_it_says():
    """Every second layer lies between all and none; what is offloaded leaves the card."""
    from advisor.simulate.step import record

    def peak(**values):
        structure = Structure(config=canonical_config(CONFIG), compute_capability=(8, 0), **values)
        profile = fit(
            lambda depth, batch, length: record(structure, depth=depth, batch=batch, length=length),
            depth=7,
            replicate=True,
            single_row=False,
        )
        found = replay.live(profile, 4, 256, 7).allocated
        return found, profile.replicated

    none, _ = peak()
    every, _ = peak(activation_checkpointing=True)
    second, repeats = peak(
        activation_checkpointing=True, checkpointing=Checkpointing(every_n_layers=2)
    )
    away, _ = peak(activation_checkpointing=True, checkpointing=Checkpointing(offload=True))
    assert away < every < second < none
    assert not repeats  # two kinds of layers alternate: all are traced
    inputs = 7 * 4 * 256 * CONFIG["hidden_size"] * 4
    assert 0 < every - away <= inputs  # the peak moves to the output layer


def test_a_shared_profile_serves_no_fewer_layers_than_were_traced(tmp_path, monkeypatch):
    from advisor.simulate import make
    from advisor.simulate.step import record

    monkeypatch.setattr(make, "profiles_dir", lambda: tmp_path)
    deep = structure_for("full")
    made = fit(
        lambda depth, batch, length: record(deep, depth=depth, batch=batch, length=length),
        depth=7,
        replicate=True,
        single_row=False,
    )
    made.save(tmp_path / f"{deep.key()}.npz")
    known = {}
    for layers in (2, 3, 4, 30):
        config = canonical_config({**CONFIG, "num_hidden_layers": layers})
        found = make._load(dataclasses.replace(deep, config=config), known)
        assert (found is not None) == (layers >= 4)
    assert len(known) == 1  # read once


def test_a_profile_of_four_layers_alone_serves_no_deeper_model(tmp_path, monkeypatch):
    """Four are what others are repeated from, but a model of four is traced as it is."""
    from advisor.simulate import make

    monkeypatch.setattr(make, "profiles_dir", lambda: tmp_path)
    four, seven = (
        dataclasses.replace(
            structure_for("full"), config=canonical_config({**CONFIG, "num_hidden_layers": layers})
        )
        for layers in (4, 7)
    )
    make.make_profile(records.encode(four), lambda *_: None)
    assert not make._load(four).replicated
    assert make._load(seven) is None
    make.make_profile(records.encode(seven), lambda *_: None)
    assert make._load(seven).replicated
    assert not make._load(four).replicated


@pytest.mark.parametrize("length", [96, 100, 128])
def test_a_short_context_is_traced_and_holds_between_the_blocks_of_attention(length):
    """The memory-efficient kernel keeps its sums in blocks of 32 tokens."""
    from advisor.simulate.step import record

    config = {
        "model_type": "bert",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "vocab_size": 512,
    }
    structure = Structure(
        config=canonical_config(config), task="text-classification", compute_capability=(7, 5)
    )

    def trace(depth, batch, length):
        return record(structure, depth=depth, batch=batch, length=length)

    profile = fit(trace, depth=2, replicate=False, single_row=False, context=128)
    direct = trace(2, 3, length)
    (kept, *_) = [
        slot for slot, rule in profile.rules.items() if rule.name == "efficient_attention_logsumexp"
    ]
    assert profile.sizes(3, length, 2)[kept] == direct.allocations[kept].num_bytes
    assert direct.allocations[kept].num_bytes == 3 * 4 * (-(-length // 32) * 32) * 4
