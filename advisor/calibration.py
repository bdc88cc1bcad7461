"""What this machine's own finished runs say of the estimates. Reads run directories.

A run counts for a question of the same kind alone: same device, method, model type, precision,
padding, quantisation and way over several devices. Unrelated kinds keep the estimate they had.
What the driver takes beside torch belongs to the card, the driver and torch, not to a kind.
"""

import json
import socket
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.errors import InputError
from advisor.hardware.machine import Machine
from advisor.locale import LANGUAGES, say
from advisor.plan import TrainingPlan
from advisor.recommendation import Recommendation
from advisor.units import GIB

MAX_RUNS = 200
"""Newest run directories that are looked at."""
MIN_STEPS = 10
"""A shorter run need not have seen the longest batch, nor a steady step; a proof has."""
BELIEVED = (0.5, 2.0)
"""Ratios of measured to predicted outside of this tell of another machine load, not of a kind."""
_MAX_CONTEXT_BYTES = 4 * GIB
"""More is not the context of one process."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What must be alike for a run to say something about a plan."""

    device: str
    """The GPU's name, or "cpu"."""
    method: str
    model_type: str
    dtype: str
    autocast: str
    padded: bool
    padding_free: bool
    activation_checkpointing: bool
    use_liger_kernel: bool
    weight_bits: int | None
    """Of quantised weights."""
    devices: int
    fsdp: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """What must be alike for a run to measure a card's context."""

    gpu: str
    driver: str | None
    torch: str | None


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The highest a run went, in bytes, beside what had been predicted without any learning."""

    fixed: int
    """Predicted of the process before the model, on a CPU; 0 where torch counts, on a GPU."""
    kept: int
    """Predicted beyond that."""
    measured: int

    def excess(self) -> int:
        """Measured beyond predicted."""
        return self.measured - self.fixed - self.kept

    def share(self) -> float:
        """Of the excess, what a predicted byte of each part explains, were both as uncertain."""
        return self.excess() / (self.fixed**2 + self.kept**2)

    def offset(self) -> float:
        """Bytes the fixed part was off."""
        return self.fixed**2 * self.share()

    def factor(self) -> float:
        """What the rest was off by."""
        return 1 + self.kept * self.share()


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What runs of one kind measured, against what had been predicted without any learning."""

    peaks: tuple[Peak, ...] = ()
    """Of the process on a CPU, of what torch reserved on a GPU."""
    contexts: tuple[int, ...] = ()
    """Bytes the driver counted beyond what torch had reserved, on a GPU."""
    speed_ratios: tuple[float, ...] = ()
    """Measured over predicted tokens a second."""
    num_out_of_memory: int = 0
    """Runs that ran out of memory although they were predicted to fit."""

    def offset(self) -> float:
        """Bytes to add to what the process takes before the model, on a CPU."""
        return statistics.median(p.offset() for p in self.peaks) if self.peaks else 0.0

    def memory(self) -> float:
        """Factor for the memory beyond that; 1 where nothing was learned."""
        return statistics.median(p.factor() for p in self.peaks) if self.peaks else 1.0

    def memory_misses(self) -> tuple[float, ...]:
        """Measured over what is predicted now, of each run."""
        offset, factor = self.offset(), self.memory()
        return tuple(p.measured / (p.fixed + offset + factor * p.kept) for p in self.peaks)

    def speed(self) -> float:
        """Factor for tokens a second; 1 where nothing was learned."""
        return statistics.median(self.speed_ratios) if self.speed_ratios else 1.0

    def time_misses(self) -> tuple[float, ...]:
        """Measured over what is predicted now of a step's time, of each run."""
        return tuple(self.speed() / ratio for ratio in self.speed_ratios)


NOTHING = Learned()


