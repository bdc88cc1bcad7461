"""Errors in both languages: the source is scanned, so that no sentence goes without its twin."""

import ast
import copy
import json
import pickle
import string
from pathlib import Path

import pytest

import advisor
from advisor import errors
from advisor.errors import AdvisorError, InputError, UnknownNameError, WorkerError, note, words
from advisor.locale import LANGUAGES, Message, error_catalogue, say, sentence
from advisor.simulate.worker import Worker
from advisor.tasks import TASKS

ROOT = Path(advisor.__file__).parent.parent
FILES = [p for package in ("advisor", "trainer", "app") for p in (ROOT / package).rglob("*.py")]
CLASSES = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, AdvisorError)
}
OWN = {"field", "nearest"}
"""What an error carries beside its sentence, and may name in it."""


def places(template):
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def calls():
    """(where, what is called, the call) of every error and part of one in the source."""
    for path in FILES:
        said = CLASSES | (
            {"words", "note"} if "app" not in path.relative_to(ROOT).parts else {"words"}
        )
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in said:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, node


CALLS = list(calls())


def test_the_scan_finds_the_errors():
    assert len(CALLS) > 150
    assert {"InputError", "PlanError", "UnknownNameError", "WorkerError"} <= CLASSES


def test_every_error_has_an_id_of_the_catalogue_with_its_parameters():
    catalogue = error_catalogue("en")
    for where, name, call in CALLS:
        (first,) = call.args
        assert isinstance(first, ast.Constant), where
        assert first.value in catalogue, (where, first.value)
        given = {keyword.arg for keyword in call.keywords}
        assert None not in given, where
        wanted = places(catalogue[first.value])
        assert wanted <= given, (where, first.value, wanted - given)
        assert given - wanted <= (OWN if name in CLASSES else set()), (where, first.value, given)


def test_errors_are_raised_with_an_id():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
                assert node.exc.id not in CLASSES, (path.name, node.lineno)


def test_every_id_is_used():
    assert {call.args[0].value for _, _, call in CALLS} == set(error_catalogue("en"))


def test_ids_are_grouped_by_module():
    modules = {p.parent.name if p.stem.startswith("__") else p.stem for p in FILES} | {"words"}
    for key in error_catalogue("en"):
        module, _, name = key.partition(".")
        assert module in modules, key
        assert name


def test_catalogues_have_the_same_ids_and_places():
    english, chinese = (error_catalogue(lang) for lang in LANGUAGES)
    assert list(english) == list(chinese)
    for key in english:
        both = [
            sorted((name, spec, conversion or "") for _, name, spec, conversion in parts if name)
            for parts in (string.Formatter().parse(texts[key]) for texts in (english, chinese))
        ]
        assert set(both[0]) == set(both[1]), key


def test_chinese_sentences_are_chinese():
    same = {key for key, text in error_catalogue("zh").items() if text.isascii()}
    assert same == {
        *("argument_checks.given", "row_faults.fault", "runs.said", "training_arguments.types"),
    }


@pytest.mark.parametrize(
    "error",
    [
        InputError("model.absent", path=Path("/m"), field="model"),
        InputError("argument_checks.wrong_value", source=words("arguments.recommended"),
                   problem=words("words.one_of", names=("a", "b")), field="optim"),
        UnknownNameError("tasks.unknown", got={"words": 1}, nearest=("x", "y"), field="task"),
        UnknownNameError("pins.unknown_pin", nearest=(), field="lr"),
        errors.PlanError("plan.duration", epochs=None, steps=-1, field="num_train_epochs"),
        errors.SimulationError("fit.shape_dependent", reason=ValueError("layers differ")),
        InputError("A sentence {of} somebody else's."),
    ],
)  # fmt: skip
def test_error_survives_json(error):
    read = AdvisorError.decode(json.loads(json.dumps(error.encode())))
    assert type(read) is type(error)
    assert (read.id, read.params, read.field) == (error.id, error.params, error.field)
    assert getattr(read, "nearest", None) == getattr(error, "nearest", None)
    for lang in LANGUAGES:
        assert read.sentence(lang) == error.sentence(lang)
    assert str(read) == error.sentence("en")


def test_parts_are_said_in_the_language_of_the_sentence():
    error = InputError("records.type", kind=words("words.integer"), got="'x'", field="seed")
    assert str(error) == "seed must be a whole number, got 'x'."
    assert error.sentence("zh").startswith("seed 必须是整数")


def test_lists_are_joined_as_the_language_does():
    message = Message(id="arguments.not_parsed_back", params={"nearest": ["a", "b"], "format": "c"})
    assert sentence(message) == "Only a and b are parsed back, got 'c'."
    assert "a 和 b" in sentence(message, "zh")
    assert str(UnknownNameError("pins.unknown_pin", field="x")).endswith("the nearest are none.")


def test_error_of_the_worker_speaks_chinese():
    worker = Worker()
    try:
        with pytest.raises(InputError) as raised:
            worker.call("describe_model", {"path": "/nowhere", "task": "causal-lm"})
        with pytest.raises(UnknownNameError) as unknown:
            worker.call("describe_model", {"path": "/nowhere", "task": "poetry"})
    finally:
        worker.close()
    assert raised.value.field == "model"
    assert str(raised.value).startswith("There is no model at /nowhere;")
    assert raised.value.sentence("zh").startswith("/nowhere 处没有模型")
    assert unknown.value.nearest == tuple(TASKS)
    assert unknown.value.sentence("zh").startswith("task 必须是 causal-lm、")


def test_a_note_is_english_text_and_keeps_its_language_on_every_way():
    noted = note("checkpoint.head", names=["score.weight"], num_labels=3,
                 why=words("checkpoint.no_head"))  # fmt: skip
    assert noted == (
        "The head (score.weight) for 3 classes starts from random weights: the checkpoint has none."
    )
    ways = [errors.decode(json.loads(json.dumps(errors.encode({"a": [noted]}))))["a"][0]]
    ways += [pickle.loads(pickle.dumps(noted)), copy.deepcopy(noted)]
    for each in ways:
        assert each == noted
        assert say(each, "zh").endswith("检查点里没有。")
    assert json.dumps({"notes": (noted,)}) == json.dumps({"notes": [str(noted)]})
    assert say("somebody's own text", "zh") == "somebody's own text"


class CancelledAtTheStart(Worker):
    def _running(self):
        self.cancel()  # there is no child yet that could be ended
        return super()._running()


def test_a_call_that_is_cancelled_while_its_worker_starts_ends_it():
    worker = CancelledAtTheStart()
    try:
        with pytest.raises(WorkerError, match="Cancelled"):
            worker.call("describe_model", {"path": "/nowhere", "task": "causal-lm"})
        assert worker._process is None
    finally:
        worker.close()
