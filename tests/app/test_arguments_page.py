"""The Arguments page through the router, with the Advisor replaced by test records."""

import json
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import app
from advisor.errors import InputError, WorkerError
from advisor.recommend import Question

MAIN = str(Path(app.__file__).parent / "main.py")
TUTORIAL = {
    "evaluation_strategy": "epoch",
    "warmup_ratio": 0.1,
    "group_by_length": True,
    "no_cuda": True,
    "gradient_checkpointing": True,
    "fp16": True,
    "learning_rate": "3e-4",
    "hub_strategy": "checkpoint",
}


@pytest.fixture
def open_page(fake, monkeypatch):
    real = st.get_option
    monkeypatch.setattr(
        st, "get_option", lambda key: "127.0.0.1" if key == "server.address" else real(key)
    )

    def run(**query):
        at = AppTest.from_file(MAIN, default_timeout=30)
        for key, value in query.items():
            at.query_params[key] = value
        at.run()
        at.switch_page("views/arguments.py").run()
        return at

    return run


def shown(at):
    return "\n".join(str(e.value) for e in (*at.markdown, *at.caption))


def file_of(at):
    return json.loads(at.code[-2].value)


@pytest.mark.parametrize(
    ("lang", "words"), [("en", "arguments are advised here"), ("zh", "个参数中")]
)
def test_page_counts_shows_the_file_and_the_command(open_page, lang, words):
    at = open_page(lang=lang)
    assert not at.exception
    assert words in at.markdown[0].value
    assert file_of(at)["learning_rate"] == 2e-5
    assert "-m trainer" in at.code[-1].value
    assert not at.button(key="start").disabled


def test_proof_that_was_started_here_is_shown_here(open_page, records, home):
    from trainer import record

    at = open_page()
    assert not at.button(key="prove").disabled
    assert "prove_cancel" not in {b.key for b in at.button}
    directory = records.write_run(home, "p-proof", "running", steps=30)
    record.update(directory, kind="proof", num_steps=3)
    at.run()
    assert not at.exception
    assert at.button(key="prove").disabled
    assert "Loading model and data" in shown(at)
    assert "prove_cancel" in {b.key for b in at.button}


def test_an_answer_that_was_given_up_is_not_asked_for_until_it_is_wanted(open_page, fake):
    at = AppTest.from_file(MAIN, default_timeout=30)
    at.session_state["given_up"] = Question()
    at.run()
    for page in ("arguments", "machines"):
        at.switch_page(f"views/{page}.py").run()
        assert not at.exception
        assert fake.asked == []
        assert WorkerError("worker.cancelled").sentence() in shown(at)
    next(b for b in at.button if b.label == "Try again").click().run()
    assert not at.exception
    assert fake.probes == 1  # what is free now
    at.switch_page("views/arguments.py").run()
    assert fake.asked == [Question()]
    assert file_of(at)["learning_rate"] == 2e-5


def test_a_value_that_is_set_is_a_pin_and_is_solved_again(open_page, fake):
    at = open_page()
    at.text_input(key="arguments_search").set_value("per_device_train").run()
    assert at.selectbox(key="argument").value == "per_device_train_batch_size"
    at.text_input(key="argument_editor_per_device_train_batch_size").set_value("2").run()
    assert not at.exception
    assert fake.asked[-1].pins == {"per_device_train_batch_size": 2}
    assert at.query_params["pin"] == "per_device_train_batch_size=2"
    assert file_of(at)["gradient_accumulation_steps"] == 32
    at.button(key="argument_unpin").click().run()
    assert fake.asked[-1].pins == {}


def test_an_argument_outside_the_plan_goes_to_the_file(open_page, fake):
    at = open_page()
    at.text_input(key="arguments_search").set_value("label_smoothing").run()
    at.text_input(key="argument_editor_label_smoothing_factor").set_value("0.1").run()
    assert not at.exception
    assert fake.asked[-1].pins == {"label_smoothing_factor": 0.1}
    assert file_of(at)["label_smoothing_factor"] == 0.1


def test_a_refused_value_says_why_beside_the_field_and_changes_nothing(open_page, fake):
    at = open_page()
    at.text_input(key="arguments_search").set_value("weight_decay").run()
    at.text_input(key="argument_editor_weight_decay").set_value("abc").run()
    assert not at.exception
    assert "must be a number" in shown(at)
    assert fake.asked[-1].pins == {}
    at.text_input(key="argument_editor_weight_decay").set_value("0.2").run()
    assert "must be a number" not in shown(at)
    assert fake.asked[-1].pins == {"weight_decay": 0.2}