def kind_of(plan: TrainingPlan, device: str, model_type: str) -> Kind:
    """The kind a plan belongs to on a device ("cpu" or the GPU's name)."""
    quantised = plan.quantization
    return Kind(
        device=device,
        method=plan.method,
        model_type=model_type,
        dtype=plan.dtype,
        autocast="bf16" if plan.bf16 else "fp16" if plan.fp16 else "",
        padded=plan.attention_mask,
        padding_free=plan.padding_free,
        activation_checkpointing=plan.activation_checkpointing,
        use_liger_kernel=plan.use_liger_kernel,
        weight_bits=None if quantised is None else 4 if quantised.load_in_4bit else 8,
        devices=plan.devices,
        fsdp=plan.is_sharded(),
    )


def card_of(machine: Machine, gpu_name: str) -> Card:
    """What the context of a process on this card depends on."""
    torch = machine.torch.version if machine.torch is not None else None
    return Card(gpu=gpu_name, driver=machine.driver_version, torch=torch)


def learn(runs: Path, kind: Kind, basis: str | None = None, card: Card | None = None) -> Learned:
    """What the runs of this kind under `runs` measured, on this host.

    Args:
        runs: where run directories are.
        kind: what they must be of.
        basis: the rates of today's times; runs predicted with others teach no speed.
        card: the card, driver and torch of today; contexts are those of any kind under them.
    """
    tales = list(_tales(runs))
    told = [t for t in tales if t.kind == kind]
    bases = None if basis is None else {say(basis, lang) for lang in LANGUAGES}
    return Learned(
        peaks=tuple(t.peak for t in told if t.peak is not None),
        contexts=tuple(
            t.context
            for t in tales
            if t.context is not None and card is not None and t.card == card
        ),
        speed_ratios=_agreeing(
            t.speed_ratio
            for t in told
            if t.speed_ratio is not None and (bases is None or t.basis in bases)
        ),
        num_out_of_memory=sum(t.out_of_memory for t in told),
    )


def taught_by(directory: Path, basis: str | None = None) -> frozenset[str]:
    """What the next answers take from the run in `directory`: "memory", "time"."""
    tale = _tale(directory, _stamp(directory))
    if tale is None:
        return frozenset()
    learned = learn(directory.parent, tale.kind, basis)
    has_memory = tale.peak in learned.peaks or tale.context is not None
    has_time = tale.speed_ratio in learned.speed_ratios
    return frozenset(name for name, has in (("memory", has_memory), ("time", has_time)) if has)


def _agreeing(ratios: Iterable[float]) -> tuple[float, ...]:
    """Without those of a machine that was busy; most of three or more are no accident."""
    found = tuple(ratios)
    usual = tuple(r for r in found if BELIEVED[0] <= r <= BELIEVED[1])
    return found if len(found) > 2 and 2 * len(usual) < len(found) else usual


@dataclass(frozen=True, kw_only=True)
class _Tale:
    """What one run says."""

    kind: Kind
    peak: Peak | None = None
    context: int | None = None
    card: Card | None = None
    speed_ratio: float | None = None
    basis: str | None = None
    """What the predicted time rested on: the first of its assumptions."""
    out_of_memory: bool = False


def _tales(runs: Path) -> Iterator[_Tale]:
    if not runs.is_dir():
        return
    for directory in sorted(runs.iterdir(), reverse=True)[:MAX_RUNS]:
        record = directory / "run.json"
        if record.is_file() and not directory.name.startswith("."):
            tale = _tale(directory, _stamp(directory))
            if tale is not None:
                yield tale


def _stamp(directory: Path) -> int:
    """Changes when the record of a run does; 0 where there is none."""
    record = directory / "run.json"
    return record.stat().st_mtime_ns if record.is_file() else 0


