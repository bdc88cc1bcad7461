"""Calls made in a fork return what they return here."""

import os
import time

import pytest

from advisor.simulate import forked


@pytest.fixture
def forks(monkeypatch):
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    monkeypatch.setattr(forked, "_can_fork", lambda: True)


def test_the_later_half_is_made_by_another_process_and_the_order_kept(forks):
    calls = [lambda i=i: (i, os.getpid()) for i in range(5)]
    numbers, processes = zip(*forked.in_two(calls), strict=True)
    assert numbers == (0, 1, 2, 3, 4)
    assert processes[:3] == (os.getpid(),) * 3
    assert len(set(processes[3:])) == 1
    assert processes[3] != os.getpid()


def test_an_error_of_the_fork_is_raised_here(forks):
    def fails():
        raise ValueError("no polynomial")

    with pytest.raises(ValueError, match="no polynomial"):
        forked.in_two([lambda: 1, fails])


def test_an_error_here_ends_the_fork_at_once(forks):
    def fails():
        raise ValueError("here")

    started = time.monotonic()
    with pytest.raises(ValueError, match="here"):
        forked.in_two([fails, lambda: time.sleep(60)])
    assert time.monotonic() - started < 30


def test_without_a_second_processor_all_are_made_here(monkeypatch):
    monkeypatch.setattr(forked, "_can_fork", lambda: False)
    assert forked.in_two([os.getpid, os.getpid]) == [os.getpid()] * 2
