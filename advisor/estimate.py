"""Estimator: memory and time of a plan for one model, data set and machine.

Keeps measurements in the cache directory.
"""

import dataclasses
import itertools
import json
import math
import sys
from functools import cached_property
from typing import Any

import numpy as np

from advisor import data_parallel
from advisor.data import DataDescription
from advisor.errors import SimulationError
from advisor.hardware.machine import Gpu, Machine
from advisor.home import cache_dir
from advisor.memory import CATEGORIES, MemoryEstimate, StepTimeline, verdict
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.simulate import replay
from advisor.simulate.allocator import OutOfMemoryError
from advisor.simulate.buckets import buckets_of, unrolled
from advisor.simulate.make import ProfileStore
from advisor.simulate.profile import PHASES, LoopKind, Profile, Structure, structure_of
from advisor.simulate.worker import Progress, Worker
from advisor.speed import Rates, StepCost, TimeEstimate, cpu_rates, gpu_rates, step_cost
from advisor.units import MIB
from advisor.versions import installed

CPU_ROUNDING = 64
"""Bytes a CPU tensor is aligned to (c10/core/alignment.h)."""
GLIBC = sys.platform == "linux"
"""Whether malloc is the one heap.py models; elsewhere the live bytes stand for what is resident."""
BYTES_ON_DISK_PER_SECOND = 300e6
"""Assumed rate of writing a checkpoint."""

# CUDA context of a process outside the caching allocator, bytes: (middle, half width, where from).
_CONTEXTS = {
    (7, 5): (int(140.875 * MIB), MIB, "measured on 69 Tesla T4 runs, torch 2.10 to 2.14"),
    (8, 0): (480 * MIB, 120 * MIB, "measured on an A100 with lazy loading, torch 2.1"),
}
# Half widths around the point, from the error table: (below, above) for (quantised, measured card).
_ALLOCATED_ERROR = {True: 0.003, False: 0.01}
_RESERVED_ERROR = {
    (False, True): (0.006, 0.006),
    (False, False): (0.02, 0.02),
    (True, True): (0.018, 0.059),
    (True, False): (0.03, 0.08),
}
_UNKNOWN_CONTEXT = (480 * MIB, 340 * MIB, "never measured on this card; the A100's was taken")


