"""Hand-made records for the pages' tests. Test data: no number here was measured or simulated."""

import dataclasses
import math
import os
import socket
from pathlib import Path

import pytest

import advisor.locale
from advisor import events, measurements
from advisor.data import DataDescription
from advisor.elsewhere import Elsewhere
from advisor.errors import InputError
from advisor.hardware import catalogue, choice
from advisor.hardware.machine import Cpu, Gpu, Machine, TorchBuild
from advisor.locale import Message
from advisor.memory import CATEGORIES, MemoryEstimate, StepTimeline, verdict
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.recommend import Question, SweepCell
from advisor.recommendation import Advice, Alternative, Conflict, Recommendation
from advisor.rules.advice import is_outside, set_by_user
from advisor.speed import TimeEstimate
from trainer import process, record, runs

GIB = 2**30
MESSAGES = {
    "en": {
        "test.reason": "a reason with the number {number}",
        "test.other": "{value} would need {peak:gib} GiB",
        "test.label": "adapters of rank {rank}",
        "test.conflict": "micro-batch {batch} and rows of {length} tokens cannot both hold",
        "test.way_out": "micro-batch {batch} has the same result",
        "test.progress": "tracing the training step",
    },
    "zh": {
        "test.reason": "zh: a reason with {number}",
        "test.other": "zh: {value} needs {peak:gib}",
        "test.label": "zh: rank {rank}",
        "test.conflict": "zh: {batch} and {length}",
        "test.way_out": "zh: {batch}",
        "test.progress": "zh: tracing",
    },
}
_real_catalogue = advisor.locale.catalogue


def catalogue_with_tests(package, lang):
    """The real catalogue, with the messages of these records in the advisor's."""
    texts = _real_catalogue(package, lang)
    return {**texts, **MESSAGES[lang]} if package == "advisor.locale" else texts


def cpu_machine() -> Machine:
    return Machine(
        name="Test CPU, 2 cores",
        cpu=Cpu(model="Test CPU", usable_cores=2),
        ram_total_bytes=8 * GIB,
        ram_free_bytes=6 * GIB,
        disk_free_bytes=80 * GIB,
        torch=TorchBuild(version="2.13.0"),
    )


def gpu_machine(source="probe") -> Machine:
    gpu = Gpu(
        name="Tesla T4",
        index=0,
        uuid="GPU-1",
        compute_capability=(7, 5),
        total_bytes=int(14.6 * GIB),
        free_bytes=int(14.1 * GIB),
        used_bytes=int(0.5 * GIB),
        bf16_native=False,
    )
    base = cpu_machine()
    return dataclasses.replace(
        base, name="1 x Tesla T4", source=source, gpus=(gpu,), driver_version="580.1"
    )


def model() -> ModelDescription:
    return ModelDescription(
        name="test-model",
        path="/models/test-model",
        config={"model_type": "llama"},
        model_type="llama",
        architecture="LlamaForCausalLM",
        num_parameters=596_000_000,
        num_trainable_layers=28,
        hidden_size=1024,
        vocab_size=151_936,
        max_position_embeddings=4096,
        has_weights=True,
        has_tokenizer=True,
    )


def data() -> DataDescription:
    lengths = tuple(range(40, 1986, 8))
    return DataDescription(
        name="dialogues.jsonl",
        path="/data/dialogues.jsonl",
        format="jsonl",
        columns=("text", "note"),
        text_column="text",
        num_rows=11_824,
        num_eval_rows=622,
        num_measured_rows=12_446,
        lengths=lengths,
        length_source="tokenizer",
        mean_tokens=402.0,
        p50_tokens=350,
        p95_tokens=1200,
        p99_tokens=1410,
        max_tokens=1986,
        preview=("Hello, how can I help?",),
    )


