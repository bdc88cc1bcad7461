"""What a review asks: method and columns of the file, model and data of the question."""

import dataclasses

import pytest

from advisor.errors import InputError, PlanError
from advisor.hardware.machine import Machine
from advisor.recommend import Question
from advisor.recommendation import Recommendation
from advisor.review import Review
from advisor.review.ask import with_advice
from tests.advisor.fakes import model

ROWS = {
    "train_file": "theirs.csv",
    "validation_file": "held_out.csv",
    "text_column": "body",
}


class Asked:
    """Remembers the questions; answers that no plan fits, or refuses."""

    def __init__(self, error=None):
        self.questions = []
        self.error = error

    def recommend(self, question, *, on_progress=None):
        del on_progress
        self.questions.append(question)
        if self.error is not None:
            raise self.error
        return Recommendation(
            plan=None, advice=(), memory=None, time=None, alternatives=(), conflicts=(),
            machine=Machine(name="cpu"), model=model(1e9), data=None, versions={},
        )  # fmt: skip


def questions(arguments, **changes):
    advisor = Asked()
    question = Question(**{"model": "m", "data": "ours.csv", **changes})
    with_advice(Review(findings=(), arguments=arguments), advisor, question)
    return advisor.questions


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        ({"learning_rate": 1e-5}, "full"),
        ({"method": "full"}, "full"),
        ({"method": "lora"}, "lora"),
        ({"load_in_4bit": True}, "qlora"),
    ],
)
def test_values_are_judged_for_the_method_of_the_file(arguments, method):
    best, held = questions(arguments)
    assert (best.method, held.method) == (method, method)
    assert best == dataclasses.replace(held, pins={})


def test_columns_of_the_file_are_for_its_own_rows():
    for asked in questions(ROWS):
        assert asked.data == "ours.csv"
        assert (asked.validation, asked.text_column, asked.label_column) == (None, None, None)
    for asked in questions(ROWS, label_column="mood", validation="our_held_out.csv"):
        assert (asked.validation, asked.label_column) == ("our_held_out.csv", "mood")
    for asked in questions(ROWS, data="theirs.csv"):
        assert (asked.validation, asked.text_column) == ("held_out.csv", "body")


def test_a_method_that_the_machine_cannot_is_a_finding_and_other_errors_are_raised():
    review, question = Review(findings=(), arguments={"method": "qlora"}), Question(model="m")
    error = PlanError("recommend.qlora", name="cpu", field="method")
    (finding,) = with_advice(review, Asked(error), question).findings
    assert (finding.severity, finding.field) == ("warning", "method")
    with pytest.raises(InputError):
        with_advice(review, Asked(InputError("labels.none", path="x", texts=())), question)
