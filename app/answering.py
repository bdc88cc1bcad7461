"""The answer to the page's question: the same for every page that shows one.

What is known is taken; what is not is worked out behind a line of progress that has a Cancel.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from advisor.errors import AdvisorError, WorkerError
from advisor.locale import Message, catalogue, render
from advisor.recommend import Question
from advisor.recommendation import Recommendation
from app import cache, forms, state
from app.components import headline
from app.texts import t


class Waiting:
    """What stands on the page while an answer is worked out, and the way to give it up.

    Opened by the first sign that it takes a while: a quick answer replaces the one before it
    without a flash, and the one before stays until then.
    """

    def __init__(
        self,
        asked: Question,
        title: Any,
        places: Sequence[Any],
        *,
        words: str = "headline.loading",
        more: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is drawn yet.

        Args:
            asked: the question.
            title: container of the page's sentence.
            places: containers of the answer's card and of what stands under it.
            words: id of the sentence and, with `.caption`, of the line under it.
            more: draws what else the page shows meanwhile.
        """
        self._asked, self._title, self._places = asked, title, places
        self._words, self._more = words, more
        self._drawn: list[Any] = []
        self._line: Any = None

    def open(self) -> None:
        """Draw it."""
        lang = state.language()
        title, card, *others = (place.empty() for place in (self._title, *self._places))
        self._drawn = [title, card, *others]
        with title.container():
            headline(t(self._words, lang), t(f"{self._words}.caption", lang))
        self._more()
        with card.container(horizontal=True, vertical_alignment="center"):
            self._line = st.empty()
            self._line.caption(t("progress.start", lang))
            st.button(
                t("action.cancel", lang),
                icon=":material/close:",
                key="cancel",
                on_click=_give_up,
                args=(self._asked,),
            )
        for place in others:
            place.skeleton(height=380)

    def close(self) -> None:
        """Take it away."""
        for place in self._drawn:
            place.empty()

    def show(self, event: cache.Progress | None) -> None:
        """Say how far the answer is, where the catalogue knows the step."""
        if self._line is None:
            self.open()
        # drawn at every tick: that is where a click on the page can end the wait
        say_progress(self._line, event or ("progress.start", {}))


def say_progress(place: Any, event: cache.Progress) -> None:
    """Write the step in the reader's language; one without a sentence reads as the first."""
    lang = state.language()
    if event[0] in catalogue("advisor.locale", lang):
        place.caption(render(Message(id=event[0], params=event[1]), lang))
    else:
        place.caption(t("progress.start", lang))


def _give_up(asked: Question) -> None:
    asking = state.asking()
    if asking is not None:
        asking.give_up()
    state.give_up(asked)


def answer(
    asked: Question, waiting: Waiting, *, holds: bool = False
) -> tuple[state.Answer | None, AdvisorError | None]:
    """The last good answer, brought up to date, and why it could not be.

    Args:
        asked: the question.
        waiting: what is shown if it takes a while.
        holds: the page itself lets the `rest` of an answer go on, when it has drawn the first part.
    """
    last = state.last_answer()
    if state.is_given_up(asked):
        return last, WorkerError("worker.cancelled")
    if last is not None and last.question == asked:
        return last, None
    if last is None:
        waiting.open()
    try:
        if last is None:
            cache.machine(refresh=True)  # what is free now, not when the server was started
        asking = state.asking()
        if asking is None or asking.question != asked or asking.is_over():
            asking = cache.Asking(asked)  # else a click ended the wait, not the work
            state.keep_asking(asking)
        found, rest = asking.first(waiting.show)
    except AdvisorError as error:
        return last, error
    finally:
        waiting.close()
    if rest is not None and not holds:
        rest.go_on()
    return keep(asked, found, rest), None


def keep(asked: Question, found: Recommendation, rest: cache.Asking | None = None) -> state.Answer:
    """Remember an answer, with how its rows read; `rest` has the whole of one given in part."""
    lang = state.language()
    rows = {a.field: forms.format_value(a.field, a.value, lang, found.plan) for a in found.advice}
    kept = state.Answer(question=asked, recommendation=found, rest=rest)
    state.keep_answer(kept, rows)
    return kept


@st.fragment(run_every="0.4s")
def fill_in(asked: Question) -> None:
    """Other plans are being compared: draw the page again when they are there."""
    last = state.last_answer()
    if last is None or last.question != asked or last.rest is None:
        return
    try:
        found = last.rest.rest()
    except AdvisorError:
        found = last.recommendation  # the plan stands; what is beside it is not known
    if found is None:
        st.caption(t("alternatives.wait", state.language()))
        return
    keep(asked, found)
    st.rerun()
