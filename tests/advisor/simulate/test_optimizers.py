"""Every `optim` name of TrainingArguments simulates or is refused by name."""

import contextlib
import json

import pytest

from advisor.errors import SimulationError
from advisor.locale import sentence
from advisor.plan import LoraSettings, TrainingPlan
from advisor.simulate.profile import PHASES, Structure, canonical_config, structure_of
from advisor.spec import answer

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from advisor.memory import CATEGORIES  # noqa: E402
from advisor.simulate import fit, launches, optimizers  # noqa: E402
from advisor.simulate.step import _optimizer, _update, record  # noqa: E402
from advisor.simulate.trace import MARK, Recorder  # noqa: E402

CONFIGS = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "tie_word_embeddings": False,
    },
    "gpt2": {  # biases, tied weights
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 6,
        "n_head": 4,
        "n_positions": 512,
        "vocab_size": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
OFFERED = ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd")
"""What the Plan page offers."""
REAL = [n for n, e in optimizers.SIMULATED.items() if e.imitates == "real class"]
OPTIONS = {
    "apollo_adamw": {"optim_args": "rank=8", "optim_target_modules": "all-linear"},
}


def structure_for(name, *, device="cuda", model="llama", **more):
    values = {
        "compute_capability": (8, 0) if device == "cuda" else None,
        **OPTIONS.get(name, {}),
        **more,
    }
    config = canonical_config(CONFIGS[model])
    return Structure(config=config, optim=name, device=device, **values)


class Layer(nn.Module):
    def __init__(self, rows, columns, dtype):
        super().__init__()
        self.linear = nn.Linear(columns, rows, dtype=dtype)


def stepped(structure, *, real=False, rows=100, columns=130, dtype="float32", timed=False):
    """Two updates of one linear layer, on real or on fake CPU tensors: its recorder."""
    recorder = Recorder(structure.compute_capability)
    with contextlib.ExitStack() as stack:
        if not real:
            stack.enter_context(FakeTensorMode())
        stack.enter_context(torch.device("cpu"))
        model = Layer(rows, columns, getattr(torch, dtype))
        for p in model.parameters():
            recorder.track(p, "load")
        prepared = _optimizer(model, recorder, structure)
        for number in range(2):
            recorder.time_it = timed and number == 1
            with recorder.in_phase("backward"):
                for p in model.parameters():
                    p.grad = torch.zeros_like(p)
            with recorder.in_phase("optimizer"):
                _update(prepared, recorder)
                recorder.mark(f"optimizer{number}")
                model.zero_grad()
        recorder.close()
    return recorder


def births_and_deaths(recorder):
    trace = recorder.trace
    sizes = [(a.num_bytes, a.layer, CATEGORIES[a.category]) for a in trace.allocations]
    return trace.events, trace.layers, sizes


def state_bytes(name, **more):
    """Bytes of optimizer states alive at the end."""
    shape = {k: more.pop(k) for k in ("rows", "columns", "dtype") if k in more}
    trace = stepped(structure_for(name, **more), **shape).trace
    dead = {-e - 1 for e in trace.events if e < 0}
    return sum(
        a.num_bytes
        for slot, a in enumerate(trace.allocations)
        if CATEGORIES[a.category] == "optimizer" and slot not in dead
    )


# --- which names ---------------------------------------------------------------------------------


def test_every_name_that_transformers_accepts_is_decided():
    from transformers.training_args import OptimizerNames

    decided = list(optimizers.names())
    assert len(decided) == len(set(decided))
    assert set(decided) == {name.value for name in OptimizerNames}


@pytest.mark.parametrize("name", optimizers.REFUSED)
def test_refusal_names_the_optimizer_and_the_reason(name):
    with pytest.raises(SimulationError) as caught:
        optimizers.find(name, "cuda")
    assert repr(name) in str(caught.value)
    assert sentence(optimizers.REFUSED[name]) in str(caught.value)


@pytest.mark.parametrize("name", [n for n, e in optimizers.SIMULATED.items() if e.not_on_cpu])
def test_cuda_only_imitations_are_refused_on_a_cpu(name):
    with pytest.raises(SimulationError, match=f"{name}' is not simulated on a CPU"):
        optimizers.find(name, "cpu")


def test_imitations_say_what_was_read():
    for name, entry in optimizers.SIMULATED.items():
        notes = optimizers.notes(structure_for(name))
        assert (entry.imitates == "real class") == (not notes), name
        assert ("paged" in name) == any("managed memory" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"optim_args": "momentum"}, "key=value"),
        ("sgd", {"optim_args": "momentum=0.9,"}, "key=value"),
        ("adamw_hf", {}, "'adamw_hf' is not simulated"),
        ("sgd", {"optim_args": "momentum=much"}, "'sgd' cannot be built"),
        ("apollo_adamw", {"optim_target_modules": None}, "optim_target_modules"),
        ("apollo_adamw", {"optim_args": "proj=svd"}, "cuSOLVER"),
        ("apollo_adamw", {"optim_args": "proj_type=up"}, "proj_type"),
        ("rmsprop_bnb", {"optim_args": "alpha=0.9"}, "as text"),
        ("adamw_anyprecision", {"optim_args": "momentum_dtype=float7"}, "float7"),
    ],
)
def test_options_that_no_optimizer_takes_are_refused(name, options, message):
    with pytest.raises(SimulationError, match=message):
        stepped(structure_for(name, **options))


