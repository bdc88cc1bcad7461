"""What all sessions share: one Advisor, and the one thread that talks to it.

The advisor runs in its own thread so that a page can show progress while it waits, and can be left
(a newer question, a closed tab) without breaking a conversation with the worker process.
"""

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from advisor import measurements
from advisor.elsewhere import Elsewhere
from advisor.hardware.machine import Machine
from advisor.plan import TrainingPlan
from advisor.recommend import Advisor, Question
from advisor.recommendation import Recommendation

T = TypeVar("T")
Progress = tuple[str, dict[str, Any]]
POLL_SECONDS = 0.1
_MOST_ASKED = 32
"""Answers that are worked on or wait to be fetched; of more, the oldest are dropped."""


@functools.cache
def advisor() -> Advisor:
    """The Advisor of this process."""
    return Advisor()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="advisor")


@functools.cache
def _asked() -> "dict[str, Future[Recommendation]]":
    return {}


def recommend(
    question: Question, show: Callable[[Progress | None], None]
) -> tuple[Recommendation, bool]:
    """The answer to `question`, and whether it is whole; `rest` has the whole one later.

    Args:
        question: what is asked.
        show: called while waiting, with the latest progress message (id, params) or None.

    Raises:
        AdvisorError: the question has no answer; the sentence says why.
    """
    latest: list[Progress] = []
    first: queue.SimpleQueue[Recommendation | None] = queue.SimpleQueue()
    future = _thread().submit(
        advisor().recommend,
        question,
        on_progress=lambda name, params: latest.append((name, params)),
        on_first=first.put,
    )
    future.add_done_callback(lambda _: first.put(None))
    while True:
        try:
            found = first.get(timeout=POLL_SECONDS)
        except queue.Empty:
            show(latest[-1] if latest else None)
            continue
        if found is None or future.done():
            return future.result(), True
        asked = _asked()
        asked[repr(question)] = future
        while len(asked) > _MOST_ASKED:
            asked.pop(next(iter(asked)))
        return found, False


def whole(question: Question) -> Recommendation:
    """The whole answer to `question`, without progress.

    Raises:
        AdvisorError: the question has no answer; the sentence says why.
    """
    return _wait(_thread().submit(advisor().recommend, question), lambda: None)


def rest(question: Question) -> Recommendation | None:
    """The whole answer to a question that `recommend` answered in part; None while it is made.

    Raises:
        AdvisorError: it could not be finished.
        KeyError: it is not being made: ask again.
    """
    future = _asked()[repr(question)]
    if not future.done():
        return None
    del _asked()[repr(question)]
    return future.result()


def cancel() -> None:
    """Give up the answer that is being worked out; the worker process ends."""
    advisor().cancel()


class Calibrating:
    """A measurement of this machine's processor that runs; nothing else is answered meanwhile."""

    def __init__(self) -> None:
        """Start it."""
        self.progress: Progress | None = None
        """The latest."""
        self._given_up = threading.Event()
        self._future = _thread().submit(
            measurements.calibrate, self._told, cancelled=self._given_up.is_set
        )

    def _told(self, name: str, params: dict[str, Any]) -> None:
        self.progress = (name, params)

    def cancel(self) -> None:
        """End it; what was known before is kept."""
        self._given_up.set()

    def done(self) -> bool:
        """Whether it ended well.

        Raises:
            AdvisorError: the machine is busy, or it was cancelled.
        """
        if not self._future.done():
            return False
        self._future.result()
        return True


def sweep(question: Question, plan: TrainingPlan) -> tuple[Any, ...]:
    """Memory and speed of the plan at other batch sizes and lengths: SweepCell records."""
    return _wait(_thread().submit(advisor().sweep, question, plan), lambda: None)


def machine(name: str | None = None, *, refresh: bool = False) -> Machine:
    """The machine `name`, or this one; `refresh` probes it again."""
    return _wait(_thread().submit(advisor().machine, name, refresh=refresh), lambda: None)


def elsewhere(
    question: Question, plan: TrainingPlan, names: Sequence[str | None], seconds: float
) -> tuple[Elsewhere, ...]:
    """The plan on other machines, as many of them as the seconds allow."""
    work = _thread().submit(advisor().elsewhere, question, plan, names, seconds)
    return _wait(work, lambda: None)


def live_machine() -> Machine:
    """This machine as it is now; probed at once, even while an answer is worked on."""
    return advisor().machine(refresh=True)


def _wait(future: "Future[T]", on_tick: Callable[[], None]) -> T:
    while True:
        try:
            return future.result(timeout=POLL_SECONDS)
        except TimeoutError:
            if future.done():
                return future.result()
            on_tick()
