"""What the pages show of a task with classes: its columns, its choices, its metric."""

import dataclasses
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from advisor.errors import InputError
from app import run_source, run_texts, texts

MAIN = str(Path(__file__).parents[2] / "app" / "main.py")


@pytest.fixture
def open_page(fake, monkeypatch):
    real = st.get_option
    monkeypatch.setattr(
        st, "get_option", lambda key: "127.0.0.1" if key == "server.address" else real(key)
    )

    def run(page="plan", **query):
        at = AppTest.from_file(MAIN, default_timeout=30)
        for key, value in query.items():
            at.query_params[key] = value
        at.run()
        return at if page == "plan" else at.switch_page(f"views/{page}.py").run()

    return run


@pytest.fixture
def labelled(fake):
    """The answer's data has pairs and three classes."""
    fake.data = dataclasses.replace(
        fake.data,
        columns=("premise", "hypothesis", "verdict", "source"),
        text_column="premise,hypothesis",
        label_column="verdict",
        labels=("no", "perhaps", "yes"),
        label_rows=(10_000, 24, 1800),
    )
    return fake


def shown(at):
    return "\n".join(str(e.value) for e in (*at.markdown, *at.caption))


def test_the_card_counts_the_classes_and_its_editor_names_them(open_page, labelled):
    at = open_page()
    assert not at.exception
    assert "3 classes" in shown(at)
    assert texts.escape("no: 10,000 \u00b7 perhaps: 24 \u00b7 yes: 1,800") in shown(at)
    assert at.selectbox(key="data_text_column").value == "premise,hypothesis"
    assert at.selectbox(key="data_label_column").value == "verdict"


def test_columns_are_chosen_and_forgotten_with_the_file(open_page, labelled):
    at = open_page(data="pairs.csv")
    at.selectbox(key="data_label_column").set_value("source").run()
    assert "source" in at.query_params["label_column"]
    assert labelled.asked[-1].label_column == "source"
    at.selectbox(key="data_text_column").set_value("premise").run()
    assert labelled.asked[-1].text_column == "premise"
    at.text_input(key="data_path").set_value("other.csv").run()
    asked = labelled.asked[-1]
    assert (asked.data, asked.text_column, asked.label_column) == ("other.csv", None, None)


def test_a_task_is_chosen_and_left_to_model_and_data_again(open_page, fake):
    at = open_page(label_column="kind")
    assert at.selectbox(key="model_task").value == ""
    at.selectbox(key="model_task").set_value("text-classification").run()
    assert not at.exception
    assert (fake.asked[-1].task, fake.asked[-1].label_column) == ("text-classification", None)
    at.selectbox(key="model_task").set_value("").run()
    assert fake.asked[-1].task is None


def test_a_refusal_that_names_columns_offers_them(open_page, fake, monkeypatch):
    real = fake.recommend

    def refuse(question, **_told):
        if question.label_column is None:
            raise InputError(
                "labels.which_column", path="/d.csv", names=("mood", "n"), usual=("label",),
                field="label_column",
            )  # fmt: skip
        return real(question)

    monkeypatch.setattr(fake, "recommend", refuse)
    at = open_page(data="d.csv")
    assert "Which column of /d.csv is the class?" in shown(at)
    at.selectbox(key="offer_label_column").set_value("mood").run()
    assert not at.exception
    assert fake.asked[-1].label_column == "mood"


def test_an_ambiguous_task_is_asked_on_the_models_card(open_page, fake, monkeypatch):
    error = InputError(
        "infer.ambiguous", model="M", columns=("text",), names=("causal-lm",), field="task"
    )

    def refuse(question, **_told):
        raise error

    monkeypatch.setattr(fake, "recommend", refuse)
    at = open_page()
    assert texts.escape(error.sentence("en")) in shown(at)
    assert at.selectbox(key="model_task").value == ""


@pytest.mark.parametrize(("lang", "name"), [("en", "Accuracy"), ("zh", "\u51c6\u786e\u7387")])
def test_a_run_draws_its_metric_beside_the_loss(open_page, home, records, lang, name):
    records.write_run(home, "one", "finished", accuracy=True)
    at = open_page("run", run="one", lang=lang)
    assert not at.exception
    (metric,) = [m for m in at.metric if m.label == name]
    assert metric.value == "0.800"
    assert "0.800" in metric.delta
    assert "200" in metric.delta


def test_a_run_without_a_metric_has_no_lane_for_one(open_page, home, records):
    records.write_run(home, "one", "finished")
    at = open_page("run", run="one")
    assert "Accuracy" not in [m.label for m in at.metric]


def test_the_list_of_runs_names_metric_and_value(open_page, home, records):
    records.write_run(home, "one", "finished", accuracy=True)
    records.write_run(home, "two", "finished")
    assert run_texts.metric(run_source.find("one"), "en") == "accuracy 0.800"
    assert run_texts.metric(run_source.find("two"), "en") == ""
    at = open_page("runs")
    assert not at.exception
    assert sorted(at.dataframe[0].value["metric"]) == ["", "accuracy 0.800"]
