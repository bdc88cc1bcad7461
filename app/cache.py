"""What all sessions share: one Advisor, and the one thread that talks to it.

The advisor runs in its own thread so that a page can show progress while it waits, and can be left
(a newer question, a closed tab) without breaking a conversation with the worker process.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from advisor.elsewhere import Elsewhere
from advisor.hardware.machine import Machine
from advisor.plan import TrainingPlan
from advisor.recommend import Advisor, Question
from advisor.recommendation import Recommendation

T = TypeVar("T")
Progress = tuple[str, dict[str, Any]]
POLL_SECONDS = 0.1


@functools.cache
def advisor() -> Advisor:
    """The Advisor of this process."""
    return Advisor()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="advisor")


def recommend(question: Question, show: Callable[[Progress | None], None]) -> Recommendation:
    """The answer to `question`.

    Args:
        question: what is asked.
        show: called while waiting, with the latest progress message (id, params) or None.

    Raises:
        AdvisorError: the question has no answer; the sentence says why.
    """
    latest: list[Progress] = []
    future = _thread().submit(
        advisor().recommend,
        question,
        on_progress=lambda name, params: latest.append((name, params)),
    )
    return _wait(future, lambda: show(latest[-1] if latest else None))


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
