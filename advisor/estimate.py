"""Estimator: memory and time of a plan for one model, data set and machine.

Keeps measurements in the cache directory.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from advisor import data_parallel, not_simulated, saving
from advisor.calibration import NOTHING, Kind, Learned, card_of, kind_of, learn
from advisor.data import DataDescription
from advisor.errors import SimulationError, note
from advisor.hardware.machine import Gpu, Machine
from advisor.measurements import calibration, gpu_calibration, measured
from advisor.memory import CATEGORIES, MemoryEstimate, StepTimeline
from advisor.model import ModelDescription
from advisor.peaks import Asked, context_of, on_cpu, on_gpu, spread
from advisor.plan import TrainingPlan
from advisor.rates import Rates, calibrated_rates, cpu_rates, gpu_rates
from advisor.simulate import replay
from advisor.simulate.buckets import buckets_of, unrolled
from advisor.simulate.make import Profiles, ProfileStore
from advisor.simulate.profile import PHASES, TRAINER, Loop, Profile, Structure, structure_of
from advisor.simulate.software import INSTALLED, Software
from advisor.simulate.worker import Progress, Worker
from advisor.speed import (
    OTHER_SOFTWARE_ERROR,
    StepCost,
    TimeEstimate,
    limit_in_words,
    other_software,
    runs_unknown_kernels,
    software_of,
    step_cost,
)
from advisor.tasks import find_task

BYTES_ON_DISK_PER_SECOND = 300e6
"""Assumed rate of writing a checkpoint."""
_NEAR = 0.6
"""Share of the capacity from which on steps of other lengths may decide the verdict."""
_MIXED_STEPS = 12
"""Steps of random batches after the steady one, before the longest comes once more."""


class Estimator:
    """Answers for one (model, data, machine); profiles are shared through the store."""

    def __init__(
        self,
        worker: Worker,
        *,
        model: ModelDescription,
        data: DataDescription | None,
        machine: Machine,
        store: Profiles | None = None,
        on_progress: Progress | None = None,
        runs: Path | None = None,
        software: Software = INSTALLED,
        pins: Mapping[str, Any] | None = None,
    ) -> None:
        self._worker = worker
        self._model = model
        self._data = data
        self._machine = machine
        self._store: Profiles = store or ProfileStore(worker)
        self._on_progress = on_progress
        self._runs = runs
        """Where this machine's runs are, to learn from them; None learns nothing."""
        self._software = software
        self._pins = pins or {}
        """Of the user's values, those that no plan holds are named in the answer."""
        self._learned: dict[Kind, Learned] = {}

    # -- what others ask --------------------------------------------------------------------

    def memory(self, plan: TrainingPlan, *, loop: Loop = TRAINER) -> MemoryEstimate:
        """Peak of a steady step with the longest batch the data set can make.

        Raises:
            SimulationError: this cannot be simulated; the answer is unknown.
        """
        structure = self._structure(plan, loop)
        profile = self._profile(structure)
        depth = self._depth(structure, profile)
        batch, length = plan.per_device_train_batch_size, self.longest(plan)
        assumptions = list(profile.notes)
        if find_task(plan.task).counts_tokens:
            assumptions.insert(0, note("estimate.worst_batch", tokens=length))
        if plan.fp16 and loop.kind == "script":
            assumptions.append(note("estimate.scaler"))
        lengths = self._other_lengths(plan, length) if self._gpu(plan) else []
        if lengths:
            assumptions.append(note("estimate.other_lengths", count=len(lengths)))
        assumptions += self._software.assumptions(self._model.model_type)
        if differences := self._software.differences():
            assumptions.append(differences)
        assumptions += not_simulated.assumptions(self._pins, "memory")
        assumptions += data_parallel.assumptions(plan)
        if loop.kind == "trainer":
            copied = int(profile.copies_at_save(depth).sum())
            assumptions += saving.assumptions(plan, copied)
        asked = Asked(
            profile=profile,
            batch=batch,
            length=length,
            depth=depth,
            assumptions=tuple(assumptions),
            evaluation=self._evaluation(plan, structure, length),
            lengths=lengths,
            learned=self._known_of(plan),
            expandable=loop.expandable_segments or loop.kind == "torchtitan",
            saves=loop.kind == "trainer",
            plan=plan,
        )
        return self._peaks(asked)

    def time(self, plan: TrainingPlan, *, loop: Loop = TRAINER) -> TimeEstimate:
        """Time of a step at the data set's expected batch length, and of the whole run.

        The step is the one `memory` answers for.
        """
        rates = self._rates(plan)
        if rates is None:
            return TimeEstimate(step_seconds=None, assumptions=(note("estimate.no_rates"),))
        if rates.emulates(plan):
            return TimeEstimate(step_seconds=None, assumptions=(note("estimate.emulated"),))
        batch = plan.per_device_train_batch_size
        data = self._rows(plan)
        length = mean = data.mean_tokens_cut(plan.max_length) if data else float(plan.max_length)
        if data is not None and not plan.padding_free:
            length = data.expected_batch_length(batch, plan.max_length)
        structure = self._structure(plan, loop)
        cost = self._cost(plan, structure, rates, length)
        learned = self._known_of(plan)
        speed = learned.speed()
        step = cost.update_seconds(rates, plan.gradient_accumulation_steps) / speed
        error = rates.launch_error if cost.regime == "launch" else rates.relative_error
        assumptions = [
            rates.assumption,
            limit_in_words(cost.regime, rates),
            software_of(plan, self._software),
        ]
        if learned.speed_ratios:
            low, high = spread(learned.time_misses(), 0.1, (error / (1 + error), error))
            assumptions.append(note("estimate.learned", count=len(learned.speed_ratios)))
        else:
            if runs_unknown_kernels(plan):
                error *= 2
                assumptions.append(note("estimate.untimed"))
            is_here = self._machine.source == "probe"
            unsure = other_software(self._software, is_here=is_here)
            if unsure is not None:
                error = max(error, OTHER_SOFTWARE_ERROR)
                assumptions.append(unsure)
            low, high = 1 / (1 + error), 1 + error
        total = num_steps = None
        if data is not None:
            if plan.packing:
                assumptions.append(note("estimate.packing", rows=data.num_rows))
            num_steps = plan.optimizer_steps(data.num_rows)
            total = num_steps * step
            total += self._evaluation_seconds(plan, cost, num_steps, data) / speed
            total += self._saving_seconds(plan, num_steps)
        return TimeEstimate(
            step_seconds=step,
            step_seconds_interval=(step * low, step * high),
            tokens_per_second=plan.tokens_per_update(mean) / step,
            num_steps=num_steps,
            total_seconds=total,
            total_seconds_interval=None if total is None else (total * low, total * high),
            regime=cost.regime,
            correction=speed,
            assumptions=(
                *assumptions,
                *data_parallel.time_assumptions(plan),
                *not_simulated.assumptions(self._pins, "time"),
            ),
        )

    def longest_step_seconds(self, plan: TrainingPlan) -> float | None:
        """Time of an optimizer step whose micro-batches are all the longest one."""
        rates = self._rates(plan)
        if rates is None or rates.emulates(plan):
            return None
        cost = self._cost(plan, self._structure(plan), rates, float(self.longest(plan)))
        step = cost.update_seconds(rates, plan.gradient_accumulation_steps)
        return step / self._known_of(plan).speed()

    def timeline(self, plan: TrainingPlan, points: int = 400) -> StepTimeline:
        """Allocated bytes by category through one steady step, thinned to about `points`."""
        structure = self._structure(plan)
        profile = self._profile(structure)
        batch, length = plan.per_device_train_batch_size, self.longest(plan)
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
        """Memory of batches of `batch` rows whose longest has `length` tokens, and tokens a second.

        The plan's structure for all shapes, its evaluation included. Steps of other lengths are
        followed where they could decide the verdict.
        """
        structure = dataclasses.replace(self._structure(plan), single_row=False)
        profile = self._profile(structure)
        depth = self._depth(structure, profile)
        asked = Asked(
            profile=profile,
            batch=batch,
            length=length,
            depth=depth,
            plan=plan,
            evaluation=self._evaluation(plan, structure, length),
            learned=self._known_of(plan),
            saves=True,
        )
        memory = self._peaks(asked)
        peak, capacity = memory.process_bytes, memory.capacity_bytes
        near = peak is not None and capacity is not None and peak > _NEAR * capacity
        if near and memory.verdict in ("fits", "tight") and self._gpu(plan):
            shaped = plan.replace(per_device_train_batch_size=batch, max_length=length)
            lengths = self._other_lengths(shaped, length)
            memory = self._peaks(dataclasses.replace(asked, lengths=lengths))
        rates = self._rates(plan)
        if rates is None:
            return memory, None
        micro_batches = 2 if structure.accumulate else 1
        cost = step_cost(profile, rates, batch, length, depth, micro_batches=micro_batches)
        times = max(plan.effective_batch_size() // batch, 1)
        step = cost.update_seconds(rates, times) / self._known_of(plan).speed()
        return memory, times * batch * length / step

    # -- parts ------------------------------------------------------------------------------

    def _known_of(self, plan: TrainingPlan) -> Learned:
        """What this machine's own runs of the plan's kind say."""
        if self._runs is None or self._machine.source != "probe":
            return NOTHING
        gpu = self._gpu(plan)
        kind = kind_of(plan, "cpu" if gpu is None else gpu.name, self._model.model_type)
        if kind not in self._learned:
            rates = self._rates(plan)
            self._learned[kind] = learn(
                self._runs,
                kind,
                rates.assumption if rates else None,
                None if gpu is None else card_of(self._machine, gpu.name),
            )
        return self._learned[kind]

    def _gpu(self, plan: TrainingPlan) -> Gpu | None:
        return None if plan.use_cpu else self._machine.accelerator()

    def _structure(self, plan: TrainingPlan, loop: Loop = TRAINER) -> Structure:
        gpu = self._gpu(plan)
        if gpu is not None and gpu.compute_capability is None:
            raise SimulationError("estimate.no_capability", name=gpu.name)
        capability = None if gpu is None else gpu.compute_capability
        return structure_of(
            plan,
            self._model.config,
            capability,
            loop=loop,
            software=self._software,
        )

    def _evaluation(
        self, plan: TrainingPlan, structure: Structure, length: int
    ) -> replay.Evaluation | None:
        """The evaluation of a plan that has one; a bare loop is a steady step alone."""
        trained = find_task(plan.task).trainable and structure.loop == "trainer"
        if plan.eval_strategy == "no" or not trained:
            return None
        batch = plan.per_device_eval_batch_size
        evaluating = structure.evaluation(batch)
        return replay.Evaluation(
            profile=lambda: self._profile(evaluating), batch=batch, length=length
        )

    def _profile(self, structure: Structure) -> Profile:
        return self._store.get(structure, self._on_progress)

    @staticmethod
    def _depth(structure: Structure, profile: Profile) -> int:
        return structure.depth() or profile.traced_depth

    def _rows(self, plan: TrainingPlan) -> DataDescription | None:
        return None if self._data is None else self._data.rows_of(plan)

    def longest(self, plan: TrainingPlan) -> int:
        """Longest batch in tokens: what the collator makes of the longest row."""
        rows = self._rows(plan)
        if rows is None:
            return plan.max_length
        return _padded(rows.longest_batch_tokens(plan.max_length), plan)

    def _other_lengths(self, plan: TrainingPlan, longest: int) -> list[int]:
        """Batch lengths of the steps that follow the steady one; none where all are as long."""
        rows = self._rows(plan)
        if rows is None or plan.padding_free or not find_task(plan.task).counts_tokens:
            return []
        batch = plan.per_device_train_batch_size
        grouped = plan.train_sampling_strategy == "group_by_length"
        drawn = rows.batch_lengths(batch, plan.max_length, _MIXED_STEPS, grouped=grouped)
        lengths = [_padded(length, plan) for length in drawn]
        return [*lengths, longest] if set(lengths) - {longest} else []

    def _peaks(self, asked: Asked) -> MemoryEstimate:
        gpu = self._gpu(asked.plan)
        if gpu is None:
            return on_cpu(asked, self._baseline, self._machine.ram_free_bytes)
        return on_gpu(asked, gpu)

    def _context_bytes(self, plan: TrainingPlan) -> int:
        gpu = self._gpu(plan)
        if gpu is None:
            return self._baseline + round(self._known_of(plan).offset())
        context = context_of(gpu, self._known_of(plan))[0]
        return context + data_parallel.communicator_bytes(plan)[0]

    @cached_property
    def _baseline(self) -> int:
        return measured("baseline", self._worker, self._on_progress)

    @cached_property
    def _cpu(self) -> dict[str, Any]:
        return measured("calibrate", self._worker, self._on_progress)

    def _rates(self, plan: TrainingPlan) -> Rates | None:
        gpu = self._gpu(plan)
        if gpu is not None:
            known = gpu_calibration(gpu) if self._machine.source == "probe" else None
            return gpu_rates(gpu) if known is None else known.rates(gpu)
        if self._machine.source != "probe":
            return None
        calibrated = calibration()
        if calibrated is not None:
            return calibrated_rates(calibrated.tables, calibrated.measured_on())
        measured = self._cpu
        return cpu_rates(
            measured["flops_per_second"],
            measured["bytes_per_second"],
            measured["seconds_per_operator"],
        )

    def _cost(
        self, plan: TrainingPlan, structure: Structure, rates: Rates, length: float
    ) -> StepCost:
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
            cost = self._cost(plan, self._structure(plan), rates, float(self.longest(plan)))
            seconds = np.array([cost.forward, cost.backward, cost.optimizer])
            weights = seconds / seconds.sum()
        edges = np.concatenate([[0.0], np.cumsum(weights)])
        position = np.interp(np.arange(start, end), bounds, edges)
        return position, {p: float(e) for p, e in zip(PHASES, edges[:-1], strict=True)}


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


def _padded(length: int, plan: TrainingPlan) -> int:
    multiple = plan.pad_to_multiple_of() or 1
    return math.ceil(length / multiple) * multiple