class Estimator:
    """Answers for one (model, data, machine); profiles are shared through the store."""

    def __init__(
        self,
        worker: Worker,
        *,
        model: ModelDescription,
        data: DataDescription | None,
        machine: Machine,
        store: ProfileStore | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self._worker = worker
        self._model = model
        self._data = data
        self._machine = machine
        self._store = store or ProfileStore(worker)
        self._on_progress = on_progress

    # -- what others ask --------------------------------------------------------------------

    def memory(
        self,
        plan: TrainingPlan,
        *,
        loop: LoopKind = "trainer",
        expand_kv: bool = False,
        selective_checkpointing: bool = False,
    ) -> MemoryEstimate:
        """Peak of a steady step with the longest batch the data set can make.

        Raises:
            SimulationError: this cannot be simulated; the answer is unknown.
        """
        structure = self._structure(
            plan, loop=loop, expand_kv=expand_kv, selective_checkpointing=selective_checkpointing
        )
        profile = self._profile(structure)
        depth = self._depth(structure, profile)
        batch, length = plan.per_device_train_batch_size, self._longest(plan)
        assumptions = [f"Every row of the worst batch has {length:,} tokens.", *profile.notes]
        if plan.fp16:
            assumptions.append("The loss scaler's few scalars are not counted.")
        assumptions += data_parallel.assumptions(plan)
        gpu = self._gpu(plan)
        if gpu is None:
            return self._on_cpu(profile, batch, length, depth, assumptions, plan)
        expandable = loop == "torchtitan"
        return self._on_gpu(
            profile, batch, length, depth, gpu, assumptions, plan, expandable=expandable
        )

    def time(self, plan: TrainingPlan) -> TimeEstimate:
        """Time of a step at the data set's expected batch length, and of the whole run."""
        rates = self._rates(plan)
        if rates is None:
            return TimeEstimate(
                step_seconds=None, assumptions=("Time: this device's rates are unknown.",)
            )
        batch = plan.per_device_train_batch_size
        data = self._data
        length = (
            data.expected_batch_length(batch, plan.max_length) if data else float(plan.max_length)
        )
        cost = self._cost(plan, rates, length)
        accumulation = plan.gradient_accumulation_steps
        micro = cost.forward + cost.backward + rates.host_seconds["step"]
        step = accumulation * micro + cost.optimizer
        mean = data.mean_tokens_cut(plan.max_length) if data else float(plan.max_length)
        error = rates.relative_error * (1.3 if cost.regime == "launch" else 1)
        low, high = 1 / (1 + error), 1 + error
        total = num_steps = None
        if data is not None:
            num_steps = plan.optimizer_steps(data.num_rows)
            total = num_steps * step + self._evaluation_seconds(plan, cost, num_steps, data)
            total += self._saving_seconds(plan, num_steps)
        return TimeEstimate(
            step_seconds=step,
            step_seconds_interval=(step * low, step * high),
            tokens_per_second=plan.tokens_per_update(mean) / step,
            num_steps=num_steps,
            total_seconds=total,
            total_seconds_interval=None if total is None else (total * low, total * high),
            regime=cost.regime,
            assumptions=(rates.assumption, *data_parallel.time_assumptions(plan)),
        )

    def timeline(self, plan: TrainingPlan, points: int = 400) -> StepTimeline:
        """Allocated bytes by category through one steady step, thinned to about `points`."""
        structure = self._structure(plan)
        profile = self._profile(structure)
        batch, length = plan.per_device_train_batch_size, self._longest(plan)
        depth = self._depth(structure, profile)
        program, blocks = unrolled(profile, batch, length, depth, buckets_of(plan))
        deltas = program.deltas(blocks)
        slots = np.where(program.events >= 0, program.events, -program.events - 1)
        start, end = program.steady()
        levels = {
            name: np.cumsum(np.where(program.categories[slots] == i, deltas, 0))[start:end]
            for i, name in enumerate(CATEGORIES[:-1])
        }
        position, starts = self._positions(program, plan, start, end)
        keep = _thin(sum(levels.values()), points)
        context = self._context_bytes(plan)
        series = {name: tuple(int(v) for v in values[keep]) for name, values in levels.items()}
        series["context"] = (context,) * len(keep)
        return StepTimeline(
            time_fraction=tuple(float(v) for v in position[keep]),
            bytes_by_category=series,
            phase_starts=starts,
        )

    def at_shape(
        self, plan: TrainingPlan, batch: int, length: int
    ) -> tuple[MemoryEstimate, float | None]:
        """Memory of `batch` rows of exactly `length` tokens, and tokens a second.

        The plan's structure for all shapes.
        """
        structure = dataclasses.replace(self._structure(plan), single_row=False)
        profile = self._profile(structure)
        depth = self._depth(structure, profile)
        gpu = self._gpu(plan)
        if gpu is None:
            memory = self._on_cpu(profile, batch, length, depth, [], plan)
        else:
            memory = self._on_gpu(profile, batch, length, depth, gpu, [], plan)
        rates = self._rates(plan)
        if rates is None:
            return memory, None
        micro_batches = 2 if structure.accumulate else 1
        cost = step_cost(profile, rates, batch, length, depth, micro_batches=micro_batches)
        times = max(plan.effective_batch_size() // batch, 1)
        step = times * (cost.forward + cost.backward + rates.host_seconds["step"]) + cost.optimizer
        return memory, times * batch * length / step

    # -- parts ------------------------------------------------------------------------------

    def _gpu(self, plan: TrainingPlan) -> Gpu | None:
        return None if plan.use_cpu else self._machine.accelerator()

    def _structure(
        self,
        plan: TrainingPlan,
        *,
        loop: LoopKind = "trainer",
        expand_kv: bool = False,
        selective_checkpointing: bool = False,
    ) -> Structure:
        gpu = self._gpu(plan)
        if gpu is not None and gpu.compute_capability is None:
            raise SimulationError("estimate.no_capability", name=gpu.name)
        capability = None if gpu is None else gpu.compute_capability
        return structure_of(
            plan,
            self._model.config,
            capability,
            loop=loop,
            expand_kv=expand_kv,
            selective_checkpointing=selective_checkpointing,
        )

    def _profile(self, structure: Structure) -> Profile:
        return self._store.get(structure, self._on_progress)

    @staticmethod
    def _depth(structure: Structure, profile: Profile) -> int:
        return structure.depth() or profile.traced_depth

    def _longest(self, plan: TrainingPlan) -> int:
        """Longest batch in tokens: what the collator makes of the longest row."""
        if self._data is None:
            return plan.max_length
        longest = self._data.longest_batch_tokens(plan.max_length)
        multiple = plan.pad_to_multiple_of() or 1
        return math.ceil(longest / multiple) * multiple

    def _on_gpu(
        self,
        profile: Profile,
        batch: int,
        length: int,
        depth: int,
        gpu: Gpu,
        assumptions: list[str],
        plan: TrainingPlan,
        *,
        expandable: bool = False,
    ) -> MemoryEstimate:
        quantization = plan.quantization
        capacity = gpu.free_bytes if gpu.free_bytes is not None else gpu.total_bytes
        context, spread, source = _CONTEXTS.get(gpu.compute_capability or (0, 0), _UNKNOWN_CONTEXT)
        outside, outside_spread = data_parallel.communicator_bytes(plan)
        room = None if capacity is None else max(capacity - context - outside, 0)
        peaks = _replayed(profile, batch, length, depth, room, plan, expandable=expandable)
        measured_card = gpu.compute_capability == (7, 5)
        alone = _RESERVED_ERROR[quantization is not None, measured_card]
        low, high = data_parallel.reserved_error(plan, alone)
        allocated = _around(peaks.allocated, _ALLOCATED_ERROR[measured_card])
        reserved = (math.floor(peaks.reserved * (1 - low)), math.ceil(peaks.reserved * (1 + high)))
        context, spread = context + outside, spread + outside_spread
        process = (reserved[0] + context - spread, reserved[1] + context + spread)
        if peaks.num_retries:
            assumptions.append(
                "The allocator has to return its cache to stay within the free memory: slower."
            )
        assumptions.append(f"CUDA context {(context - outside) / MIB:,.0f} MiB, {source}.")
        if quantization is not None:
            assumptions.append(
                "What loading leaves in the allocator's cache differs between versions of "
                "transformers: of three ways to load, the middle is told."
            )
        if quantization is not None and quantization.load_in_8bit:
            assumptions.append("int8: no outlier columns; never measured.")
        if not measured_card:
            assumptions.append("Simulated; the error table has no measured run of this card yet.")
        categories = dict(peaks.categories)
        categories["context"] = context
        categories["fragmentation"] = peaks.reserved - peaks.allocated
        return MemoryEstimate(
            allocated_bytes=peaks.allocated,
            reserved_bytes=peaks.reserved,
            process_bytes=peaks.reserved + context,
            interval={
                "allocated_bytes": allocated,
                "reserved_bytes": reserved,
                "process_bytes": process,
            },
            capacity_bytes=capacity,
            verdict=verdict(process[1], capacity),
            phases=peaks.phases,
            categories=categories,
            assumptions=tuple(assumptions),
        )

    def _on_cpu(
        self,
        profile: Profile,
        batch: int,
        length: int,
        depth: int,
        assumptions: list[str],
        plan: TrainingPlan,
    ) -> MemoryEstimate:
        at, buckets = (profile, batch, length, depth), buckets_of(plan)
        peaks = replay.live(*at, CPU_ROUNDING, buckets)
        baseline = self._baseline
        kept = replay.resident(*at, buckets) if GLIBC else peaks.allocated
        process = baseline + kept
        interval = _around(process, 0.08)
        assumptions.append(
            f"A training process without a model takes {baseline / MIB:,.0f} MiB, measured here."
        )
        categories = dict(peaks.categories)
        categories["context"] = baseline
        categories["fragmentation"] = kept - peaks.allocated
        return MemoryEstimate(
            allocated_bytes=peaks.allocated,
            reserved_bytes=None,
            process_bytes=process,
            interval={
                "allocated_bytes": _around(peaks.allocated, 0.01),
                "process_bytes": interval,
            },
            capacity_bytes=self._machine.ram_free_bytes,
            verdict=verdict(interval[1], self._machine.ram_free_bytes),
            phases=peaks.phases,
            categories=categories,
            assumptions=tuple(assumptions),
        )

    def _context_bytes(self, plan: TrainingPlan) -> int:
        gpu = self._gpu(plan)
        if gpu is None:
            return self._baseline
        context = _CONTEXTS.get(gpu.compute_capability or (0, 0), _UNKNOWN_CONTEXT)[0]
        return context + data_parallel.communicator_bytes(plan)[0]

    @cached_property
    def _baseline(self) -> int:
        return _measured("baseline", self._worker, self._on_progress)

    @cached_property
    def _cpu(self) -> dict[str, Any]:
        return _measured("calibrate", self._worker, self._on_progress)

    def _rates(self, plan: TrainingPlan) -> Rates | None:
        gpu = self._gpu(plan)
        if gpu is not None:
            return gpu_rates(gpu)
        if self._machine.source != "probe":
            return None
        measured = self._cpu
        return cpu_rates(
            measured["flops_per_second"],
            measured["bytes_per_second"],
            measured["seconds_per_operator"],
        )

    def _cost(self, plan: TrainingPlan, rates: Rates, length: float) -> StepCost:
        structure = self._structure(plan)
        profile = self._profile(structure)
        return step_cost(
            profile,
            rates,
            plan.per_device_train_batch_size,
            length,
            self._depth(structure, profile),
            micro_batches=2 if structure.accumulate else 1,
        )

    @staticmethod
    def _evaluation_seconds(
        plan: TrainingPlan, cost: StepCost, num_steps: int, data: DataDescription
    ) -> float:
        if plan.eval_strategy == "no" or data.num_eval_rows == 0:
            return 0.0
        if plan.eval_strategy == "epoch" or plan.eval_steps is None:
            times = max(round(plan.epochs(data.num_rows)), 1)
        else:
            times = num_steps // plan.eval_steps
        return times * data.num_eval_rows / plan.per_device_train_batch_size * cost.forward

    def _saving_seconds(self, plan: TrainingPlan, num_steps: int) -> float:
        if plan.save_strategy == "no":
            return 0.0
        trained = self._model.num_parameters if plan.method == "full" else 0
        # weights as loaded and two optimizer states of the same dtype
        size = trained * {"float32": 12, "bfloat16": 6, "float16": 6}[plan.dtype]
        times = num_steps // plan.save_steps if plan.save_strategy == "steps" else 1
        return max(times, 1) * size / BYTES_ON_DISK_PER_SECOND

    def _positions(
        self, program: Any, plan: TrainingPlan, start: int, end: int
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Where in the step each event stands, 0..1.

        Phases by predicted time, events evenly within a phase.
        """
        bounds = [start]
        bounds += [program.window(f"{phase}1")[1] for phase in PHASES]
        counts = np.maximum(np.diff(bounds), 1).astype(float)
        weights = counts / counts.sum()
        rates = self._rates(plan)
        if rates is not None:
            cost = self._cost(plan, rates, float(self._longest(plan)))
            seconds = np.array([cost.forward, cost.backward, cost.optimizer])
            weights = seconds / seconds.sum()
        edges = np.concatenate([[0.0], np.cumsum(weights)])
        position = np.interp(np.arange(start, end), bounds, edges)
        return position, {p: float(e) for p, e in zip(PHASES, edges[:-1], strict=True)}


def _replayed(
    profile: Profile,
    batch: int,
    length: int,
    depth: int,
    room: int | None,
    plan: TrainingPlan,
    *,
    expandable: bool,
) -> replay.Peaks:
    """The peaks within `room` bytes, without the limit where that is too little."""
    quantization, buckets = plan.quantization, buckets_of(plan)

    def run(loading: replay.Loading | None) -> replay.Peaks:
        def within(limit: int | None) -> replay.Peaks:
            return replay.on_cuda(
                profile, batch, length, depth, limit, loading,
                buckets=buckets, expandable=expandable,
            )  # fmt: skip

        try:
            return within(room)
        except OutOfMemoryError:
            return within(None)

    if quantization is None:
        return run(None)
    ways = replay.LOADINGS[4 if quantization.load_in_4bit else 8]
    return sorted(map(run, ways), key=lambda peaks: peaks.reserved)[1]


def _around(value: int, share: float) -> tuple[int, int]:
    return math.floor(value * (1 - share)), math.ceil(value * (1 + share))


def _thin(total: Any, points: int) -> np.ndarray:
    """Positions to keep.

    The first, the last and the highest of each bucket, so that no peak is lost.
    """
    n = len(total)
    edges = np.unique(np.linspace(0, n, min(points, n) + 1).astype(int))
    keep = {0, n - 1}
    for a, b in itertools.pairwise(edges):
        keep.add(a + int(np.argmax(total[a:b])))
    return np.array(sorted(keep))


def _measured(method: str, worker: Worker, on_progress: Progress | None) -> Any:
    """A measurement of this machine: from the cache, else made now.

    Keyed by the library versions.
    """
    versions = "-".join(installed(p) or "" for p in ("torch", "transformers"))
    path = cache_dir() / f"{method}-{versions.replace('+', '_')}.json"
    if path.exists():
        return json.loads(path.read_text())
    value = worker.call(method, {}, on_progress=on_progress)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
    return value


def unknown_memory(reason: str, capacity_bytes: int | None) -> MemoryEstimate:
    """The estimate of what cannot be simulated, with the reason."""
    return MemoryEstimate(
        allocated_bytes=None,
        reserved_bytes=None,
        process_bytes=None,
        capacity_bytes=capacity_bytes,
        assumptions=(reason,),
    )


def with_capacity(estimate: MemoryEstimate, capacity_bytes: int | None) -> MemoryEstimate:
    """The same estimate judged against another capacity."""
    high = estimate.interval.get("process_bytes", (None, None))[1]
    return dataclasses.replace(
        estimate, capacity_bytes=capacity_bytes, verdict=verdict(high, capacity_bytes)
    )
