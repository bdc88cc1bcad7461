"""Experts of older transformers: the same numbers, other layers; what a SPEC's software changes."""

import json
from pathlib import Path

import pytest
import torch

from advisor.errors import InputError
from advisor.plan import LoraSettings, Quantization
from advisor.simulate import experts, software
from advisor.simulate.build import build_on_meta, hf_config
from advisor.simulate.profile import Structure, canonical_config
from advisor.spec import answer
from tests.advisor.simulate.architectures import CASES

TYPES = sorted(software.SEPARATE_EXPERTS)
ROWS = Path(__file__).parents[2] / "benchmarks" / "measured" / "a100_verdicts.jsonl"
NF4 = Quantization(load_in_4bit=True)


def built(model_type, **values):
    values = {"dtype": "bfloat16", "compute_capability": (8, 0), **values}
    return Structure(config=canonical_config(CASES[model_type][1]), **values)


def layers(model, kind):
    return [name for name, m in model.named_modules() if type(m).__name__ == kind]


def fused_block(model_type):
    """A block of the installed transformers with random weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(hf_config(CASES[model_type][1]))
    block = next(m for m in model.modules() if hasattr(m, "experts"))
    with torch.no_grad():
        for p in block.parameters():
            p.normal_(std=0.2)
    return block, model.config


def unfused(fused, separate):
    """The weights of a fused block as those of a separate one, as checkpoints hold them."""
    state = {"gate.weight": fused.gate.weight}
    state |= {k: v for k, v in fused.state_dict().items() if k.startswith("shared_expert")}
    for number, expert in enumerate(separate.experts):
        halves = fused.experts.gate_up_proj[number].chunk(2)
        weights = (*halves, fused.experts.down_proj[number])
        for name, weight in zip(expert.names, weights, strict=True):
            state[f"experts.{number}.{name}.weight"] = weight
    return state


@pytest.mark.parametrize("model_type", TYPES)
def test_separate_experts_compute_what_fused_ones_do(model_type):
    fused, config = fused_block(model_type)
    separate = experts.SparseBlock(fused, experts.NAMES.get(model_type, experts._USUAL_NAMES))
    separate.load_state_dict(unfused(fused, separate))
    x = torch.randn(2, 24, config.hidden_size)
    torch.testing.assert_close(separate.eval()(x), fused.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_separate_experts_are_quantised_and_adapted(model_type):
    lora = LoraSettings(r=4, target_modules="all-linear")
    asked = {"method": "qlora", "lora": lora, "quantization": NF4}
    old = build_on_meta(built(model_type, separate_experts=True, **asked), 2)
    assert not [p for p in old.parameters() if p.dim() == 3]
    expert = experts.NAMES.get(model_type, experts._USUAL_NAMES)[0]
    adapted = [n for n in layers(old, "Linear4bit") if f"experts.0.{expert}.base_layer" in n]
    assert len(adapted) == 2  # one a layer
    attention = LoraSettings(r=4, target_modules=("q_proj",))
    new = build_on_meta(built(model_type, **asked | {"lora": attention}), 2)
    fused = [p for p in new.parameters() if p.dim() == 3]
    assert fused
    assert {p.dtype for p in fused} == {torch.float32}  # kbit preparation


def test_weights_are_the_same_number_either_way():
    sizes = [
        sum(
            p.numel() for p in build_on_meta(built("mixtral", separate_experts=old), 2).parameters()
        )
        for old in (False, True)
    ]
    assert sizes[0] == sizes[1]


def test_a_dense_model_is_left_alone():
    asked = built("llama")
    model = build_on_meta(asked, 2)
    before = [type(m) for m in model.modules()]
    experts.separate(model)
    assert [type(m) for m in model.modules()] == before
    assert experts.unquantised_note(model, asked) == ()


@pytest.mark.parametrize(
    ("version", "model_type", "expected"),
    [
        ("4.45.2", "mixtral", True),
        ("4.57.1", "qwen3_moe", True),
        ("5.0.0", "mixtral", False),
        ("5.23.0.dev0", "mixtral", False),
        ("4.45.2", "llama", False),
        (None, "mixtral", False),
    ],
)
def test_which_versions_separate(version, model_type, expected):
    found = software.Software(transformers=version)
    assert found.separates_experts(model_type) == expected
    assert bool(found.assumptions(model_type)) == expected


@pytest.mark.parametrize(
    "wrong", ["4.45", {"transformers": "newest"}, {"transformers": 5}, {"torch": "latest"}]
)
def test_software_that_is_none_is_refused(wrong):
    with pytest.raises(InputError, match="software"):
        software.read(wrong)
    assert software.read({"driver": 550, "transformers": None}) == software.INSTALLED


def test_stated_versions_are_compared_with_the_simulated_ones():
    from advisor.versions import installed

    here = {"torch": installed("torch"), "transformers": installed("transformers")}
    assert not software.read(here).differences()
    assert software.read(here).is_stated()
    assert not software.INSTALLED.is_stated()
    said = software.read({**here, "torch": "2.4.1"}).differences()
    assert said == f"Stated: torch 2.4.1; simulated: torch {installed('torch')}."


@pytest.mark.full
def test_the_measured_mixtral_run_fits_as_its_software_built_it(worker):
    rows = map(json.loads, ROWS.read_text().splitlines())
    row = next(r for r in rows if r["id"] == "fms-main-062")
    found = answer(row, worker=worker)
    assert found["verdict"] == row["measured"]["verdict"] == "fits"
    older = row["measured"]["allocated_bytes_older_library"]
    assert found["allocated_bytes"] == pytest.approx(older, rel=0.01)
    assert any("transformers 4.45.2" in said for said in found["assumptions"])
    today = answer({**row, "software": {"transformers": "5.23.0"}}, worker=worker)
    assert today["verdict"] == "does_not_fit"
    assert any("stay unquantised" in said for said in today["assumptions"])
