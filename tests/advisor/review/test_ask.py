"""What a review asks: the method and columns of the file, for the model and data of the question."""

import dataclasses

import pytest

from advisor.errors import InputError, PlanError
from advisor.hardware.machine import Machine
from advisor.recommend import Question
from advisor.recommendation import Recommendation
from advisor.review import Review
from advisor.review.ask import with_advice
from tests.advisor.fakes import model


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


def test_a_method_that_the_machine_cannot_is_a_finding_and_other_errors_are_raised():
    review, question = Review(findings=(), arguments={"method": "qlora"}), Question(model="m")
    error = PlanError("recommend.qlora", name="cpu", field="method")
    (finding,) = with_advice(review, Asked(error), question).findings
    assert (finding.severity, finding.field) == ("warning", "method")
    with pytest.raises(InputError):
        with_advice(review, Asked(InputError("labels.none", path="x", texts=())), question)