def memory_of(plan: TrainingPlan, machine: Machine) -> MemoryEstimate:
    tokens = plan.per_device_train_batch_size * min(plan.max_length, 1986)
    trained = 1.0 if plan.method == "full" else 0.04
    sizes = {
        "context": 0.46,
        "weights": 2.2,
        "optimizer": 4.4 * trained,
        "gradients": 2.2 * trained,
        "activations": tokens * (3.6e-4 if plan.activation_checkpointing else 9e-4),
        "logits": tokens * 5e-4,
        "workspace": 0.1,
        "fragmentation": 0.3,
    }
    categories = {k: int(v * GIB) for k, v in sizes.items()}
    peak = sum(categories.values())
    interval = (int(0.98 * peak), int(1.02 * peak))
    capacity = machine.capacity_bytes()
    return MemoryEstimate(
        allocated_bytes=peak - categories["context"] - categories["fragmentation"],
        reserved_bytes=peak - categories["context"],
        process_bytes=peak,
        interval={"process_bytes": interval},
        capacity_bytes=capacity,
        verdict=verdict(interval[1], capacity),
        phases={},
        categories=categories,
    )


def time_of(plan: TrainingPlan) -> TimeEstimate:
    speed = 900.0 * math.log2(1 + plan.per_device_train_batch_size)
    speed *= 0.78 if plan.activation_checkpointing else 1.0
    speed *= 1.2 if plan.method == "lora" else 1.0
    steps = plan.optimizer_steps(11_824)
    step = plan.effective_batch_size() * 402 / speed
    return TimeEstimate(
        step_seconds=step,
        tokens_per_second=speed,
        num_steps=steps,
        total_seconds=steps * step,
        total_seconds_interval=(0.8 * steps * step, 1.3 * steps * step),
        regime="compute",
    )


