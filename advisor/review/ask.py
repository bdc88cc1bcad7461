"""A review with what the Advisor says about the values; asks it, and so needs the worker."""

import dataclasses

from advisor.errors import InputError, words
from advisor.recommend import Advisor, Question
from advisor.review import Review
from advisor.review.better import suggestions
from advisor.review.finding import Finding
from advisor.review.pins import question_from
from advisor.simulate.worker import Progress


def with_advice(
    review: Review, advisor: Advisor, question: Question, on_progress: Progress | None = None
) -> Review:
    """Add better values, and whether the arguments as they are would fit.

    Args:
        review: of the arguments.
        advisor: answers.
        question: model, data, task and machine; it wins over the file's.
        on_progress: told what is being done.

    Raises:
        InputError: the model or the data cannot be read.
    """
    asked, refused = _asked(review, question)
    more = [_refused(error) for error in refused]
    try:
        best = advisor.recommend(dataclasses.replace(asked, pins={}), on_progress=on_progress)
    except InputError as error:
        if error.field != "method":
            raise
        return review.with_findings((*more, _refused(error)))
    more += suggestions(review.arguments, best)
    try:
        found = advisor.recommend(asked, on_progress=on_progress)
    except InputError as error:
        more.append(_refused(error))
    else:
        if found.plan is None:
            peak = found.memory.process_bytes if found.memory else None
            fields = {f: None for conflict in found.conflicts for f in conflict.fields}
            free = found.machine.capacity_bytes()
            name = next(iter(fields), "per_device_train_batch_size")
            more.append(
                Finding(
                    severity="error",
                    field=name,
                    got=asked.pins.get(name),
                    text=words(
                        "review.does_not_fit", machine=found.machine.name, peak=peak, free=free
                    ),
                    do=words("review.give_up", names=tuple(fields)),
                )
            )
    return review.with_findings(tuple(more))


def _asked(review: Review, question: Question) -> tuple[Question, tuple[InputError, ...]]:
    """What the file asks of the question's model, data and task, and what no plan can hold.

    A file that names no method trains every weight. Its columns are those of its own rows.
    """
    if question.method == "auto":
        question = dataclasses.replace(question, method="full")
    asked, refused = question_from(review.arguments, question)
    names = ["model", "data", "task"]
    if asked.data != question.data:
        names += ["validation", "text_column", "label_column"]
    kept = {name: getattr(question, name) for name in names}
    return dataclasses.replace(asked, **kept), refused


def _refused(error: InputError) -> Finding:
    return Finding(
        severity="warning",
        field=error.field or "",
        got=None,
        text=words("review.outside_the_plan", reason=error.words()),
        do=words("review.as_it_is"),
    )
