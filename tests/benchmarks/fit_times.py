"""Fit the shared constants of the time model to the public step times, and leave sources out.

`python tests/benchmarks/fit_times.py` prints constants fitted to all rows beside those in use;
bench.py predicts each source with constants fitted without it. A card that no other source ran
takes the shares of an unknown card then. Least squares in logarithms with robust weights; every
constant is held by a prior around a round physical guess, so that few rows cannot bend it.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advisor.estimate import Estimator
from advisor.hardware.machine import Gpu
from advisor.rates import PUBLIC, UNKNOWN_CARD, Constants, card_of, gpu_rates
from advisor.simulate.make import ProfileStore
from advisor.simulate.profile import Profile
from advisor.simulate.worker import Worker
from advisor.spec import read_spec
from advisor.speed import step_cost

GUESSES = {
    "streaming": (0.8, 0.1),
    "reduce": (0.8, 0.2),
    "copy": (0.65, 0.2),
    "dequantise": (0.5, 0.4),
    "host": (1.0, 0.4),
    "step": (5e-3, 0.5),
}
"""Constant -> (guess, standard deviation of its logarithm)."""
BY_CARD = {
    "sustained": (0.7, 0.2),
    "sustained_single": (0.85, 0.15),
    "attention": (1.0, 0.3),
    "slower_host": (1.0, 0.5),
}
"""The same for each card; attention's is a factor on an unknown card's shares."""
NOISE = 0.06
"""Standard deviation of a measured step's logarithm: repeats of one T4 job lie so far apart."""
ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A measured step that the model can predict."""

    row: dict[str, Any]
    source: str
    gpu: Gpu
    profile: Profile
    batch: int
    length: int
    depth: int
    micro_batches: int
    """In the profile."""
    accumulation: int
    seconds: float

    def predicted(self, constants: Constants) -> float:
        """Seconds of the step with these constants."""
        rates = gpu_rates(self.gpu, constants)
        assert rates is not None
        cost = step_cost(
            self.profile, rates, self.batch, self.length, self.depth, self.micro_batches
        )
        return cost.update_seconds(rates, self.accumulation)


def read(rows: Sequence[dict[str, Any]], sources: Sequence[str], worker: Worker) -> list[Timed]:
    """The rows of one device that have a step time, with their profiles."""
    store, found = ProfileStore(worker), []
    for row, source in zip(rows, sources, strict=True):
        seconds = row["measured"].get("step_seconds")
        if seconds is None or row["plan"].get("devices", 1) > 1:
            continue
        spec = read_spec(row, worker=worker)
        gpu = spec.machine.accelerator()
        assert gpu is not None
        estimator = Estimator(
            worker, model=spec.model, data=None, machine=spec.machine, store=store
        )
        structure = estimator._structure(spec.plan, spec.loop)
        profile = estimator._profile(structure)
        found.append(
            Timed(
                row=row,
                source=source,
                gpu=gpu,
                profile=profile,
                batch=spec.plan.per_device_train_batch_size,
                length=spec.plan.max_length,
                depth=estimator._depth(structure, profile),
                micro_batches=2 if structure.accumulate else 1,
                accumulation=spec.plan.gradient_accumulation_steps,
                seconds=seconds,
            )
        )
    return found


def fit(rows: Sequence[Timed]) -> Constants:
    """Constants that fit the rows; a card without a row has none of its own."""
    names: list[tuple[str, str]] = [(name, "") for name in GUESSES]
    cards = sorted({card_of(row.gpu) for row in rows} - {""})
    names += [(name, card) for card in cards for name in BY_CARD]
    guesses = [GUESSES[name] if not card else BY_CARD[name] for name, card in names]
    centre = np.log([guess for guess, _ in guesses])
    width = np.array([deviation for _, deviation in guesses])
    measured = np.log([row.seconds for row in rows])
    counts = {s: sum(row.source == s for row in rows) for s in {row.source for row in rows}}
    fair = np.array([counts[row.source] ** -0.25 for row in rows])
    fair /= fair.mean()

    def error(values: np.ndarray) -> np.ndarray:
        constants = _constants(names, values)
        return np.log([row.predicted(constants) for row in rows]) - measured

    values = centre.copy()
    for _ in range(ROUNDS):
        now = error(values)
        slopes = []
        for i in range(len(values)):
            moved = values.copy()
            moved[i] += 0.05
            slopes.append((error(moved) - now) / 0.05)
        jacobian = np.array(slopes).T
        robust = fair / np.maximum(np.abs(now), NOISE) / NOISE
        left = jacobian.T @ (robust[:, None] * jacobian) + np.diag(width**-2)
        right = -jacobian.T @ (robust * now) - (values - centre) / width**2
        values = values + np.clip(np.linalg.solve(left, right), -0.4, 0.4)
    return _constants(names, values)


def _constants(names: Sequence[tuple[str, str]], values: np.ndarray) -> Constants:
    shared: dict[str, Any] = {}
    by_card: dict[str, dict[str, Any]] = {name: {} for name in BY_CARD}
    forward, backward = UNKNOWN_CARD["attention"]
    for (name, card), value in zip(names, np.exp(values), strict=True):
        if not card:
            shared[name] = float(value)
        elif name == "attention":
            by_card[name][card] = (float(value) * forward, float(value) * backward)
        else:
            by_card[name][card] = float(value)
    return Constants(**shared, **by_card)


def left_out(rows: Sequence[Timed]) -> dict[str, float]:
    """Row id -> seconds predicted with constants that no row of its source was fitted to."""
    found = {}
    for source in dict.fromkeys(row.source for row in rows):
        constants = fit([row for row in rows if row.source != source])
        found |= {row.row["id"]: row.predicted(constants) for row in rows if row.source == source}
    return found


def main() -> None:
    """Print the constants in use beside those of a fit to all rows, and the errors of both."""
    from bench import MEASURED, read_rows

    asked = read_rows(MEASURED)
    worker = Worker()
    try:
        rows = read([row for _, row in asked], [source for source, _ in asked], worker)
    finally:
        worker.close()
    fitted = fit(rows)
    for field in dataclasses.fields(Constants):
        print(f"{field.name}: {getattr(PUBLIC, field.name)} in use, {getattr(fitted, field.name)}")
    outside = left_out(rows)
    kinds = {
        "in use": [row.predicted(PUBLIC) / row.seconds - 1 for row in rows],
        "fitted to these rows": [row.predicted(fitted) / row.seconds - 1 for row in rows],
        "source left out": [outside[row.row["id"]] / row.seconds - 1 for row in rows],
    }
    for name, errors in kinds.items():
        sizes = 100 * np.abs(errors)
        print(
            f"{name}: {len(rows)} rows, median {np.median(sizes):.1f} %, "
            f"p90 {sizes[np.argsort(sizes)[math.ceil(0.9 * len(sizes)) - 1]]:.1f} %"
        )


if __name__ == "__main__":
    sys.exit(main())