# --- what they allocate --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("name", REAL)
def test_fake_step_is_the_real_step(name, device, dtype):
    """cuda: the lists that a GPU takes, on CPU tensors; cpu: what a CPU chooses."""
    structure = structure_for(name, device=device, weight_decay=True)
    fake = stepped(structure, dtype=dtype)
    assert births_and_deaths(fake) == births_and_deaths(stepped(structure, real=True, dtype=dtype))


N, BIAS, BLOCKS = 100 * 130, 100, 51
"""Elements of the matrix and its bias (small: float32 states), blocks of 256 in the matrix."""
BIG_BLOCKS = 469
"""Of 256 elements in a matrix of 400 x 300."""
BY_HAND = {
    "adamw_torch": 8 * (N + BIAS),
    "adamw_torch_fused": 8 * (N + BIAS) + 2 * 4,
    "sgd": 0,
    "adagrad": 4 * (N + BIAS),
    "rmsprop": 4 * (N + BIAS),
    "adafactor": 4 * (100 + 130) + 4 * BIAS + 2 * 4,
    "adamw_bnb_8bit": 2 * N + 2 * BLOCKS * 4 + 2 * 1024 + 8 * BIAS,
    "adamw_8bit": 2 * N + 2 * BLOCKS * 4 + 2 * 1024 + 8 * BIAS,
    "lion_32bit": 4 * (N + BIAS),
    "lion_8bit": N + BLOCKS * 4 + 1024 + 4 * BIAS,
    "rmsprop_bnb": 4 * (N + BIAS),
    "rmsprop_bnb_32bit": 4 * (N + BIAS),
    "rmsprop_bnb_8bit": N + BLOCKS * 4 + 1024 + 4 * BIAS,
    "ademamix": 12 * (N + BIAS),
    "ademamix_8bit": 3 * N + 3 * BLOCKS * 4 + 2 * 1024 + 12 * BIAS,
    "schedule_free_adamw": 8 * (N + BIAS),
    "schedule_free_radam": 8 * (N + BIAS),
    "schedule_free_sgd": 4 * (N + BIAS),
    "stable_adamw": 8 * (N + BIAS) + 2 * (4 + 1 + 4),
    "adamw_anyprecision": 8 * (N + BIAS),
    "grokadamw": 0,
    # averages of (8, 130), the projection (100, 8), the last norm; the bias is no target
    "apollo_adamw": 8 * 8 * 130 + 4 * 100 * 8 + 4 + 8 * BIAS,
}
PAGED = {  # of 400 x 300: beyond 100,000 elements; its bias of 400 is not. And its unpaged twin
    "paged_adamw_32bit": (8 * 400, "adamw_torch"),
    "paged_adamw_8bit": (2 * BIG_BLOCKS * 4 + 2 * 1024 + 8 * 400, "adamw_8bit"),
    "paged_lion_32bit": (4 * 400, "lion_32bit"),
    "paged_lion_8bit": (BIG_BLOCKS * 4 + 1024 + 4 * 400, "lion_8bit"),
    "paged_ademamix_32bit": (12 * 400, "ademamix"),
    "paged_ademamix_8bit": (3 * BIG_BLOCKS * 4 + 2 * 1024 + 12 * 400, "ademamix_8bit"),
}