def test_pins_that_exclude_each_other_say_so_and_can_be_given_up(open_page, fake):
    at = open_page(pin=["load_best_model_at_end=true", 'save_strategy="epoch"'])
    assert not at.exception
    assert "load\\_best\\_model\\_at\\_end needs equal strategies" in shown(at)
    at.button(key="give_up_refused").click().run()
    assert "load_best_model_at_end" not in fake.asked[-1].pins


def test_what_is_never_set_has_no_editor(open_page):
    at = open_page()
    at.text_input(key="arguments_search").set_value("hub_token").run()
    assert at.selectbox(key="argument").value == "hub_token"
    assert not [w for w in at.text_input if w.key == "argument_editor_hub_token"]
    assert "never written to a file" in shown(at).lower()


def test_a_search_without_a_match_says_so(open_page):
    at = open_page()
    at.text_input(key="arguments_search").set_value("qqqq").run()
    assert not at.exception
    assert "No argument here contains 'qqqq'" in shown(at)


@pytest.mark.parametrize(
    ("lang", "words"), [("en", "No argument is among"), ("zh", "其中没有参数")]
)
def test_a_choice_that_leaves_nothing_speaks_of_no_search(open_page, lang, words):
    at = open_page(lang=lang)
    at.segmented_control(key="arguments_show").set_value("pinned").run()
    assert not at.exception
    assert words in shown(at)
    assert "''" not in shown(at)


def test_only_what_differs_from_the_defaults(open_page):
    at = open_page()
    whole = file_of(at)
    at.toggle(key="arguments_changed").set_value(True).run()
    part = file_of(at)
    assert set(part) < set(whole)
    assert "adam_beta1" not in part
    assert part["learning_rate"] == 2e-5


def test_a_file_of_4x_is_opened_named_and_fills_the_form(open_page, fake):
    at = open_page()
    at.text_area(key="open_paste_0").set_value(json.dumps(TUTORIAL)).run()
    at.button(key="open_read").click().run()
    assert not at.exception
    text = shown(at)
    for old in ("evaluation", "warmup", "group", "no", "gradient", "fp16"):
        assert f"**{old}" in text
    assert "Write eval\\_strategy" in text
    at.button(key="open_fill").click().run()
    assert not at.exception
    assert fake.asked[-1].pins == {
        "learning_rate": 3e-4,
        "warmup_steps": 0.1,
        "activation_checkpointing": True,
        "eval_strategy": "epoch",
        "hub_strategy": "checkpoint",
        "use_cpu": True,
        "train_sampling_strategy": "group_by_length",
    }
    assert file_of(at)["hub_strategy"] == "checkpoint"
    assert file_of(at)["use_cpu"] is True


def test_no_text_and_no_json_are_refused_in_the_popover(open_page):
    at = open_page()
    at.button(key="open_read").click().run()
    assert "No file and no text was given" in shown(at)
    at.text_area(key="open_paste_0").set_value("{").run()
    at.button(key="open_read").click().run()
    assert not at.exception
    assert "line 1, column 2" in shown(at)


def test_a_machine_that_is_not_there_is_no_fault_of_the_file(open_page, fake, monkeypatch):
    real = fake.machine

    def machine(name=None, *, refresh=False):
        if name is not None:
            raise InputError("No machine Abacus; give another.", field="machine")
        return real(refresh=refresh)

    monkeypatch.setattr(fake, "machine", machine)
    at = open_page(machine="Abacus")
    at.text_area(key="open_paste_0").set_value(json.dumps(TUTORIAL)).run()
    at.button(key="open_read").click().run()
    assert not at.exception
    assert "**evaluation" in shown(at)
    assert shown(at).count("No machine Abacus") == 1  # in place of the verdict


def test_a_file_can_be_closed_without_taking_it_over(open_page, fake):
    at = open_page()
    at.text_area(key="open_paste_0").set_value('{"seed": 7}').run()
    at.button(key="open_read").click().run()
    at.button(key="open_close").click().run()
    assert fake.asked[-1].pins == {}
    assert "open_close" not in {b.key for b in at.button}
