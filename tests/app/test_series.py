"""Series: thinned and smoothed as they grow, exactly as if all had come at once."""

import math
import random
import sys
import threading

import numpy as np
import pytest

from app.series import LIMIT, Series, smooth, thin


def same(left, right):
    return np.array_equal(np.asarray(left, float), np.asarray(right, float), equal_nan=True)


def noisy(size):
    rng = random.Random(size)
    values = [math.nan if rng.random() < 0.01 else rng.gauss(1.0, 0.3) for _ in range(size)]
    values[size // 3] = 99.0
    return values


@pytest.mark.parametrize("smoothed", [False, True])
def test_growing_in_steps_equals_the_whole(smoothed):
    values, rng = noisy(20_000), random.Random(1)
    grown, size = Series(), 0
    while size < len(values):
        more = rng.choice([1, 3, 50, 1700])
        part = values[size : size + more]
        grown.extend(range(size, size + len(part)), part)
        size += len(part)
        steps, drawn = grown.drawn(smoothed=smoothed)
        assert len(steps) <= LIMIT
        whole = Series(range(size), values[:size]).drawn(smoothed=smoothed)
        assert same(steps, whole[0])
        assert same(drawn, whole[1])
    assert same(grown.values, values)


def test_what_was_cut_is_gone_from_the_curve():
    values = noisy(9_000)
    series = Series(range(9_000), values)
    series.drawn(smoothed=True)
    series.cut_after(5_000)
    series.extend([5_001], [7.0])
    whole = Series(range(5_002), [*values[:5_001], 7.0])
    for smoothed in (False, True):
        for mine, theirs in zip(
            series.drawn(smoothed=smoothed), whole.drawn(smoothed=smoothed), strict=True
        ):
            assert same(mine, theirs)


def test_handed_out_values_do_not_change():
    series = Series(range(20), [1.0] * 20)
    before = series.values
    series.cut_after(5)
    series.extend([6, 7], [2.0, 2.0])
    assert list(before) == [1.0] * 20


def test_steps_and_values_are_of_one_moment_while_another_session_reads():
    """Growing and cut at once by another thread: no reader sees more steps than values."""
    series, done, wrong = Series(), threading.Event(), []

    def look():
        while not done.is_set():
            try:
                steps, values = series.both()
                if len(steps) != len(values):
                    wrong.append((len(steps), len(values)))
                series.bad_steps()
                series.at([3, 7])
                series.highest()
            except (IndexError, ValueError) as error:
                wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [threading.Thread(target=look) for _ in range(2)]
        for reader in readers:
            reader.start()
        for begin in range(0, 30_000, 10):
            series.extend(range(begin, begin + 10), [1.0, math.nan] * 5)
            if begin % 1000 == 0:
                series.cut_after(begin // 2)
    finally:
        done.set()
        sys.setswitchinterval(interval)
        for reader in readers:
            reader.join()
    assert wrong == []


def test_every_spike_and_gap_survives():
    values = [1.0] * 1_000_000
    for place in range(0, 1_000_000, 99_991):
        values[place], values[place + 1] = 50.0 + place, math.nan
    _, drawn = Series(range(1_000_000), values).drawn()
    assert {v for v in drawn if v > 1} == {50.0 + p for p in range(0, 1_000_000, 99_991)}
    assert sum(math.isnan(v) for v in drawn) == 11


def test_highest_and_last_skip_what_is_not_finite():
    assert Series([1, 2, 3], [1.0, 5.0, math.nan]).highest() == 5.0
    assert Series([1, 2, 3], [1.0, 5.0, math.nan]).last() == 5.0
    assert Series([1], [math.nan]).highest() is None
    assert Series().last() is None


def test_thinning_keeps_spikes_ends_and_gaps():
    steps = list(range(50_000))
    values = [1.0] * 50_000
    values[31_337], values[40_000] = 99.0, math.nan
    kept_steps, kept = thin(steps, values)
    assert len(kept) <= 2000
    assert 99.0 in kept
    assert any(math.isnan(v) for v in kept)
    assert (kept_steps[0], kept_steps[-1]) == (0, 49_999)
    assert kept_steps == sorted(kept_steps)


def test_short_series_is_not_thinned():
    assert thin([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])


def test_smoothing_is_a_mean_and_keeps_gaps():
    values = [2.0, 2.0, math.nan, 2.0]
    out = smooth(values)
    assert [v for v in out if not math.isnan(v)] == pytest.approx([2.0, 2.0, 2.0])
    assert math.isnan(out[2])
