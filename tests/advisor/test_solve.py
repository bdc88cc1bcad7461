"""The solver with an estimator that grows like a real one. Its numbers are test data."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.data import DataDescription
from advisor.errors import InputError, PlanError, SimulationError, UnknownNameError
from advisor.hardware.catalogue import machine_from_name
from advisor.hardware.machine import Cpu, Machine
from advisor.pins import check_pins
from advisor.rules.advice import ORDER, advise
from advisor.rules.facts import Facts
from advisor.search import Search
from advisor.solve import effective_batch, micro_batches
from advisor.speed import TimeEstimate
from tests.advisor.fakes import memory_of, model

GIB = 2**30
LENGTHS = tuple(range(40, 1000, 8))


def data(rows=20_000):
    return DataDescription(
        name="d",
        path="/d.jsonl",
        format="jsonl",
        columns=("text",),
        text_column="text",
        num_rows=rows,
        num_eval_rows=rows // 20,
        num_measured_rows=len(LENGTHS),
        lengths=LENGTHS,
        length_source="tokenizer",
        mean_tokens=sum(LENGTHS) / len(LENGTHS),
        p50_tokens=500,
        p95_tokens=900,
        p99_tokens=980,
        max_tokens=LENGTHS[-1],
    )


def cpu(free=24 * GIB, native=False):
    return Machine(name="cpu", cpu=Cpu(usable_cores=2, bf16_native=native), ram_free_bytes=free)


def facts_on(machine, parameters=600e6, **kwargs):
    described = model(parameters, **kwargs)
    return Facts(machine=machine, model=described, data=data(), task="causal-lm")


class Estimator:
    """States by parameter, activations by token; checkpointing keeps a fifth of them."""

    def __init__(self, facts, *, known=True):
        self.facts = facts
        self.known = known

    def memory(self, plan):
        if not self.known:
            raise SimulationError("not simulated")
        size = self.facts.model.num_parameters
        each = {"adamw_torch_fused": 16, "adamw_bnb_8bit": 10, "adafactor": 8, "sgd": 8}
        states = each[plan.optim] * size if plan.method == "full" else 2 * size + 1e8
        tokens = plan.per_device_train_batch_size * min(plan.max_length, LENGTHS[-1])
        kept = 4e5 * (0.2 if plan.activation_checkpointing else 1)
        peak = int(states + tokens * (kept + 2e5))
        return memory_of(peak, self.facts.machine)

    def at_shape(self, plan, batch, length):
        shaped = plan.replace(per_device_train_batch_size=batch, max_length=length)
        return self.memory(shaped), None

    def time(self, plan):
        cost = 1.3 if plan.activation_checkpointing else 1.0
        step = plan.effective_batch_size() * cost + plan.gradient_accumulation_steps
        return TimeEstimate(step_seconds=step, total_seconds=step * plan.optimizer_steps(20_000))


def solve(facts, pins=None, goal="fastest", methods=None):
    search = Search(facts, Estimator(facts), check_pins(pins or {}))
    return search.best(methods or facts.methods(), goal)


def test_full_fine_tuning_is_taken_where_it_fits_and_adapters_where_not():
    assert solve(facts_on(machine_from_name("A100-SXM4-80GB"))).plan.method == "full"
    assert solve(facts_on(machine_from_name("T4"), parameters=3e9)).plan.method == "lora"


def test_model_without_weights_is_never_given_adapters():
    assert solve(facts_on(machine_from_name("T4"), parameters=3e9, weights=False)) is None


def test_config_alone_may_have_its_weights_elsewhere():
    described = dataclasses.replace(model(3e9, weights=False), has_tokenizer=False)
    facts = dataclasses.replace(facts_on(machine_from_name("T4")), model=described)
    assert solve(facts).plan.method == "lora"


@pytest.mark.parametrize("weights", [True, False])
def test_method_row_offers_what_can_be_asked_for(weights):
    facts = facts_on(machine_from_name("A100-SXM4-80GB"), weights=weights)
    (row,) = (a for a in advise(facts, solve(facts).plan, {}, {}) if a.field == "method")
    assert row.options == (("full", "lora", "qlora") if weights else ("full",))


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("A100-SXM4-80GB", "full", ("float32", True, False)),
        ("A100-SXM4-80GB", "lora", ("bfloat16", True, False)),
        ("T4", "full", ("float32", False, True)),
        ("T4", "lora", ("float16", False, True)),
        ("V100-SXM2-32GB", "full", ("float32", False, True)),
        ("GTX 1080 Ti", "full", ("float32", False, False)),
        ("Tesla P40", "lora", ("float32", False, False)),
    ],
)
def test_precision_follows_the_card(name, method, expected):
    plan = solve(facts_on(machine_from_name(name), parameters=1e8), methods=(method,)).plan
    assert (plan.dtype, plan.bf16, plan.fp16) == expected


def advice_on(facts, plan, name, pins=None, others=None):
    (row,) = (a for a in advise(facts, plan, pins or {}, others or {}) if a.field == name)
    return row


def test_float16_goes_with_its_scaler_and_says_so():
    facts = facts_on(machine_from_name("T4"), parameters=1e8)
    row = advice_on(facts, solve(facts).plan, "fp16")
    assert (row.value, row.reason.id) == (True, "precision.scaler")


def test_a_class_without_sdpa_gets_eager_and_the_reason():
    facts = facts_on(machine_from_name("T4"), parameters=1e8)
    facts = dataclasses.replace(facts, model=dataclasses.replace(facts.model, has_sdpa=False))
    row = advice_on(facts, solve(facts).plan, "attn_implementation")
    assert (row.value, row.reason.id) == ("eager", "attention.eager")


@pytest.mark.parametrize("kind", ["t5", "gemma2"])
def test_a_model_that_overflows_float16_stays_float32(kind):
    facts = facts_on(machine_from_name("T4"), parameters=1e8)
    facts = dataclasses.replace(facts, model=dataclasses.replace(facts.model, model_type=kind))
    for method in ("full", "lora"):
        plan = solve(facts, methods=(method,)).plan
        assert (plan.dtype, plan.fp16) == ("float32", False)
        assert advice_on(facts, plan, "fp16").reason.id == "precision.overflow"


def test_smaller_states_are_tried_only_where_adamw_does_not_fit():
    card = machine_from_name("T4")
    fits, eight, least, no = (facts_on(card, parameters=p) for p in (8e8, 1.3e9, 1.7e9, 3e9))
    assert solve(fits, methods=("full",)).plan.optim == "adamw_torch_fused"
    plan = solve(eight, methods=("full",)).plan
    assert plan.optim == "adamw_bnb_8bit"
    assert plan.learning_rate == solve(fits, methods=("full",)).plan.learning_rate
    assert solve(least, methods=("full",)).plan.optim == "adafactor"
    assert solve(no, methods=("full",)) is None
    assert solve(eight).plan.method == "lora"  # which fits with AdamW
    assert solve(eight, {"optim": "adamw_torch_fused"}, methods=("full",)) is None


def test_smaller_states_say_what_they_need_and_what_adamw_would():
    facts = facts_on(machine_from_name("T4"), parameters=1.3e9)
    search = Search(facts, Estimator(facts), {})
    best = search.best(("full",), "fastest")
    adamw = search.candidate(search.plan("full", 1, True)).memory
    row = advice_on(facts, best.plan, "optim", others={"optim": adamw})
    assert (row.reason.id, row.source) == ("optim.bitsandbytes", "simulated")
    assert row.counterfactual.id == "other.optim.over"
    assert row.counterfactual.params["name"] == "adamw_torch_fused"
    assert "2110.02861" in row.reference


def test_the_smallest_plan_takes_the_smallest_states_and_adapters_keep_adamw():
    facts = facts_on(machine_from_name("A100-SXM4-80GB"))
    assert solve(facts, goal="smallest", methods=("full",)).plan.optim == "adafactor"
    assert solve(facts, goal="smallest", methods=("lora",)).plan.optim == "adamw_torch_fused"
    assert solve(facts_on(cpu()), goal="smallest", methods=("full",)).plan.optim == "adafactor"
    hopeless = facts_on(machine_from_name("T4"), parameters=1.3e9)  # for AdamW
    assert solve(hopeless, goal="smallest", methods=("full",)).plan.optim == "adafactor"
    held = {"optim": "adamw_bnb_8bit"}
    assert solve(facts, held, "smallest", ("full",)).plan.optim == "adamw_bnb_8bit"


def test_sgd_comes_by_pin_alone_with_a_warning_and_a_linear_rate():
    facts = facts_on(machine_from_name("A100-SXM4-80GB"))
    pins = {"optim": "sgd", "effective_batch_size": 16}
    plan = solve(facts, pins, methods=("full",)).plan
    adamw = solve(facts, {"effective_batch_size": 16}, methods=("full",)).plan
    assert plan.learning_rate == pytest.approx(adamw.learning_rate / 2)  # a quarter, not its root
    row = advice_on(facts, plan, "optim", pins)
    assert (row.reason.id, row.source, row.pinned) == ("optim.sgd", "user", True)
    assert advice_on(facts, plan, "learning_rate", pins).reason.id == "rate.sgd"
    assert "sgd" not in advice_on(facts, adamw, "optim").options


def test_cpu_never_gets_fp16_and_bf16_only_where_native():
    assert not solve(facts_on(cpu())).plan.bf16
    assert solve(facts_on(cpu(native=True))).plan.bf16
    assert not solve(facts_on(cpu(native=True))).plan.fp16


def test_pinned_micro_batch_of_one_keeps_the_effective_batch():
    facts = facts_on(machine_from_name("A100-SXM4-80GB"))
    free, pinned = solve(facts).plan, solve(facts, {"per_device_train_batch_size": 1}).plan
    assert pinned.per_device_train_batch_size == 1
    assert pinned.effective_batch_size() == free.effective_batch_size()
    assert pinned.learning_rate == free.learning_rate


def test_max_steps_and_epochs_exclude_each_other():
    plan = solve(facts_on(cpu()), {"max_steps": 40}).plan
    assert (plan.max_steps, plan.num_train_epochs) == (40, None)
    assert plan.logging_steps <= 4


def test_pins_that_contradict_are_refused():
    facts = facts_on(cpu())
    pins = {
        "effective_batch_size": 16,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }
    with pytest.raises(PlanError, match="unpin one"):
        effective_batch(facts, "full", pins)


def test_unknown_and_ill_typed_pins_are_refused_by_name():
    with pytest.raises(UnknownNameError, match="learning_rate"):
        check_pins({"learning_rat": 1e-4})
    with pytest.raises(InputError, match="learning_rate must be a number"):
        check_pins({"learning_rate": "fast"})
    with pytest.raises(InputError, match="bf16 must be true or false"):
        check_pins({"bf16": "yes"})
    with pytest.raises(InputError, match="exactly one of load_in_4bit"):
        check_pins({"quantization": {"load_in_4bit": True, "load_in_8bit": True}})


def test_what_cannot_fit_is_not_traced():
    facts = facts_on(machine_from_name("Tesla T4"), parameters=8e9)
    asked = []

    class Watched(Estimator):
        def memory(self, plan):
            asked.append(plan.method)
            return super().memory(plan)

    search = Search(facts, Watched(facts), {})
    assert search.best(("full", "lora"), "fastest") is None
    assert asked == []
    assert search.least().process_bytes > 16e9  # asked for only now
    assert set(asked) == {"lora"}


def test_what_fits_only_as_shards_is_traced():
    facts = facts_on(machine_from_name("Tesla T4"), parameters=3e9)  # 48 GB whole, 12 GB on each
    asked = []

    class Watched(Estimator):
        def memory(self, plan):
            asked.append((plan.is_sharded(), plan.devices))
            return super().memory(plan)

    for pins in ({"devices": 4}, {"devices": 4, "fsdp": True}):
        Search(facts, Watched(facts), pins).best(("full",), "fastest")
    assert set(asked) == {(True, 4)}


def test_factors_of_the_effective_batch_count_every_device():
    facts = facts_on(cpu())
    pins = {
        "effective_batch_size": 16,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "devices": 2,
    }
    assert effective_batch(facts, "full", pins) == 16
    for devices, accumulation in ((3, 2), (2, 4), (2, 1)):
        changed = {**pins, "devices": devices, "gradient_accumulation_steps": accumulation}
        with pytest.raises(PlanError, match=f"{devices}"):
            effective_batch(facts, "full", changed)
    halves = {"effective_batch_size": 8, "per_device_train_batch_size": 8, "devices": 2}
    with pytest.raises(PlanError, match="devices 2"):
        effective_batch(facts, "full", halves)


def test_memory_ceiling_is_a_limit():
    facts = facts_on(machine_from_name("A100-SXM4-80GB"))
    ceiling = 14 * GIB
    found = solve(facts, {"memory_ceiling_bytes": ceiling})
    assert found.memory.process_bytes <= ceiling
    assert solve(facts).memory.process_bytes > ceiling


def test_less_room_never_fits_better():
    machine = cpu(free=20 * GIB)
    found = memory_of(10 * GIB, machine)
    assert found.limited(9 * GIB).verdict == "does_not_fit"
    assert found.limited(30 * GIB).capacity_bytes == 20 * GIB
    failed = dataclasses.replace(found, verdict="tight")  # as where runs of this kind ended in OOM
    assert failed.limited(19 * GIB).verdict == "tight"
    returning = dataclasses.replace(memory_of(25 * GIB, machine), verdict="tight")
    assert returning.limited(21 * GIB).verdict == "tight"  # the ceiling is above what is free
    assert returning.limited(19 * GIB).verdict == "does_not_fit"
    assert memory_of(10 * GIB, Machine(name="unknown")).limited(9 * GIB).capacity_bytes == 9 * GIB


def test_unknown_memory_still_yields_a_plan_that_says_so():
    facts = facts_on(cpu())
    found = Search(facts, Estimator(facts, known=False), {}).best(("full",), "fastest")
    assert found.memory.verdict == "unknown"
    assert "not simulated" in found.memory.assumptions[0]


@given(
    gib=st.integers(6, 200),
    goal=st.sampled_from(["fastest", "smallest"]),
    effective=st.none() | st.integers(1, 96),
    micro=st.none() | st.sampled_from([1, 2, 4]),
)
def test_every_plan_fits_and_keeps_its_contract(gib, goal, effective, micro):
    facts = facts_on(cpu(free=gib * GIB))
    pins = {"effective_batch_size": effective, "per_device_train_batch_size": micro}
    pins = {k: v for k, v in pins.items() if v is not None}
    try:
        found = solve(facts, pins, goal)
    except PlanError:
        assert effective % micro
        return
    if found is None:
        return
    plan = found.plan
    assert found.memory.process_bytes <= gib * GIB
    assert plan.effective_batch_size() == effective_batch(facts, plan.method, pins)
    assert effective is None or plan.effective_batch_size() == effective
    assert micro is None or plan.per_device_train_batch_size == micro


@given(gib=st.integers(12, 60), more=st.integers(1, 60))
def test_more_free_memory_never_shrinks_the_micro_batch(gib, more):
    sizes = []
    for free in (gib, gib + more):
        facts = facts_on(cpu(free=free * GIB))
        found = solve(facts, {"activation_checkpointing": False}, methods=("full",))
        sizes.append(found.plan.per_device_train_batch_size if found else 0)
    assert sizes[0] <= sizes[1]


def test_smallest_needs_no_more_than_fastest():
    facts = facts_on(machine_from_name("A100-SXM4-80GB"))
    small, fast = solve(facts, goal="smallest"), solve(facts)
    assert small.memory.process_bytes <= fast.memory.process_bytes
    assert dataclasses.asdict(small.plan) != dataclasses.asdict(fast.plan)


@pytest.mark.parametrize("machine", [cpu(), cpu(native=True), machine_from_name("T4")])
@pytest.mark.parametrize("pins", [{}, {"max_steps": 30}, {"activation_checkpointing": True}])
def test_every_argument_has_advice_that_reads_in_both_languages(machine, pins):
    from advisor.locale import LANGUAGES, render

    facts = facts_on(machine)
    found = solve(facts, pins)
    others = dict.fromkeys(("larger", "checkpointing", "method"), found.memory)
    advice = advise(facts, found.plan, pins, others)
    values = {**found.plan.to_dict(), "effective_batch_size": found.plan.effective_batch_size()}
    skipped = "num_train_epochs" if pins.get("max_steps") else "max_steps"
    assert [a.field for a in advice] == [name for name in ORDER if name != skipped]
    for a in advice:
        assert (a.source == "user") == a.pinned == (a.field in pins)
        assert a.value == values[a.field]
        for lang in LANGUAGES:
            assert render(a.reason, lang)
            assert a.counterfactual is None or render(a.counterfactual, lang)
        assert not a.options or a.value in a.options


def test_devices_share_the_effective_batch():
    assert micro_batches(8, {"devices": 4}) == [2, 1]
    assert micro_batches(2, {"devices": 4}) == [1]
    pins = {"devices": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    assert effective_batch(None, "full", pins) == 24


def test_packed_rows_are_full_and_steps_count_blocks():
    facts = facts_on(machine_from_name("A100-SXM4-80GB"))
    micro = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    free = solve(facts, {**micro, "max_length": 2048}).plan
    search = Search(facts, Estimator(facts), {**micro, "max_length": 2048, "packing": True})
    packed = search.best(("full",), "fastest").plan
    blocks = round(20_000 * facts.data.mean_tokens) // 2048
    assert search.facts.num_rows() == blocks == facts.data.rows_of(packed).num_rows
    assert (free.attention_mask, packed.attention_mask) == (True, False)
    assert packed.train_sampling_strategy == "random" != free.train_sampling_strategy
    assert packed.num_train_epochs == free.num_train_epochs  # of texts, not of blocks
    assert packed.logging_steps < free.logging_steps
    reasons = {a.field: a.reason for a in advise(search.facts, packed, {}, {})}
    assert reasons["max_length"].id == "length.packed"
    assert reasons["num_train_epochs"].params["rows"] == blocks


@pytest.mark.parametrize(("longest", "block"), [(60, 1024), (1500, 1504), (9000, 4096)])
def test_unpinned_blocks_hold_the_longest_text_and_several_short_ones(longest, block):
    facts = facts_on(cpu())
    facts = dataclasses.replace(facts, data=dataclasses.replace(data(), max_tokens=longest))
    assert Search(facts, Estimator(facts), {"packing": True}).facts.block_length == block


def test_without_padding_there_is_no_mask_and_rows_stay_rows():
    facts = facts_on(machine_from_name("A100-SXM4-80GB"))
    pins = {"padding_free": True, "attn_implementation": "flash_attention_2"}
    plan = solve(facts, {**pins, "per_device_train_batch_size": 4}).plan
    assert (plan.attention_mask, plan.train_sampling_strategy) == (False, "random")
    assert facts.data.rows_of(plan) is facts.data
    with pytest.raises(PlanError, match="flash_attention_2"):
        solve(facts, {"padding_free": True})
