"""What one GPU was measured to do, and the rates that follow; gpu_probe.py measures it.

Matmul, attention and bandwidth come from operators that run alone. The host's time of an operator
and of the Trainer's loop come from two steps too small to compute; what a real step adds to its
operators, from one that computes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advisor.device_time import attention_share
from advisor.errors import note
from advisor.hardware.machine import Gpu
from advisor.plan import TrainingPlan
from advisor.rates import HOST_SECONDS, PUBLIC, Rates, gpu_rates
from advisor.simulate.profile import Profile, Structure, structure_of
from advisor.speed import step_cost

ATTENTION_LENGTH = 4096
BELIEVED = (0.6, 1.8)
"""What a computing step may take over what its operators say; else something disturbed."""


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A small job that the real Trainer runs."""

    config: dict[str, Any]
    batch: int
    length: int
    steps: int
    needs_bytes: int
    """Free memory without which it is left out."""


def _llama(width: int, inner: int, layers: int, vocabulary: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
    }


def _launching(layers: int) -> Anchor:
    config = _llama(64, 176, layers, 256, 4)
    return Anchor(config=config, batch=1, length=16, steps=60, needs_bytes=0)


ANCHORS = {
    "shallow": _launching(4),
    "deep": _launching(16),
    "computing": Anchor(
        config=_llama(2048, 5632, 4, 32000, 16), batch=4, length=1024, steps=24,
        needs_bytes=12 * 2**30,
    ),
}  # fmt: skip
"""Two that the host limits and, where there is room, one that the device limits."""


@dataclass(frozen=True, kw_only=True)
class GpuTables:
    """What one card does. Seconds, bytes and FLOPs."""

    flops_per_second: Mapping[str, float]
    """"half" and "single": sustained by a large matmul."""
    attention: Mapping[str, tuple[float, float]]
    """Of fused attention at ATTENTION_LENGTH, forward and backward."""
    bytes_per_second: Mapping[str, float]
    """By kind: elementwise, copy, reduce."""
    anchors: Mapping[str, float]
    """Step of the real Trainer."""
    half: str
    """"bfloat16" or "float16"."""
    processors: int
    cache_bytes: int
    spread: float
    """By how much two seconds of the same matmul differed."""


def calibrated_gpu_rates(
    gpu: Gpu, tables: GpuTables, host: tuple[float, float], ratio: float, measured_on: str
) -> Rates:
    """Rates of a card that was measured.

    Args:
        gpu: the card; its data sheet need not be known.
        tables: what was measured.
        host: factor on HOST_SECONDS, and seconds of the Trainer's loop for each micro-batch.
        ratio: time of a real step's operators over that of operators that run alone.
        measured_on: date, for people.
    """
    flops = {name: rate / ratio for name, rate in tables.flops_per_second.items()}
    share = float(attention_share(np.array([[1, ATTENTION_LENGTH, ATTENTION_LENGTH, 128]]))[0])
    forward, backward = (
        (tables.attention["half"][i] / share / ratio, tables.attention["single"][i] / share / ratio)
        for i in (0, 1)
    )
    moved = {name: rate / ratio for name, rate in tables.bytes_per_second.items()}
    sheet = gpu.bandwidth_bytes_per_second or moved["elementwise"] / PUBLIC.streaming
    known = gpu_rates(gpu)
    shares = {"reduce": moved["reduce"] / sheet, "copy": moved["copy"] / sheet}
    streaming = moved["elementwise"] / sheet
    each = dict.fromkeys(("matmul", "attention", "elementwise"), streaming)
    each |= shares | {"gather": shares["copy"], "dequantise": streaming * PUBLIC.dequantise}
    factor, step = host
    return Rates(
        flops_per_second_half=flops["half"],
        flops_per_second_single=flops["single"],
        bytes_per_second=sheet,
        attention_forward=forward,
        attention_backward=backward,
        seconds_per_kernel=known.seconds_per_kernel if known else 2.5e-6,
        host_seconds={name: factor * s for name, s in HOST_SECONDS.items()} | {"step": step},
        overlaps=True,
        relative_error=0.25,
        launch_error=0.3,
        assumption=note("rates.calibrated_gpu", date=measured_on),
        processors=tables.processors,
        cache_bytes=tables.cache_bytes,
        shares=each,
    )


def half_of(gpu: Gpu) -> str:
    """The 16-bit dtype that the card computes."""
    return "bfloat16" if (gpu.compute_capability or (0, 0)) >= (8, 0) else "float16"


def fit_anchors(
    gpu: Gpu, tables: GpuTables, profile_of: Callable[[Structure], Profile]
) -> tuple[tuple[float, float], float]:
    """(factor on the host's seconds, seconds of the loop) and the ratio of a real step's operators.

    Args:
        gpu: the card.
        tables: what was measured.
        profile_of: gives the recorded step of a structure.
    """
    bare = calibrated_gpu_rates(gpu, tables, (1.0, 0.0), 1.0, "")
    shallow, deep = (_expected(gpu, tables, name, bare, profile_of) for name in ("shallow", "deep"))
    measured = tables.anchors
    factor = max((measured["deep"] - measured["shallow"]) / (deep - shallow), 0.05)
    step = max(measured["shallow"] - factor * shallow, 0.0)
    if "computing" not in measured:
        return (factor, step), 1.0
    rates = replace(
        bare,
        host_seconds={name: factor * s for name, s in HOST_SECONDS.items()} | {"step": step},
    )
    expected = _expected(gpu, tables, "computing", rates, profile_of)
    return (factor, step), (measured["computing"] - step) / (expected - step)


def _expected(
    gpu: Gpu,
    tables: GpuTables,
    name: str,
    rates: Rates,
    profile_of: Callable[[Structure], Profile],
) -> float:
    """Seconds of an anchor's step with these rates."""
    anchor = ANCHORS[name]
    half = tables.half == "bfloat16"
    plan = TrainingPlan(
        per_device_train_batch_size=anchor.batch,
        max_length=anchor.length,
        dtype="float32",
        bf16=half,
        fp16=not half,
        optim="adamw_torch_fused",
    )
    structure = structure_of(plan, anchor.config, gpu.compute_capability)
    profile = profile_of(structure)
    depth = structure.depth() or profile.traced_depth
    cost = step_cost(profile, rates, anchor.batch, anchor.length, depth)
    return cost.update_seconds(rates, 1)
