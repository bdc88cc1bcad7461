"""What all sessions share: one Advisor, and the one thread that talks to it.

The advisor runs in its own thread so that a page can show progress while it waits, and can be left
(a newer question, a closed tab) without breaking a conversation with the worker process.
"""

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from advisor.elsewhere import Elsewhere
from advisor.errors import WorkerError
from advisor.hardware.machine import Gpu, Machine
from advisor.hardware.probe import probe_machine
from advisor.home import runs_dir
from advisor.plan import TrainingPlan
from advisor.recommend import Advisor, Question
from advisor.recommendation import Recommendation

T = TypeVar("T")
Progress = tuple[str, dict[str, Any]]
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 0.5
"""An answer that comes by then replaces the one before it; later ones are waited for visibly."""
DRAWING_SECONDS = 0.5
"""For so long at most the whole answer waits until the first one is drawn."""


@functools.cache
def advisor() -> Advisor:
    """The Advisor of this process."""
    return Advisor()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="advisor")


class Asking:
    """A question that one session asked: its answer, and the way to give it up."""

    _running: "Asking | None" = None
    """The one that the thread works on."""
    _turn = threading.Lock()

    def __init__(self, question: Question) -> None:
        """Queue it."""
        self.question = question
        self._latest: list[Progress] = []
        self._first: queue.SimpleQueue[Recommendation | None] = queue.SimpleQueue()
        self._drawn = threading.Event()
        self._future = _thread().submit(self._work, question)
        self._future.add_done_callback(lambda _: self._first.put(None))

    def _work(self, question: Question) -> Recommendation:
        with Asking._turn:
            Asking._running = self
        try:
            return advisor().recommend(
                question,
                on_progress=lambda name, params: self._latest.append((name, params)),
                on_first=self._give,
            )
        finally:
            with Asking._turn:
                Asking._running = None

    def _give(self, found: Recommendation) -> None:
        self._first.put(found)
        # Two threads that compute at once share one interpreter: the page first.
        self._drawn.wait(DRAWING_SECONDS)

    def go_on(self) -> None:
        """The first answer is drawn: work out the rest."""
        self._drawn.set()

    def first(
        self, show: Callable[[Progress | None], None]
    ) -> "tuple[Recommendation, Asking | None]":
        """The first answer, and what has the whole one later; None where it is whole.

        Args:
            show: called while waiting, with the latest progress message (id, params) or None.

        Raises:
            AdvisorError: the question has no answer; the sentence says why.
        """
        patience = PATIENCE_SECONDS
        while True:
            try:
                found = self._first.get(timeout=patience)
            except queue.Empty:
                patience = POLL_SECONDS
                show(self._latest[-1] if self._latest else None)
                continue
            if found is None or self._future.done():
                return self._result(), None
            return found, self

    def is_over(self) -> bool:
        """Whether it was answered, refused or given up."""
        return self._future.done()

    def rest(self) -> Recommendation | None:
        """The whole answer; None while it is made.

        Raises:
            AdvisorError: it could not be finished.
        """
        return self._result() if self._future.done() else None

    def _result(self) -> Recommendation:
        try:
            return self._future.result()
        except CancelledError:
            raise WorkerError("worker.cancelled") from None

    def give_up(self) -> None:
        """Take it back; the worker process ends only if it works on this one."""
        self.go_on()
        if self._future.cancel():
            return
        with Asking._turn:
            if Asking._running is self:
                advisor().cancel()


def whole(question: Question) -> Recommendation:
    """The whole answer to `question`, without progress.

    Raises:
        AdvisorError: the question has no answer; the sentence says why.
    """
    return _wait(_thread().submit(advisor().recommend, question), lambda: None)


class Calibrating:
    """A measurement of this machine that runs; nothing else is answered meanwhile."""

    def __init__(self, gpu: Gpu | None) -> None:
        """Start it.

        Args:
            gpu: which to measure; None is the processor.
        """
        self.gpu = gpu
        self.progress: Progress | None = None
        """The latest."""
        self._given_up = threading.Event()
        self._future = _thread().submit(
            advisor().calibrate, gpu, self._told, cancelled=self._given_up.is_set
        )

    def _told(self, name: str, params: dict[str, Any]) -> None:
        self.progress = (name, params)

    def cancel(self) -> None:
        """End it; what was known before is kept."""
        self._given_up.set()

    def is_cancelled(self) -> bool:
        """Whether it was told to end."""
        return self._given_up.is_set()

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
    """This machine as it is now, to be looked at: the one that answers rest on stays as it was.

    Probed at once, even while an answer is worked on.
    """
    return probe_machine(runs_dir())


def _wait(future: "Future[T]", on_tick: Callable[[], None]) -> T:
    while True:
        try:
            return future.result(timeout=POLL_SECONDS)
        except TimeoutError:
            if future.done():
                return future.result()
            on_tick()
