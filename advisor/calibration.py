"""What this machine's own finished runs say of the estimates. Reads run directories.

A run counts for a question of the same kind alone: same device, method, model type, precision,
padding, quantisation and way over several devices. Unrelated kinds keep the estimate they had.
"""

import json
import socket
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.errors import InputError
from advisor.locale import LANGUAGES, say
from advisor.plan import TrainingPlan
from advisor.recommendation import Recommendation

MAX_RUNS = 200
"""Newest run directories that are looked at."""
MIN_STEPS = 10
"""A shorter run need not have seen the longest batch, nor a steady step; a proof has."""
BELIEVED = (0.5, 2.0)
"""Ratios of measured to predicted outside of this tell of another machine load, not of a kind."""


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
class Learned:
    """What runs of one kind measured, against what had been predicted without any learning."""

    memory_ratios: tuple[float, ...] = ()
    """Measured over predicted of what the process takes beyond `context`, on a CPU."""
    contexts: tuple[int, ...] = ()
    """Bytes the driver counted beyond what torch had reserved, on a GPU."""
    speed_ratios: tuple[float, ...] = ()
    """Measured over predicted tokens a second."""
    num_out_of_memory: int = 0
    """Runs that ran out of memory although they were predicted to fit."""

    def memory(self) -> float:
        """Factor for the memory beyond `context`; 1 where nothing was learned."""
        return statistics.median(self.memory_ratios) if self.memory_ratios else 1.0

    def speed(self) -> float:
        """Factor for tokens a second; 1 where nothing was learned."""
        return statistics.median(self.speed_ratios) if self.speed_ratios else 1.0


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


def learn(runs: Path, kind: Kind, basis: str | None = None) -> Learned:
    """What the runs of this kind under `runs` measured, on this host.

    Args:
        runs: where run directories are.
        kind: what they must be of.
        basis: the rates of today's times; runs predicted with others teach no speed.
    """
    told = [t for t in _tales(runs) if t.kind == kind]
    bases = None if basis is None else {say(basis, lang) for lang in LANGUAGES}
    return Learned(
        memory_ratios=tuple(t.memory_ratio for t in told if t.memory_ratio is not None),
        contexts=tuple(t.context for t in told if t.context is not None),
        speed_ratios=tuple(
            t.speed_ratio
            for t in told
            if t.speed_ratio is not None and (bases is None or t.basis in bases)
        ),
        num_out_of_memory=sum(t.out_of_memory for t in told),
    )


@dataclass(frozen=True, kw_only=True)
class _Tale:
    """What one run says."""

    kind: Kind
    memory_ratio: float | None = None
    context: int | None = None
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
            tale = _tale(directory, record.stat().st_mtime_ns)
            if tale is not None:
                yield tale


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
    context = memory = None
    if kind.device == "cpu":
        took, expected = _beyond(measured, predicted), _beyond(predicted, predicted)
        memory = _ratio(took, expected, predicted.get("memory_correction"))
    elif measured.get("process_source") == "nvml":
        context = measured["process_bytes"] - measured["reserved_bytes"]
    # Speeds; those of a proof are of steps with the longest batch.
    faster, slower = measured.get("tokens_per_second"), predicted.get("tokens_per_second")
    if proof:
        faster, slower = _inverse(measured), _inverse(predicted)
    said = saved.time.assumptions if saved.time is not None else ()
    return _Tale(
        kind=kind,
        memory_ratio=memory,
        context=context,
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


def _beyond(values: Mapping[str, Any], predicted: Mapping[str, Any]) -> float | None:
    total, context = values.get("process_bytes"), predicted.get("context_bytes")
    return None if total is None or context is None else total - context


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
    ratio = measured / predicted * (correction or 1.0)
    return ratio if BELIEVED[0] <= ratio <= BELIEVED[1] else None