def timeline_of(memory: MemoryEstimate) -> StepTimeline:
    n = 40
    c = {k: v for k, v in memory.categories.items() if k != "fragmentation"}

    def series(name, i):
        if name in ("context", "weights", "optimizer"):
            return c[name]
        if name == "gradients":
            return c[name] * min(max(i - n // 2, 0) / 18, 1) if i < n - 2 else 0
        if name == "activations":
            return c[name] * (i / (n / 2) if i <= n / 2 else max(0, 2 - i / (n / 2)))
        if name == "logits":
            return c[name] if n // 2 - 3 <= i <= n // 2 + 2 else 0
        return c[name] * (i % 2)

    return StepTimeline(
        time_fraction=tuple(i / (n - 1) for i in range(n)),
        bytes_by_category={
            k: tuple(int(series(k, i)) for i in range(n)) for k in CATEGORIES[:-1] if k in c
        },
        phase_starts={"forward": 0.0, "backward": 0.5, "optimizer": 0.87},
    )


def plan_for(question: Question) -> TrainingPlan:
    """A plan that honours the pins the tests use."""
    from advisor.plan import LoraSettings

    known = {f.name for f in dataclasses.fields(TrainingPlan)} | {"effective_batch_size"}
    pins = {k: v for k, v in question.pins.items() if k in known}
    method = "full" if question.method == "auto" else question.method
    effective = pins.pop("effective_batch_size", 64)
    batch = pins.get("per_device_train_batch_size", 1 if method == "full" else 2)
    values = {
        "method": method,
        "lora": LoraSettings() if method != "full" else None,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": max(effective // batch, 1),
        "max_length": 2048,
        "learning_rate": 2e-5 if method == "full" else 2e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "activation_checkpointing": True,
        "logging_steps": 10,
    }
    return TrainingPlan(**(values | pins))


def advice_of(plan: TrainingPlan, question: Question, memory: MemoryEstimate) -> tuple[Advice, ...]:
    derived = {"effective_batch_size": plan.effective_batch_size()}
    options = {
        "effective_batch_size": (32, 64, 128),
        "per_device_train_batch_size": (1, 2, 4, 8),
        "learning_rate": (1e-5, 2e-5, 5e-5),
    }
    names = [
        "method", "effective_batch_size", "per_device_train_batch_size", "max_length",
        "activation_checkpointing", "fp16", "dtype", "optim", "learning_rate",
        "lr_scheduler_type", "warmup_steps", "num_train_epochs", "weight_decay", "max_grad_norm",
        "logging_steps", "eval_strategy", "save_steps", "dataloader_num_workers", "seed",
    ]  # fmt: skip
    sources = ("simulated", "rule", "read", "measured")
    rows = []
    for number, name in enumerate(names):
        value = derived.get(name, getattr(plan, name, None))
        pinned = name in question.pins
        rows.append(
            Advice(
                field=name,
                value=value,
                reason=Message(id="test.reason", params={"number": number}),
                source="user" if pinned else sources[number % 4],
                counterfactual=Message(
                    id="test.other", params={"value": 8, "peak": memory.process_bytes}
                ),
                pinned=pinned,
                rule=f"R-{number:02d}",
                reference="a test reference",
                options=options.get(name, ()),
            )
        )
    rows += [set_by_user(n, v) for n, v in question.pins.items() if is_outside(n)]
    return tuple(rows)


def recommendation(
    question: Question | None = None, machine: Machine | None = None
) -> Recommendation:
    question, machine = question or Question(), machine or gpu_machine()
    plan = plan_for(question)
    memory = memory_of(plan, machine)
    if memory.verdict == "does_not_fit":
        return conflicting(question, machine, memory)
    other = plan_for(dataclasses.replace(question, method="lora"))
    alternative = Alternative(
        label=Message(id="test.label", params={"rank": 16}),
        plan=other,
        memory=memory_of(other, machine),
        time=time_of(other),
        pins={"method": "lora"},
    )
    return Recommendation(
        plan=plan,
        advice=advice_of(plan, question, memory),
        memory=memory,
        time=time_of(plan),
        alternatives=(alternative,),
        conflicts=(),
        machine=machine,
        model=model(),
        data=data(),
        versions={"training-advisor": "0"},
        timeline=timeline_of(memory),
    )


def conflicting(question: Question, machine: Machine, memory: MemoryEstimate) -> Recommendation:
    batch = question.pins.get("per_device_train_batch_size", 1)
    conflict = Conflict(
        fields=("per_device_train_batch_size", "max_length"),
        reason=Message(id="test.conflict", params={"batch": batch, "length": 2048}),
        ways_out=(
            ("per_device_train_batch_size", Message(id="test.way_out", params={"batch": 1})),
        ),
    )
    return Recommendation(
        plan=None,
        advice=(),
        memory=memory,
        time=None,
        alternatives=(),
        conflicts=(conflict,),
        machine=machine,
        model=model(),
        data=data(),
        versions={},
    )


class FakeAdvisor:
    """Answers from the records above; remembers what it was asked."""

    def __init__(self, this_machine: Machine | None = None) -> None:
        self.this_machine = this_machine or gpu_machine()
        self.model = model()
        self.data = data()
        self.asked: list[Question] = []
        self.probes = 0
        self.at_once = 1000

    def machine(self, name=None, *, refresh=False):
        self.probes += refresh
        if name is not None and choice.is_local(name):
            return choice.choose(self.this_machine, name)
        return self.this_machine if name is None else gpu_machine(source="catalogue")

    def recommend(self, question, *, on_progress=None, on_first=None):
        self.asked.append(question)
        if on_progress:
            on_progress("test.progress", {})
        if question.model != "demo" and "missing" in question.model:
            raise InputError(f"No model at {question.model}; give a directory.", field="model")
        if question.data and "missing" in question.data:
            raise InputError(f"No file {question.data}; give a path.", field="data")
        if question.pins.get("learning_rate", 1) <= 0:
            raise InputError("learning_rate must be greater than 0, got 0.", field="learning_rate")
        answer = recommendation(question, self.machine(question.machine))
        return dataclasses.replace(answer, model=self.model, data=self.data)

    def calibrate(self, _gpu, on_progress=None, *, cancelled):
        return measurements.calibrate(on_progress, cancelled=cancelled)

    def elsewhere(self, question, plan, names, seconds):
        """Two machines at a time; what is not NVIDIA's is unknown."""
        found = []
        for name in list(names)[: self.at_once]:
            machine = self.this_machine if name is None else catalogue.machine_from_name(name)
            memory, time = memory_of(plan, machine), time_of(plan)
            if any(gpu.vendor != "nvidia" for gpu in machine.gpus if name is not None):
                memory = MemoryEstimate.unknown("not simulated", None)
                time = TimeEstimate(step_seconds=None)
            one = Elsewhere(name=name, machine=machine, plan=plan, memory=memory, time=time)
            found.append(one)
        return tuple(found)

    def sweep(self, question, plan):
        machine, cells = self.machine(question.machine), []
        for batch in (1, 2, 4, 8):
            for length in (256, 512, 1024, 1986):
                p = plan.replace(per_device_train_batch_size=batch, max_length=length)
                memory, time = memory_of(p, machine), time_of(p)
                cells.append(
                    SweepCell(
                        batch=batch,
                        length=length,
                        process_bytes=memory.process_bytes,
                        verdict=memory.verdict,
                        tokens_per_second=time.tokens_per_second,
                    )
                )
        return tuple(cells)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """A user data directory of the test's own."""
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def messages(monkeypatch):
    monkeypatch.setattr(advisor.locale, "catalogue", catalogue_with_tests)


@pytest.fixture
def fake(monkeypatch) -> FakeAdvisor:
    """The Advisor of the pages, replaced."""
    import app.cache

    fake = FakeAdvisor()
    monkeypatch.setattr(app.cache, "advisor", lambda: fake)
    monkeypatch.setattr(app.cache, "probe_machine", lambda runs: fake.this_machine)
    return fake


def write_run(
    home: Path,
    name: str,
    state: str,
    *,
    steps: int = 200,
    planned: bool = True,
    nan_at: int | None = None,
    accuracy: bool = False,
    now: float = 1_800_000_000.0,
) -> Path:
    """A run directory as the trainer leaves it in `state`; an active one names this process."""
    directory = home / "runs" / name
    directory.mkdir(parents=True)
    rec = recommendation()
    plan = rec.to_dict() if planned else None
    if planned:
        record.write_json(directory / record.PLAN, plan)
    record.write_json(directory / record.ARGUMENTS, {})
    total, begin = rec.time.num_steps, now - steps * 30
    active = state in runs.ACTIVE
    run = {
        "v": 1,
        "state": "running",
        "host": socket.gethostname(),
        "started_at": begin,
        "num_steps": total,
        "trainer": process.identify(os.getpid()) if active else None,
        "predicted": runs.predictions(plan),
        "stop": {"force": False} if state == "stopping" else None,
        "signal": 9 if state == "failed" else None,
    }
    record.write_json(directory / record.RECORD, run)
    if state == "starting":
        return directory
    lines = [events.encode("start", step=0, time=begin)]
    for step in range(10, steps + 1, 10):
        time = begin + 30 * step
        rate = 2e-5 * min(
            (step - 1) / 17,
            0.5 * (1 + math.cos(math.pi * max(step - 18, 0) / (total - 17))),
        )
        lines.append(
            events.encode(
                "log",
                step=step,
                time=time,
                epoch=3 * step / total,
                loss=math.nan
                if step == nan_at
                else 1.2 + math.exp(-step / 60) + 0.03 * math.sin(step),
                learning_rate=rate,
                grad_norm=0.8 + 0.5 * abs(math.sin(step)),
                tokens_per_second=880.0 + 20 * math.sin(step),
            )
        )
        peak = int((0.97 + 0.02 * math.sin(step)) * rec.memory.process_bytes)
        lines.append(events.encode("memory", step=step, time=time, process_bytes=peak))
        if step % 50 == 0:
            metrics = {"eval_accuracy": step / 250, "eval_f1": 0.5} if accuracy else {}
            loss = 1.25 + math.exp(-step / 60)
            lines.append(events.encode("eval", step=step, time=time, eval_loss=loss, **metrics))
            lines.append(
                events.encode("checkpoint", step=step, time=time, path=f"checkpoint-{step}")
            )
    if state in ("finished", "stopped"):
        lines.append(events.encode("end", step=steps, time=now, reason=state))
    (directory / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    log = "loading\n" + "".join(f"step {s} loss 1.3\n" for s in range(steps - 20, steps + 1))
    (directory / "output.log").write_text(log, encoding="utf-8")
    return directory


@pytest.fixture
def records():
    """This module: the makers of test records."""
    import sys

    return sys.modules[__name__]
