"""Quantised layers hold and move the bytes that bitsandbytes' do."""

import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from advisor.errors import SimulationError
from advisor.plan import LoraSettings, Quantization
from advisor.simulate import quantized, replay
from advisor.simulate.profile import EMPTY_CACHE, KINDS, Profile, Structure, canonical_config
from advisor.simulate.trace import MARK, Recorder

NF4 = Quantization(load_in_4bit=True, bnb_4bit_compute_dtype="float16")
NESTED = Quantization(load_in_4bit=True, bnb_4bit_use_double_quant=True)
INT8 = Quantization(load_in_8bit=True)
ROWS, COLUMNS = 96, 128
CONFIG = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 512,
    "n_positions": 512,
}


def layer(settings):
    with torch.device("meta"):
        source = nn.Linear(COLUMNS, ROWS, bias=False, dtype=torch.float16)
        if settings.load_in_4bit:
            return quantized.Linear4bit(source, settings)
        return quantized.Linear8bitLt(source)


def loaded_bytes(settings):
    """Bytes alive after loading one layer, and the peak meanwhile."""
    recorder = Recorder((7, 5))
    linear = layer(settings)
    with FakeTensorMode(), torch.device("cpu"):
        linear.weight = linear.quantise(recorder)
    live = peak = 0
    for event in recorder.trace.events:
        slot = event if event >= 0 else -event - 1
        size = recorder.trace.allocations[slot].num_bytes
        live += size if event >= 0 else -size
        peak = max(peak, live)
    return live, peak


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (NF4, ROWS * COLUMNS // 2 + ROWS * COLUMNS // 64 * 4 + 16 * 4),
        # 192 scales of one byte, one scale of theirs, the table of 256, the offset
        (NESTED, ROWS * COLUMNS // 2 + ROWS * COLUMNS // 64 + 4 + 256 * 4 + 4 + 16 * 4),
        (INT8, ROWS * COLUMNS + ROWS * 4),
    ],
    ids=["nf4", "nested", "int8"],
)
def test_what_stays_on_the_card_after_loading(settings, expected):
    live, peak = loaded_bytes(settings)
    assert live == expected
    assert peak > expected + ROWS * COLUMNS  # the 16-bit source was there meanwhile


@pytest.mark.parametrize("settings", [NF4, INT8], ids=["nf4", "int8"])
def test_only_int8_keeps_its_input(settings):
    linear = layer(settings)
    recorder = Recorder((7, 5))
    with FakeTensorMode(), torch.device("cpu"):
        linear.weight = linear.quantise(recorder)
        x = torch.empty(4, 16, COLUMNS, dtype=torch.float16, requires_grad=True)
        hidden = x * 2
        kept = hidden.untyped_storage()._cdata
        answer = linear(hidden)
        holders = [
            v for v in vars(answer.grad_fn).values() if isinstance(v, torch.Tensor)
        ]  # ctx attributes of the autograd Function
        assert any(h.untyped_storage()._cdata == kept for h in holders) == settings.load_in_8bit
        answer.sum().backward()
        assert x.grad.shape == x.shape


def structure(settings, **values):
    return Structure(
        config=canonical_config(CONFIG),
        method="qlora",
        lora=LoraSettings(r=4, **values.pop("lora", {})),
        quantization=settings,
        dtype="float16",
        compute_capability=(7, 5),
        **values,
    )


def test_a_float32_input_is_computed_in_the_dtype_that_was_asked_for():
    recorder = Recorder((7, 5))
    linear = layer(NF4)
    with FakeTensorMode(), torch.device("cpu"):
        linear.weight = linear.quantise(recorder)
        x = torch.empty(4, 8, COLUMNS, requires_grad=True)
        with recorder.in_phase("forward"):
            recorder.time_it = True
            y = linear(x)
    assert y.dtype == torch.float32
    kernels = {KINDS[k.kind]: k for k in recorder.trace.kernels}
    assert kernels["matmul"].half
    assert kernels["matmul"].dims == (1, 4 * 8, ROWS, COLUMNS)
    scales = ROWS * COLUMNS // 64 * 4
    moved = ROWS * COLUMNS // 2 + scales + 2 * ROWS * COLUMNS
    assert kernels["dequantise"].num_bytes == moved


def test_gpt2_is_quantised_but_for_its_output_layer():
    from advisor.simulate.build import build_on_meta

    model = build_on_meta(structure(NF4), 2)
    kinds = {type(m).__name__ for m in model.modules() if "Linear4bit" in type(m).__name__}
    assert kinds == {"Linear4bit"}
    assert type(model.get_output_embeddings()) is nn.Linear
    assert model.get_output_embeddings().weight.dtype == torch.float32  # kbit preparation