def test_every_simulated_optimizer_is_computed_by_hand():
    assert {*BY_HAND, *PAGED} == set(optimizers.SIMULATED)


@pytest.mark.parametrize("name", BY_HAND)
def test_states_of_a_matrix_are_those_computed_by_hand(name):
    assert state_bytes(name) == BY_HAND[name]


@pytest.mark.parametrize("name", PAGED)
def test_paged_states_stand_outside_the_allocator(name):
    expected, twin = PAGED[name]
    assert state_bytes(name, rows=400, columns=300) == expected
    assert state_bytes(name) == BY_HAND[twin]  # a small matrix is not paged


def test_options_change_what_is_kept():
    assert state_bytes("sgd", optim_args="momentum=0.9") == 4 * (N + BIAS)
    assert state_bytes("rmsprop", optim_args="momentum=0.9, centered=true") == 12 * (N + BIAS)
    kahan = "use_kahan_summation=True,variance_dtype=bfloat16"
    assert state_bytes("adamw_anyprecision", optim_args=kahan) == 8 * (N + BIAS)
    assert state_bytes("stable_adamw", dtype="bfloat16") == 6 * (N + BIAS) + 2 * (2 + 4)


def test_embeddings_keep_32_bit_states_as_trainer_has_it():
    trace = record(structure_for("adamw_8bit"), depth=2, batch=2, length=16)
    table = 512 * 64
    states = [a.num_bytes for a in trace.allocations if CATEGORIES[a.category] == "optimizer"]
    assert states.count(table * 4) == 2  # the embedding's
    assert states.count(table) == 2  # the output layer's
    assert states.count(1024) == 2  # the tables all 8-bit states share


def test_decay_allocates_for_these_only(monkeypatch):
    expected = optimizers.DECAY_ALLOCATES
    monkeypatch.setattr(optimizers, "DECAY_ALLOCATES", frozenset(optimizers.SIMULATED))
    found = set()
    for name, entry in optimizers.SIMULATED.items():
        for device in ("cuda",) if entry.not_on_cpu else ("cuda", "cpu"):
            with_decay, without = (
                births_and_deaths(stepped(structure_for(name, device=device, weight_decay=decay)))
                for decay in (True, False)
            )
            if with_decay != without:
                found.add(name)
    assert found == expected


def test_structure_holds_decay_only_where_it_matters():
    for name, expected in (("sgd", True), ("adamw_torch", False)):
        plan = TrainingPlan(optim=name, weight_decay=0.1)
        assert structure_of(plan, CONFIGS["llama"], (8, 0)).weight_decay is expected


# --- what they cost ------------------------------------------------------------------------------


def optimizer_bytes(name, **more):
    kernels = stepped(structure_for(name, **more), timed=True).trace.kernels
    return sum(k.num_bytes for k in kernels if k.phase == PHASES.index("optimizer"))


def test_updates_in_place_are_written_down():
    n = N + BIAS
    # reads weights, gradients and both averages, writes all but the gradients; and its counters
    assert optimizer_bytes("adamw_torch_fused") == 28 * n + 2 * (4 + 8)
    assert optimizer_bytes("sgd") == 12 * n
    states = 2 * (N + BLOCKS * 4 + 1024) + 8 * BIAS
    assert optimizer_bytes("adamw_8bit") == 4 * n + 2 * (4 * n + states)
    assert optimizer_bytes("adamw_torch") > optimizer_bytes("adamw_torch_fused")


def test_launches_of_lists_are_cut_as_multi_tensor_apply_cuts_them():
    add = torch.ops.aten._foreach_add_.List
    small = [torch.empty(10, device="meta")] * 130
    assert launches.multi_tensor(add, (small, small)) == 3  # 64 tensors at a depth of two
    one = [torch.empty(65536 * 321, device="meta")]
    assert launches.multi_tensor(add, (one, one)) == 2  # 320 blocks
    exact = [torch.empty(65536 * 320, device="meta")]
    assert launches.multi_tensor(add, (exact, exact)) == 1


