"""Model types of every kind trace at tiny depth; those that cannot are unknown, with the reason."""

import pytest

from advisor import records
from advisor.errors import SimulationError
from advisor.locale import sentence
from advisor.memory import CATEGORIES
from advisor.simulate import make, replay
from advisor.simulate.batches import plan_batch
from advisor.simulate.build import attention_note, build_on_meta, why_in_full
from advisor.simulate.fit import fit
from advisor.simulate.make import make_profile
from advisor.simulate.profile import CONVOLUTIONS, Structure, canonical_config
from advisor.simulate.step import record
from advisor.simulate.values import ROUTING
from tests.advisor.simulate.architectures import CASES, KINDS, UNANSWERED

QUICK = ("qwen3_moe", "deberta-v2", "bart", "vit-mim", "resnet", "wav2vec2-ctc", "clip")


def structure_for(task, config):
    config = dict(config)
    attention = "eager" if config.pop("eager", False) else "sdpa"
    return Structure(
        config=canonical_config(config),
        task=task,
        attn_implementation=attention,
        compute_capability=(8, 0),
    )


def profile_of(structure):
    depth = structure.depth() or 1
    traces = []

    def trace(layers, batch, length):
        traces.append(record(structure, depth=layers, batch=batch, length=length))
        return traces[-1]

    profile = fit(trace, depth=depth, replicate=False, single_row=False)
    return profile, traces[0]


def check(name):
    structure = structure_for(*CASES[name])
    profile, trace = profile_of(structure)
    weights, gradients = CATEGORIES.index("weights"), CATEGORIES.index("gradients")
    loaded = sum(a.num_bytes for a in trace.allocations if a.category == weights)
    peaks = replay.on_cuda(profile, 4, 256, profile.traced_depth)
    assert peaks.reserved >= peaks.allocated > loaded > 0
    assert min(peaks.phases.values()) > 0
    assert any(a.category == gradients for a in trace.allocations)


@pytest.mark.parametrize("name", QUICK)
def test_a_sample_traces(name):
    check(name)


@pytest.mark.full
@pytest.mark.parametrize("name", [n for n in CASES if n not in QUICK])
def test_every_model_type_traces(name):
    check(name)


SLOW = {"longt5", "nllb-moe"}


def check_refused(name):
    task, config, reason = UNANSWERED[name]
    with pytest.raises(SimulationError) as caught:
        profile_of(structure_for(task, config))
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", [n for n in UNANSWERED if n not in SLOW])
def test_what_cannot_be_traced_says_why(name):
    check_refused(name)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(SLOW))
def test_what_cannot_be_fitted_says_why(name):
    check_refused(name)


def test_enough_model_types_of_every_kind():
    assert len({config["model_type"] for _, config in CASES.values()}) >= 45
    assert all(KINDS.values())


def test_experts_get_equal_shares_and_the_notes_say_so():
    trace = record(structure_for(*CASES["jetmoe"]), depth=2, batch=4, length=16)
    assert ROUTING in trace.notes
    # 8 experts of 64 x 128: each sees 4 * 16 * 2 / 8 tokens
    sizes = {a.num_bytes for a in trace.allocations}
    assert 4 * 16 * 2 // 8 * 256 * 4 in sizes


def test_notes_of_a_profile_name_what_was_assumed(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "profiles_dir", lambda: tmp_path)
    structure = structure_for(*CASES["resnet"])
    make_profile(records.encode(structure), lambda *_: None)
    notes = make._load(structure).notes
    assert CONVOLUTIONS in notes
    assert any("224 pixels" in note for note in notes)
    assert any("All layers were traced" in note for note in notes)


def test_layers_are_repeated_only_where_one_stack_of_equal_ones_is_named():
    def why(name, **more):
        structure = structure_for(CASES[name][0], {**CASES[name][1], **more})
        found = why_in_full(build_on_meta(structure, 2), structure.depth())
        return None if found is None else sentence(found)

    assert why("qwen2") is None
    assert why("vit") is None
    assert why("whisper") == "it has 2 stacks of layers"
    assert why("gemma3") == "it has 2 stacks of layers"
    assert "no number of layers" in why("clip")
    assert why("lfm2") == "its layers differ"


def test_sizes_of_a_batch_follow_the_config():
    structure = structure_for(*CASES["wav2vec2-ctc"])
    batch = plan_batch(structure, build_on_meta(structure, 2), 3, 40)
    assert batch.tensors["input_values"][0] == (3, 320 * 40 + 80)
    assert batch.tensors["labels"][0] == (3, 10)
    structure = structure_for(*CASES["albert"])
    batch = plan_batch(structure, build_on_meta(structure, 2), 3, 40)
    assert batch.tensors["input_ids"][0] == (3, 4, 40)
    assert batch.tensors["labels"][0] == (3,)


def test_eager_stands_in_where_a_class_has_no_sdpa_and_no_trainer_asks_for_it():
    structure = structure_for(*CASES["resnet"])
    assert "no sdpa" in attention_note(build_on_meta(structure, 1), structure)[0]
    bloom = structure_for("causal-lm", {**CASES["bloom"][1], "eager": False})
    with pytest.raises(SimulationError, match="set attn_implementation to eager"):
        build_on_meta(bloom, 2)