@pytest.mark.parametrize(
    ("settings", "dtype", "peak"),
    [(NF4, torch.float16, 2), (NESTED, torch.float16, 2), (INT8, torch.float32, 8)],
    ids=["nf4", "nested", "int8"],
)
def test_dora_gets_the_whole_weight(settings, dtype, peak):
    """int8: two products of float32, the first alive until the second is there."""
    recorder = Recorder((7, 5))
    linear = layer(settings)
    assert linear.whole().is_meta
    with FakeTensorMode(), torch.device("cpu"):
        linear.weight = linear.quantise(recorder)
        start = len(recorder.trace.events)
        with recorder.in_phase("forward"):
            weight = linear.whole()
    assert (weight.shape, weight.dtype) == ((ROWS, COLUMNS), dtype)
    born = [
        recorder.trace.allocations[e].num_bytes for e in recorder.trace.events[start:] if e >= 0
    ]
    scales = ROWS * COLUMNS // 64 * 4
    assert sum(born) == peak * ROWS * COLUMNS + (scales if settings is NESTED else 0)


def step_of(settings, **lora):
    from advisor.simulate.step import record

    return record(structure(settings, lora=lora), depth=2, batch=2, length=80)


def test_dora_dequantises_once_more_in_a_forward():
    plain, dora = (
        [KINDS[k.kind] for k in step_of(NF4, use_dora=use).kernels].count("dequantise")
        for use in (False, True)
    )
    assert dora == plain + 2 * 4  # c_attn, c_proj, c_fc and c_proj of two layers


@pytest.mark.parametrize("settings", [NF4, INT8], ids=["nf4", "int8"])
def test_dora_takes_its_first_norm_of_the_whole_weight_while_loading(settings):
    """peft's update_layer: a copy of a 4-bit layer, the weight, B A, and their scaled sum."""

    def loaded(use_dora):
        trace = step_of(settings, use_dora=use_dora)
        end = trace.events.index(MARK + trace.marks.index("load"))
        born = [trace.allocations[e] for e in trace.events[:end] if 0 <= e < MARK]
        alive = sum(a.num_bytes for a in born) - sum(
            trace.allocations[-e - 1].num_bytes for e in trace.events[:end] if e < 0
        )
        return Counter(a.op for a in born), alive

    plain, before = loaded(use_dora=False)
    dora, after = loaded(use_dora=True)
    layers = 2 * 4  # c_attn, c_proj, c_fc and c_proj of two layers
    assert plain["aten.mm.default"] == 0
    assert dora["aten.mm.default"] == layers
    assert dora["aten.add.Tensor"] - plain["aten.add.Tensor"] == layers
    width = CONFIG["n_embd"]
    magnitudes = 2 * (3 * width + width + 4 * width + width) * 4
    workspace = 8_519_680  # cuBLAS' of the first product, which no plain load makes
    assert after - before == magnitudes + workspace


@pytest.mark.parametrize("settings", [NF4, INT8], ids=["nf4", "int8"])
def test_dora_with_dropout_keeps_the_weight_for_the_backward(settings):
    """The base layer is then computed anew by F.linear, of an input that needs a gradient."""
    width = CONFIG["n_embd"]
    sizes = {width * width * n * 4 for n in (1, 3, 4)}

    def kept(dropout):
        trace = step_of(settings, use_dora=True, lora_dropout=dropout)
        live = Counter()
        end = trace.events.index(MARK + trace.marks.index("forward1"))
        for event in (e for e in trace.events[:end] if e < MARK):
            a = trace.allocations[event if event >= 0 else -event - 1]
            if a.num_bytes in sizes and a.op in ("aten._to_copy.default", "aten.mul.Tensor"):
                live[a.num_bytes // width**2 // 4] += 1 if event >= 0 else -1
        return +live

    assert not kept(0.0)
    assert kept(0.1) == {3: 1, 1: 2, 4: 4}  # the first layer's c_attn has no gradient to pass on


def test_what_peft_refuses_is_unknown_with_its_reason():
    from advisor.simulate.build import build_on_meta

    asked = structure(NF4, lora={"target_modules": ("no_such_layer",)})
    with pytest.raises(SimulationError, match="peft puts no such adapter on gpt2"):
        build_on_meta(asked, 2)


def test_the_stand_in_leaves_nothing_behind():
    from peft.import_utils import is_bnb_available

    before = {n: sys.modules.get(n) for n in ("bitsandbytes", "peft.tuners.lora.bnb")}
    known = is_bnb_available()
    with quantized.standing_in():
        import bitsandbytes

        assert bitsandbytes.nn.Linear4bit is quantized.Linear4bit
        assert is_bnb_available()
    assert {n: sys.modules.get(n) for n in before} == before
    assert is_bnb_available() == known


def test_loadings_differ_in_the_cache_alone():
    from advisor.simulate.fit import fit
    from advisor.simulate.step import record

    asked = structure(NF4)

    def trace(depth, batch, length):
        return record(asked, depth=depth, batch=batch, length=length)

    profile: Profile = fit(trace, depth=2, replicate=False, single_row=False)
    assert [m for m in profile.program(2).marks if m[1] == EMPTY_CACHE]
    found = [replay.on_cuda(profile, 2, 64, 2, loading=way) for way in replay.LOADINGS[4]]
    # an unsplit rest counts as allocated, so the holes that loading left show there a little
    assert max(p.allocated for p in found) < 1.02 * min(p.allocated for p in found)
    row, elements, others = profile.warm_up(2, 64, 2)
    assert elements == 2 * 12 * 64 * 64
    assert profile.sizes(2, 64, 2)[row] == (elements // 2 + others) // 2 * 2
    assert len(profile.coefficients) < MARK
