"""How long an answer takes, cold and warm, and what the worker weighs; bench.py prints it.

Cold is a model that was never traced, asked of a worker that already runs. Nothing here is a test:
the figures depend on the machine.
"""

import contextlib
import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from advisor.estimate import Estimator
from advisor.hardware.catalogue import machine_from_name
from advisor.model import ModelDescription
from advisor.plan import LoraSettings, TrainingPlan
from advisor.simulate import replay
from advisor.simulate.make import ProfileStore
from advisor.simulate.profile import structure_of
from advisor.simulate.worker import Worker
from advisor.units import MIB

MACHINE = "A100-SXM4-80GB"
LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
SIZES = {
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
    },
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
    },
}
PLAN = TrainingPlan(
    method="lora",
    lora=LoraSettings(),
    dtype="bfloat16",
    bf16=True,
    activation_checkpointing=True,
    per_device_train_batch_size=4,
    max_length=2048,
)
SWEEP = 1000
"""Plans of one sweep."""
THREADS = 2
Seconds = tuple[float, float]
"""Of the clock, and of processors, the worker's included."""


def report(*, repeats: int = 5, num_warm: int = 100) -> str:
    """A table of p50 and p95, of the clock and of processor time: on a busy machine they differ.

    Over `repeats` cold answers and sweeps, and `num_warm` warm ones.
    """
    with tempfile.TemporaryDirectory() as home, _at_home(home):
        worker = Worker(home=Path(home))
        try:
            rows = _measure(worker, repeats, num_warm)
            process = psutil.Process(worker._process.pid)
            weight = process.memory_info().rss / MIB
        finally:
            worker.close()
    lines = ["| answer | p50 | p95 | p50 of processor time | p95 |", "|---|---|---|---|---|"]
    for name, seconds in rows.items():
        figures = np.percentile(seconds, (50, 95), axis=0).T.ravel()
        lines.append(" | ".join([f"| {name}", *map(_readable, figures)]) + " |")
    return "\n".join([*lines, "", f"Worker: {weight:,.0f} MiB resident after them."])


def _measure(worker: Worker, repeats: int, num_warm: int) -> dict[str, list[Seconds]]:
    rng, store = random.Random(0), ProfileStore(worker)
    small = {**SIZES["8B"], "hidden_size": 64, "intermediate_size": 128, "vocab_size": 512}
    _estimator(worker, store, small).memory(PLAN)  # starts the worker
    rows: dict[str, list[Seconds]] = {}
    for name, size in SIZES.items():
        rows[f"cold, {name} LoRA"] = [  # what never was asked: no size depends on this number
            _seconds(
                worker, _estimator(worker, store, {**size, "rms_norm_eps": 1e-6 * n}).memory, PLAN
            )
            for n in range(1, repeats + 1)
        ]
        config = {**size, "rms_norm_eps": 1e-6}
        rows[f"warm, {name}, any batch and length"] = [
            _seconds(worker, _estimator(worker, store, config).memory, _any(rng))
            for _ in range(num_warm)
        ]
        deeper = [{**config, "num_hidden_layers": rng.randint(8, 100)} for _ in range(num_warm)]
        rows[f"warm, {name}, any depth from 8 to 100"] = [
            _seconds(worker, _estimator(worker, store, c).memory, _any(rng)) for c in deeper
        ]
        profile = store.get(structure_of(PLAN, {**LLAMA, **config}, (8, 0)))
        depth = size["num_hidden_layers"]
        rows[f"allocated alone, {name}"] = [
            _seconds(
                worker, replay.live, profile, rng.randint(2, 64), 8 * rng.randint(16, 1024), depth
            )
            for _ in range(num_warm)
        ]
    estimator = _estimator(worker, store, {**SIZES["8B"], "rms_norm_eps": 1e-6})
    with ThreadPoolExecutor(THREADS) as pool:  # the replay itself holds no lock

        def sweep() -> None:
            list(pool.map(estimator.memory, [_any(rng) for _ in range(SWEEP)]))

        rows[f"sweep of {SWEEP:,} plans, 8B, {THREADS} threads"] = [
            _seconds(worker, sweep) for _ in range(repeats)
        ]
    return rows


def _estimator(worker: Worker, store: ProfileStore, config: dict[str, Any]) -> Estimator:
    model = ModelDescription(
        name="llama",
        path="",
        config={**LLAMA, **config},
        model_type="llama",
        architecture="",
        num_parameters=0,
    )
    machine = machine_from_name(MACHINE)
    return Estimator(worker, model=model, data=None, machine=machine, store=store)


def _any(rng: random.Random) -> TrainingPlan:
    return dataclasses.replace(
        PLAN, per_device_train_batch_size=rng.randint(2, 64), max_length=8 * rng.randint(16, 1024)
    )


def _seconds(worker: Worker, function: Callable[..., Any], *args: Any) -> Seconds:
    process = psutil.Process(worker._process.pid)

    def now() -> Seconds:
        theirs = process.cpu_times()
        return time.perf_counter(), time.process_time() + theirs.user + theirs.system

    started = now()
    function(*args)
    return tuple(b - a for a, b in zip(started, now(), strict=True))


def _readable(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


@contextlib.contextmanager
def _at_home(path: str) -> Iterator[None]:
    before = os.environ.get("TRAINING_ADVISOR_HOME")
    os.environ["TRAINING_ADVISOR_HOME"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["TRAINING_ADVISOR_HOME"]
        else:
            os.environ["TRAINING_ADVISOR_HOME"] = before


if __name__ == "__main__":
    print(report())