@lru_cache(maxsize=2 * MAX_RUNS)
def _tale(directory: Path, _stamp: int) -> _Tale | None:
    """What the run in `directory` says as long as its record is the same; None is nothing."""
    record, saved = _read(directory / "run.json"), _saved(directory / "plan.json")
    predicted, measured = record.get("predicted") or {}, record.get("measured") or {}
    if not predicted or not measured or saved is None or saved.plan is None:
        return None
    if record.get("host") != socket.gethostname():
        return None
    gpu = None if saved.plan.use_cpu else saved.machine.accelerator()
    kind = kind_of(saved.plan, "cpu" if gpu is None else gpu.name, saved.model.model_type)
    if measured.get("out_of_memory"):
        return _Tale(
            kind=kind, out_of_memory=saved.memory is not None and saved.memory.verdict == "fits"
        )
    proof = record.get("kind") == "proof"  # a few steps, but with the longest batch
    steps = measured.get("num_steps") or 0
    if record.get("state") != "finished" or (steps < MIN_STEPS and not proof):
        return None
    context = None
    if gpu is not None and saved.plan.devices == 1 and measured.get("process_source") == "nvml":
        context = _context(measured)
    # Speeds; those of a proof are of steps with the longest batch.
    faster, slower = measured.get("tokens_per_second"), predicted.get("tokens_per_second")
    if proof:
        faster, slower = _inverse(measured), _inverse(predicted)
    said = saved.time.assumptions if saved.time is not None else ()
    return _Tale(
        kind=kind,
        peak=_peak(saved, record, on_cpu=gpu is None),
        context=context,
        card=None if gpu is None else card_of(saved.machine, gpu.name),
        speed_ratio=_ratio(faster, slower, predicted.get("speed_correction")),
        basis=said[0] if said else None,
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; one that is absent or damaged teaches nothing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _saved(path: Path) -> Recommendation | None:
    """The plan a run was started with; one that is damaged or of another version is unknown."""
    try:
        return Recommendation.from_dict(_read(path))
    except InputError:
        return None


def _context(measured: Mapping[str, Any]) -> int | None:
    """What the driver counted beyond torch; None where one of the two peaks was missed."""
    process, reserved = measured.get("process_bytes"), measured.get("reserved_bytes")
    if process is None or reserved is None:
        return None
    return process - reserved if 0 < process - reserved < _MAX_CONTEXT_BYTES else None


def _peak(saved: Recommendation, record: Mapping[str, Any], *, on_cpu: bool) -> Peak | None:
    """The highest the run went; None where it says nothing of the plan's peak."""
    memory, is_proof = saved.memory, record.get("kind") == "proof"
    predicted, measured = record["predicted"], record["measured"]
    found = measured.get("process_bytes" if on_cpu else "reserved_bytes")
    context = predicted.get("context_bytes")
    steady = predicted.get("process_bytes")
    if memory is None or found is None or context is None or steady is None:
        return None
    # A proof neither evaluates nor saves, and all its batches are as long.
    passed = ("load", "first_step") if is_proof else tuple(memory.occasions)
    highest = max([steady, *(memory.occasions.get(name, 0) for name in passed)])
    kept = round((highest - context) / (predicted.get("memory_correction") or 1.0))
    fixed = context - (predicted.get("memory_correction_bytes") or 0) if on_cpu else 0
    if kept <= 0 or fixed < 0:
        return None
    peak = Peak(fixed=fixed, kept=kept, measured=found)
    is_whole = is_proof or peak.excess() >= 0 or _saw_longest(saved, measured)
    is_likely = BELIEVED[0] <= found / (fixed + kept) <= BELIEVED[1]
    return peak if is_whole and is_likely else None


def _saw_longest(saved: Recommendation, measured: Mapping[str, Any]) -> bool:
    """Whether the run went through all rows, each as the longest of a padded batch."""
    plan, data = saved.plan, saved.data
    if plan is None or data is None:
        return False
    if plan.packing:
        return True  # all rows are as long
    rows = data.rows_of(plan).num_rows
    return not plan.padding_free and (measured.get("num_steps") or 0) >= plan.updates_per_epoch(
        rows
    )


def _inverse(values: Mapping[str, Any]) -> float | None:
    """Steps a second."""
    seconds = values.get("step_seconds")
    return 1 / seconds if seconds else None


def _ratio(
    measured: float | None, predicted: float | None, correction: float | None
) -> float | None:
    """Measured over predicted, the correction of that time taken out; None is unknown."""
    if not measured or not predicted:
        return None
    return measured / predicted * (correction or 1.0)