# --- through a model -----------------------------------------------------------------------------


def check_replication(name, device, model, **more):
    structure = structure_for(name, device=device, model=model, **more)
    profile = fit.fit(
        lambda d, b, s: record(structure, depth=d, batch=b, length=s),
        depth=6,
        replicate=True,
        single_row=False,
    )
    assert profile.replicated
    assert not profile.notes
    direct = record(structure, depth=6, batch=3, length=128)
    fit._verify(profile, direct, 6, (3, 128))  # event for event, or it raises
    assert any(e >= MARK for e in direct.events)


@pytest.mark.parametrize(
    ("name", "device", "model"),
    [
        ("adafactor", "cuda", "gpt2"),
        ("adamw_8bit", "cuda", "gpt2"),
        ("adamw_torch", "cpu", "llama"),
        ("adagrad", "cuda", "llama"),
    ],
)
def test_layers_repeat_for_a_sample(name, device, model):
    check_replication(name, device, model)


@pytest.mark.full
@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("name", optimizers.SIMULATED)
def test_layers_repeat_for_every_optimizer(name, device, model):
    if device == "cpu" and optimizers.SIMULATED[name].not_on_cpu:
        pytest.skip(f"{name} is refused on a CPU")
    check_replication(name, device, model, weight_decay=True)


@pytest.mark.full
@pytest.mark.parametrize("name", ["adafactor", "schedule_free_adamw", "grokadamw", "stable_adamw"])
def test_layers_repeat_in_16_bits(name):
    check_replication(name, "cuda", "gpt2", dtype="bfloat16", accumulate=True)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "device", "more"),
    [
        ("adafactor", "cuda", {"method": "lora", "lora": LoraSettings(r=4), "dtype": "bfloat16"}),
        ("adamw_8bit", "cuda", {"method": "lora", "lora": LoraSettings(r=40)}),
        ("apollo_adamw", "cuda", {"method": "lora", "lora": LoraSettings(r=40)}),
        ("adafactor", "cuda", {"accumulate": True, "activation_checkpointing": True}),
        ("adafactor", "cuda", {"loop": "script"}),
        ("sgd", "cpu", {"optim_args": "momentum=0.9", "weight_decay": True}),
        ("rmsprop", "cuda", {"optim_args": "momentum=0.9,centered=true", "autocast": "float16"}),
    ],
)
def test_layers_repeat_with_adapters_options_and_loops(name, device, more):
    check_replication(name, device, "llama", **more)


# --- the whole answer ----------------------------------------------------------------------------


def question(**plan):
    spec = {
        "model": {"config": {**CONFIGS["llama"], "num_hidden_layers": 2}},
        "plan": {"per_device_train_batch_size": 2, "max_length": 64, **plan},
        "machine": {"accelerator": "Tesla T4", "count": 1},
    }
    return json.loads(json.dumps(spec))


def test_what_the_plan_page_offers_answers_with_numbers(worker):
    found = {name: answer(question(optim=name), worker=worker) for name in OFFERED}
    for name in OFFERED:
        assert found[name]["verdict"] == "fits"
        assert found[name]["step_seconds"] > 0
    states = {name: found[name]["categories"].get("optimizer", 0) for name in OFFERED}
    assert states["sgd"] == 0 < states["adafactor"] < states["adamw_torch_fused"]


def test_paged_optimizer_says_what_is_not_counted(worker):
    found = answer(question(optim="paged_adamw_8bit"), worker=worker)
    assert found["verdict"] == "fits"
    assert any("managed memory" in a for a in found["assumptions"])
    assert any("bitsandbytes 0.50.2" in a for a in found["assumptions"])


def test_refused_optimizer_is_unknown_with_its_reason(worker):
    found = answer(question(optim="lomo"), worker=worker)
    assert (found["verdict"], found["allocated_bytes"]) == ("unknown", None)
    assert "'lomo' is not simulated" in found["assumptions"][0]
    assert "inside the backward" in found["assumptions"][0]
