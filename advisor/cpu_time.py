"""Seconds of each operator of a profile on a CPU whose operators were measured.

Matmuls: work, operands and result each at a rate, fitted; then drawn to the measured shapes nearby.
Fused attention: the same, without the drawing. Everything else: a curve of seconds over bytes for
each operator, which holds what caches and fresh memory do. What was never measured takes the curve
of its kind.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from advisor.simulate.profile import BASIS, KINDS, PHASES, Kernels
from advisor.units import MIB

Observed = Mapping[str, Any]
"""One operator of a real step: operator, kind, half, phase, launches, flops, num_bytes, dims,
seconds."""
_FRESH_BYTES = 32 * MIB
"""Blocks from this size on are new memory in every step (malloc's largest mmap threshold)."""
_NEARBY = 0.7
"""Natural logarithm of the size ratio over which a measured shape speaks for another."""
_DOUBT = 0.5
"""How many measured shapes nearby the fitted formula counts for."""


@dataclass(frozen=True, kw_only=True)
class MatmulTable:
    """Matmuls of one dtype."""

    rates: tuple[float, ...]
    """Of each of _matmul_features, seconds."""
    shapes: tuple[tuple[float, ...], ...]
    """Measured ones: four dims, 1 in the backward, logarithm of measured over fitted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CpuTables:
    """What a step's operators cost on one CPU; cpu_probe.py measures it."""

    curves: Mapping[str, tuple[tuple[float, float], ...]]
    """Operator and dtype -> (bytes, seconds) of one launch, growing."""
    matmul: Mapping[str, MatmulTable]
    """By dtype, "half" or "single"."""
    attention: Mapping[str, tuple[float, ...]]
    """By dtype and direction: seconds of each of _attention_features."""
    host_seconds: Mapping[str, float]
    in_situ: float
    """Time of a real Trainer's step over its operators and launches; scales the operators."""
    half_known: bool
    """False: 16 bits are emulated, too slowly to measure more than the smallest model in them."""
    num_threads: int
    spread: float
    """By how much the passes over a job differed, median."""
    foreign: float
    """Processors that other programs used meanwhile, mean."""

    def matmul_flops_per_second(self, dtype: str) -> float | None:
        """Of a matmul so large that nothing but its work counts; None is unknown."""
        found = self.matmul.get(dtype)
        return 2 / found.rates[1] if found is not None and found.rates[1] else None


# -- from measurements --------------------------------------------------------------------------


def tabulate(rows: Iterable[Observed]) -> dict[str, list[list[float]]]:
    """Curves by operator and dtype, and by kind and dtype for what was never measured."""
    groups: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["kind"] in ("matmul", "attention") and any(row["dims"]):
            continue
        size = max(row["num_bytes"] / row["launches"], 1.0)
        for name in (row["operator"], f"kind:{row['kind']}"):
            buckets = groups.setdefault(f"{name} {_dtype(row['half'])}", {})
            sums = buckets.setdefault(round(2 * np.log2(size)), [0.0, 0.0, 0.0])
            for i, value in enumerate((row["launches"], row["num_bytes"], row["seconds"])):
                sums[i] += value
    return {
        name: [[b / n, s / n] for _, (n, b, s) in sorted(buckets.items())]
        for name, buckets in groups.items()
    }


def _dtype(half: bool) -> str:
    return "half" if half else "single"


def fit_matmul(rows: Iterable[Observed]) -> dict[str, dict[str, Any]]:
    """Rates of matmuls by dtype, and how measured shapes differ from them."""
    result = {}
    rows = [r for r in rows if r["kind"] == "matmul" and any(r["dims"])]
    for half in (False, True):
        chosen = [r for r in rows if r["half"] == half]
        if not chosen:
            continue
        dims = np.array([r["dims"] for r in chosen], float)
        seconds = np.array([r["seconds"] for r in chosen])
        features = _matmul_features(dims, half)
        rates = _not_negative(features / seconds[:, None], np.ones(len(seconds)))
        by_shape: dict[tuple[float, ...], list[float]] = {}
        fitted = features @ rates
        for row, one, middle in zip(chosen, seconds, fitted, strict=True):
            backward = float(row["phase"] == "backward" and not row["by_python"])
            key = (*map(float, row["dims"]), backward)
            by_shape.setdefault(key, []).append(float(np.log(one / middle)))
        shapes = [[*key, float(np.mean(found))] for key, found in by_shape.items()]
        result[_dtype(half)] = {"rates": rates.tolist(), "shapes": shapes}
    return result


def _matmul_features(dims: np.ndarray, half: bool) -> np.ndarray:
    """Columns: calls, multiplications, numbers of either factor and of the result, fresh bytes."""
    b, m, n, k = dims.T
    fresh = b * m * n * (2 if half else 4)
    fresh = np.where(fresh > _FRESH_BYTES, fresh, 0.0)
    return np.stack([np.ones(len(dims)), b * m * n * k, b * n * k, b * m * k, b * m * n, fresh], 1)


def fit_attention(rows: Iterable[Observed]) -> dict[str, list[float]]:
    """Rates of fused attention by dtype and direction."""
    result = {}
    rows = [r for r in rows if r["kind"] == "attention" and any(r["dims"])]
    for half in (False, True):
        for backward in (False, True):
            chosen = [
                r for r in rows if r["half"] == half and backward == ("backward" in r["operator"])
            ]
            if not chosen:
                continue
            dims = np.array([r["dims"] for r in chosen], float)
            flops = np.array([r["flops"] for r in chosen], float)
            seconds = np.array([r["seconds"] for r in chosen])
            features = _attention_features(dims, flops) / seconds[:, None]
            rates = _not_negative(features, np.ones(len(seconds)))
            name = f"{_dtype(half)} {'backward' if backward else 'forward'}"
            result[name] = rates.tolist()
    return result


def _attention_features(dims: np.ndarray, flops: np.ndarray) -> np.ndarray:
    """Columns: calls, FLOPs, scores, numbers of the queries."""
    heads, queries, keys, width = dims.T
    return np.stack([np.ones(len(dims)), flops, heads * queries * keys, heads * queries * width], 1)


def _not_negative(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares; columns that would count negatively are left out."""
    kept = list(range(features.shape[1]))
    scale = np.abs(features).max(axis=0)
    kept = [i for i in kept if scale[i] > 0]
    while True:
        found = np.linalg.lstsq(features[:, kept] / scale[kept], wanted, rcond=None)[0]
        if len(kept) == 1 or (found >= 0).all():
            break
        kept.pop(int(np.argmin(found)))
    result = np.zeros(features.shape[1])
    result[kept] = np.maximum(found, 0) / scale[kept]
    return result


# -- to a profile -------------------------------------------------------------------------------


def cpu_seconds(
    kernels: Kernels, tables: CpuTables, batch: int, length: float, layers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Time of each row of the profile: (computing, moving); one of them is zero.

    Args:
        kernels: n rows.
        tables: the CPU.
        batch: rows.
        length: tokens, may be an expected value.
        layers: repeated layers beyond the traced ones.
    """
    basis = np.array([batch**i * length**j for i, j in BASIS])
    growth = kernels.per_layer * layers
    flops = np.maximum(kernels.flops @ basis + growth[:, 1], 0)
    moved = np.maximum(kernels.num_bytes @ basis + growth[:, 2], 0)
    launches = np.maximum(kernels.num_launches + growth[:, 0], 1)
    computing, moving = np.zeros(len(flops)), np.zeros(len(flops))
    is_shaped = np.zeros(len(flops), dtype=bool)
    is_shaped[kernels.shaped] = True
    dims = np.maximum(kernels.dims @ basis, 1.0)
    backward = (kernels.phase == PHASES.index("backward")) & ~kernels.by_python
    for half in (False, True):
        of_dtype = kernels.half == half
        at = of_dtype[kernels.shaped] & (kernels.kind[kernels.shaped] == KINDS.index("matmul"))
        rows = kernels.shaped[at]
        if rows.size:
            computing[rows] = _matmul_seconds(tables, half, dims[at], backward[rows])
        for is_backward in (False, True):
            rows_of = kernels.kind[kernels.shaped] == KINDS.index("attention")
            named = np.char.find(kernels.operator[kernels.shaped], "backward") >= 0
            at = of_dtype[kernels.shaped] & rows_of & (named == is_backward)
            rows = kernels.shaped[at]
            if rows.size:
                found = _attention_seconds(tables, half, is_backward, dims[at], flops[rows])
                computing[rows] = found
        for name in np.unique(kernels.operator[of_dtype & ~is_shaped]):
            rows = np.flatnonzero(of_dtype & ~is_shaped & (kernels.operator == name))
            curve = _curve(tables, str(name), KINDS[kernels.kind[rows[0]]], half)
            moving[rows] = launches[rows] * _read(curve, moved[rows] / launches[rows])
    return computing * tables.in_situ, moving * tables.in_situ


def _matmul_seconds(
    tables: CpuTables, half: bool, dims: np.ndarray, backward: np.ndarray
) -> np.ndarray:
    measured = tables.matmul[_dtype(half)]
    fitted = _matmul_features(dims, half) @ np.array(measured.rates)
    shapes = np.array(measured.shapes)
    places = np.concatenate([np.log(dims), _NEARBY * backward[:, None]], axis=1)
    known = np.concatenate([np.log(shapes[:, :4]), _NEARBY * shapes[:, 4:5]], axis=1)
    away = ((places[:, None] - known[None]) ** 2).sum(axis=2)
    weights = np.exp(-0.5 * away / _NEARBY**2)
    drawn = (weights @ shapes[:, 5]) / (weights.sum(axis=1) + _DOUBT)
    return fitted * np.exp(drawn)


def _attention_seconds(
    tables: CpuTables, half: bool, backward: bool, dims: np.ndarray, flops: np.ndarray
) -> np.ndarray:
    rates = tables.attention[f"{_dtype(half)} {'backward' if backward else 'forward'}"]
    return _attention_features(dims, flops) @ np.array(rates)


def _curve(tables: CpuTables, name: str, kind: str, half: bool) -> np.ndarray:
    """The operator's, else its kind's, else that of elementwise work."""
    dtypes = (_dtype(half), _dtype(not half))
    names = (name, name.rstrip("_"), f"kind:{kind}", "kind:elementwise")
    found = (tables.curves.get(f"{n} {d}") for n in names for d in dtypes)
    return np.array(next(curve for curve in found if curve))


def _read(curve: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Seconds at these bytes: constant below the curve, by bytes above it."""
    sizes, seconds = curve.T
    inside = np.exp(np.interp(np.log(np.maximum(size, 1.0)), np.log(sizes), np.log(seconds)))
    return inside * np.maximum(size / sizes[-1], 1.0)
