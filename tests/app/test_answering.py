"""Asking, waiting, giving up and keeping: what the pages share, without a page."""

import threading

import pytest
import streamlit as st

from advisor.errors import WorkerError
from advisor.recommend import Question
from app import cache, state

FIRST, OTHER = Question(), Question(model="/models/x")


class Held:
    """An Advisor that gives the plan at once and what is beside it when it is let."""

    def __init__(self, records):
        self.records, self.asked, self.cancelled = records, [], 0
        self.begun, self.let = threading.Event(), threading.Event()

    def recommend(self, question, *, on_progress=None, on_first=None):
        self.asked.append(question)
        self.begun.set()
        answer = self.records.recommendation(question)
        on_first(answer)
        self.let.wait(10)
        if self.cancelled:
            raise WorkerError("worker.cancelled")
        return answer

    def cancel(self):
        self.cancelled += 1
        self.let.set()


@pytest.fixture
def held(records, monkeypatch):
    held = Held(records)
    monkeypatch.setattr(cache, "advisor", lambda: held)
    yield held
    held.let.set()


def nothing(_progress):
    pass


def test_two_sessions_with_one_question_both_get_the_whole_answer(held):
    one = cache.Asking(FIRST)
    found, rest = one.first(nothing)
    assert (found.plan is not None, rest) == (True, one)
    other = cache.Asking(FIRST)
    assert one.rest() is None
    held.let.set()
    other.first(nothing)
    for asking in (one, other):
        asking._future.result(10)
        assert asking.rest() == asking.rest() == found


def test_giving_up_what_waits_leaves_the_work_of_another_session(held):
    working, waiting = cache.Asking(FIRST), cache.Asking(OTHER)
    assert held.begun.wait(10)
    waiting.give_up()
    assert held.cancelled == 0
    with pytest.raises(WorkerError, match="Cancelled"):
        waiting.first(nothing)
    held.let.set()
    assert working._future.result(10).plan is not None
    waiting.give_up()
    working.give_up()  # it is over
    assert (held.cancelled, held.asked) == (0, [FIRST])


def test_giving_up_what_is_worked_on_ends_the_worker(held):
    working = cache.Asking(FIRST)
    assert held.begun.wait(10)
    working.give_up()
    assert held.cancelled == 1
    with pytest.raises(WorkerError, match="Cancelled"):
        working._future.result(10)


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setattr(st, "session_state", {})
    return st.session_state


def test_another_answer_forgets_what_was_given_up(session, records):
    state.give_up(FIRST)
    assert state.is_given_up(FIRST)
    state.keep_answer(state.Answer(question=OTHER, recommendation=records.recommendation()), {})
    assert not state.is_given_up(FIRST)


def test_a_new_answer_takes_nothing_over_from_the_old_machine(session, records):
    plan, cells = records.recommendation().plan, []

    def compute(_question, _plan):
        cells.append(1)
        return ()

    state.sweep(FIRST, plan, compute)
    state.sweep(FIRST, plan, compute)
    session["elsewhere"] = ((FIRST, plan), {"T4": 1})
    assert len(cells) == 1
    state.forget_answer()
    state.sweep(FIRST, plan, compute)
    assert len(cells) == 2
    assert "elsewhere" not in session


def test_the_rest_is_worked_on_when_the_first_answer_is_drawn(held, monkeypatch):
    monkeypatch.setattr(cache, "DRAWING_SECONDS", 60)
    held.let.set()
    asking = cache.Asking(FIRST)
    _, rest = asking.first(nothing)
    assert rest is asking
    assert asking.rest() is None
    asking.go_on()
    assert asking._future.result(10).plan is not None
