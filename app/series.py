"""A measured quantity that grows: kept as numbers, thinned and smoothed as it comes. Pure.

A tick costs what is new: buckets that are full are settled, and so is the mean over old values.
"""

import math
import threading
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

LIMIT = 2000
"""Points of a curve that is drawn; thinning begins after the span of the mean has settled."""
LONGEST_SPAN = 40
"""Values that the smoothed curve looks back on, at most."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Series:
    """One quantity over optimizer steps; safe to draw in one thread while another appends."""

    def __init__(self, steps: Iterable[int] = (), values: Iterable[float] = ()) -> None:
        self._lock = threading.Lock()
        self._steps: Integers = np.empty(16, np.int64)
        self._values: Floats = np.empty(16, np.float64)
        self._size = 0
        self._forget()
        self.extend(list(steps), list(values))

    def _forget(self) -> None:
        self._raw, self._mean = _Thinner(), _Thinner()
        self._smoothed = _Smoothed()

    def both(self) -> tuple[Integers, Floats]:
        """Steps and values of one moment, equally many; not to be changed."""
        with self._lock:
            return self._both()

    def _both(self) -> tuple[Integers, Floats]:
        return self._steps[: self._size], self._values[: self._size]

    @property
    def steps(self) -> Integers:
        """Optimizer steps, rising; not to be changed. Beside values, take `both`."""
        return self.both()[0]

    @property
    def values(self) -> Floats:
        """NaN where the value was not finite; not to be changed. Beside steps, take `both`."""
        return self.both()[1]

    def __len__(self) -> int:
        return self._size

    def extend(self, steps: Sequence[int], values: Sequence[float]) -> None:
        """Append; arrays that were handed out stay as they are."""
        with self._lock:
            end = self._size + len(steps)
            if end > len(self._steps):
                room = max(end, 2 * len(self._steps))
                steps_now, values_now = self._both()
                self._steps = np.concatenate([steps_now, np.empty(room - self._size, np.int64)])
                self._values = np.concatenate([values_now, np.empty(room - self._size)])
            self._steps[self._size : end] = steps
            self._values[self._size : end] = values
            self._size = end

    def cut_after(self, step: int) -> None:
        """Forget what lies beyond `step`: a resumed run does those steps again."""
        with self._lock:
            steps, values = self._both()
            keep = int(np.searchsorted(steps, step, side="right"))
            if keep < self._size:
                self._steps, self._values = steps[:keep].copy(), values[:keep].copy()
                self._size = keep
                self._forget()

    def last(self) -> float | None:
        """The latest finite value."""
        return _last_finite(self.values)

    def highest(self) -> float | None:
        """The greatest finite value."""
        values = self.values
        return None if not len(values) or np.isnan(values).all() else float(np.nanmax(values))

    def bad_steps(self) -> list[int]:
        """Steps at which the value was not finite."""
        steps, values = self.both()
        return steps[np.isnan(values)].tolist()

    def last_mean(self) -> float | None:
        """The latest value of the smoothed curve."""
        with self._lock:
            return _last_finite(self._smoothed.of(self._both()[1]))

    def drawn(self, *, smoothed: bool = False) -> tuple[list[int], list[float]]:
        """At most LIMIT points, least and greatest of each stretch; a gap keeps its NaN."""
        with self._lock:
            steps, values = self._both()
            if smoothed:
                values = self._smoothed.of(values)
            keep = (self._mean if smoothed else self._raw).indices(values)
            return steps[keep].tolist(), values[keep].tolist()

    def at(self, steps: Sequence[int]) -> Floats:
        """Values between the known ones at other steps, linearly; NaN before the first."""
        at, values = self.both()
        known = ~np.isnan(values)
        if not known.any():
            return np.full(len(steps), math.nan)
        return np.interp(steps, at[known], values[known], left=math.nan)


def _last_finite(values: Floats) -> float | None:
    for stretch in (values[-100:], values):  # nearly always among the last ones
        finite = stretch[~np.isnan(stretch)]
        if len(finite):
            return float(finite[-1])
    return None


def thin(
    steps: Sequence[int], values: Sequence[float], limit: int = LIMIT
) -> tuple[list[int], list[float]]:
    """At most `limit` points: the least and the greatest of each bucket, so that a spike survives.

    A bucket that holds a NaN keeps one, so that the gap survives too.
    """
    numbers = np.asarray(values, np.float64)
    keep = _Thinner(limit).indices(numbers)
    return np.asarray(steps, np.int64)[keep].tolist(), numbers[keep].tolist()


class _Thinner:
    """Which points of a growing array to draw.

    Buckets are as wide as a power of two and begin at multiples of it: which points stay depends on
    the values alone, not on when they came. A wider one is needed each time the array has doubled.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._num_buckets = max((limit - 1) // 3, 1)
        self._restart(1)

    def _restart(self, width: int) -> None:
        self._width, self._done = width, 0
        self._kept: list[Integers] = []

    def indices(self, values: Floats) -> Integers:
        """Rising indices of `values`, which are those of the last call and more."""
        size, width = len(values), 1
        while -(-size // width) > self._num_buckets:
            width *= 2
        if width == 1:
            return np.arange(size)
        if width != self._width:
            self._restart(width)
        full = size // width * width
        if full > self._done:
            self._kept.append(_extremes(values[self._done : full], width) + self._done)
            self._kept = [np.concatenate(self._kept)]
            self._done = full
        rest = values[full:]
        last = [_extremes(rest, len(rest)) + full] if len(rest) else []
        return np.unique(np.concatenate([*self._kept, *last, np.array([size - 1])]))


def _extremes(values: Floats, width: int) -> Integers:
    """Of each `width` values the places of the least, the greatest and the first NaN; rising."""
    table = values.reshape(-1, width)
    begins = np.arange(len(table)) * width
    bad = np.isnan(table)
    some, has_bad = ~bad.all(axis=1), bad.any(axis=1)
    least = np.where(bad, np.inf, table).argmin(axis=1) + begins
    greatest = np.where(bad, -np.inf, table).argmax(axis=1) + begins
    first_bad = bad.argmax(axis=1) + begins
    return np.unique(np.concatenate([least[some], greatest[some], first_bad[has_bad]]))


def smoothing_span(num_values: int) -> int:
    """Span of the mean over logged values: a tenth of them, so that short runs do not lag."""
    return min(max(num_values // 10, 3), LONGEST_SPAN)


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential mean with weights that sum to 1 from the first value on; a gap stays a gap."""
    return _Smoothed().of(np.asarray(values, np.float64)).tolist()


class _Smoothed:
    """The mean over a growing array. While its span still grows, all of it is computed again."""

    def __init__(self) -> None:
        self._span, self._size = 0, 0
        self._total = self._weight = 0.0
        self._means: Floats = np.empty(16)

    def of(self, values: Floats) -> Floats:
        """Means of all values."""
        span = smoothing_span(len(values))
        if span != self._span or len(values) < self._size:
            self._span, self._size = span, 0
            self._total = self._weight = 0.0
        if len(values) > len(self._means):
            more = np.empty(2 * len(values) - len(self._means))
            self._means = np.concatenate([self._means, more])
        keep = 1 - 2 / (span + 1)
        total, weight, out = self._total, self._weight, []
        for value in values[self._size :].tolist():
            if math.isnan(value):
                out.append(math.nan)
                continue
            total, weight = value + keep * total, 1 + keep * weight
            out.append(total / weight)
        self._means[self._size : len(values)] = out
        self._total, self._weight, self._size = total, weight, len(values)
        return self._means[: len(values)]
