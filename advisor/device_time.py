"""Seconds that a device computes and moves data for each operator of a profile.

Matmuls take whole waves of tiles over the multiprocessors, with the best of a few tile shapes;
fused attention gets faster with length; all else moves its bytes at a share of the bandwidth that
depends on its kind. Shares and fills: see rates.py.
"""

import numpy as np

from advisor.rates import Rates
from advisor.simulate.profile import BASIS, KINDS, PHASES, Kernels

_CACHE_GAIN = 2.0
"""How much faster operands move that half the cache holds."""
_TILES = (
    np.array([256, 128, 128, 128, 64, 64, 128, 32]),
    np.array([128, 256, 128, 64, 128, 64, 32, 128]),
    np.array([1.0, 1.0, 0.95, 0.82, 0.82, 0.65, 0.5, 0.5]),
)
"""Rows, columns and efficiency of the tiles a matmul is cut into."""
_SPLITS = np.array([1, 2, 4, 8])
"""Into how many parts k may be split, each of at least _SHORTEST_SPLIT."""
_SHORTEST_SPLIT = 256
_FILL = 96
"""Elements of k that filling and draining a tile's pipeline costs."""
_ATTENTION_RAMP = 256
"""Queries at which fused attention reaches half of its rate."""
_NARROW_HEAD = (96, 0.85)


def device_seconds(
    kernels: Kernels, rates: Rates, batch: int, length: float, layers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Time of each row of the profile: (computing, moving), seconds of one repetition.

    The longer of the two counts.

    Args:
        kernels: n rows.
        rates: the device.
        batch: rows.
        length: tokens, may be an expected value.
        layers: repeated layers beyond the traced ones.
    """
    basis = np.array([batch**i * length**j for i, j in BASIS])
    growth = kernels.per_layer * layers
    flops = np.maximum(kernels.flops @ basis + growth[:, 1], 0)
    moved = np.maximum(kernels.num_bytes @ basis + growth[:, 2], 0)
    rate = np.where(kernels.half, rates.flops_per_second_half, rates.flops_per_second_single)
    backward = kernels.phase == PHASES.index("backward")
    attention = kernels.kind == KINDS.index("attention")
    engine = np.where(kernels.half, *rates.attention_backward)
    python = np.where(kernels.half, *rates.attention_forward)
    fused_rate = np.where(backward & ~kernels.by_python, engine, python)
    rate = np.where(attention, fused_rate, rate)
    bandwidth = rates.bytes_per_second * np.array([rates.shares[k] for k in KINDS])[kernels.kind]
    computing = flops / rate
    if rates.processors is not None:
        small = (moved < rates.cache_bytes / 2) & (kernels.phase != PHASES.index("optimizer"))
        bandwidth = np.where(small, bandwidth * _CACHE_GAIN, bandwidth)
        dims = np.maximum(kernels.dims @ basis, 1.0)
        fused = attention[kernels.shaped]
        rows = kernels.shaped[fused]
        computing[rows] /= attention_share(dims[fused])
        rows = kernels.shaped[~fused]
        computing[rows] = matmul_seconds(dims[~fused], rate[rows], rates.processors)
    return computing, moved / bandwidth


def matmul_seconds(dims: np.ndarray, rate: np.ndarray, processors: int) -> np.ndarray:
    """Time of matmuls on `processors` multiprocessors.

    Args:
        dims: (r, 4): matrices, m, n, k.
        rate: (r,) FLOP/s that a large one sustains.
        processors: multiprocessors of the card.
    """
    matrices, m, n, k = dims.T
    rows, columns, efficiency = (column[:, None] for column in _TILES)
    tiles = matrices * np.ceil(m / rows) * np.ceil(n / columns)
    depth = k / _SPLITS[:, None]
    waves = np.ceil(tiles * _SPLITS[:, None, None] / processors)
    of_wave = 2 * processors * rows * columns * (depth[:, None] + _FILL) / (rate * efficiency)
    seconds = waves * of_wave
    too_short = (depth < _SHORTEST_SPLIT) & (_SPLITS[:, None] > 1)
    return np.where(too_short[:, None], np.inf, seconds).min(axis=(0, 1))


def attention_share(dims: np.ndarray) -> np.ndarray:
    """Share of its rate that fused attention of (r, 4) shapes reaches."""
    _, queries, _, width = dims.T
    narrow, share = _NARROW_HEAD
    return queries / (queries + _ATTENTION_RAMP) * np.where(width < narrow, share, 1.0)
