"""The pages through the router, driven by AppTest, with the Advisor replaced by test records."""

import dataclasses
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import app
from advisor.errors import InputError
from advisor.recommend import Question
from app import texts

MAIN = str(Path(app.__file__).parent / "main.py")


@pytest.fixture
def serve_at(monkeypatch):
    """Let the server believe that it listens on an address."""
    real = st.get_option

    def set_address(address):
        monkeypatch.setattr(
            st, "get_option", lambda key: address if key == "server.address" else real(key)
        )

    return set_address


@pytest.fixture
def open_page(fake, serve_at):
    serve_at("127.0.0.1")

    def run(page="plan", **query):
        at = AppTest.from_file(MAIN, default_timeout=30)
        for key, value in query.items():
            at.query_params[key] = value
        at.run()
        if page != "plan":
            at.switch_page(f"views/{page}.py").run()
        return at

    return run


def shown(at):
    return "\n".join(str(e.value) for e in (*at.markdown, *at.caption))


def keys(at):
    return {b.key for b in at.button}


def test_first_visit_shows_the_demo_with_a_verdict(open_page, fake):
    at = open_page()
    assert not at.exception
    assert fake.asked == [Question()]
    assert at.markdown[0].value.startswith("# This machine trains test-model")
    assert "Fits." in shown(at)
    assert not at.button(key="start").disabled


@pytest.mark.parametrize(
    ("lang", "words"), [("en", "Recommended values"), ("zh", "\u63a8\u8350\u503c")]
)
def test_language_of_the_url(open_page, lang, words):
    at = open_page(lang=lang)
    assert not at.exception
    assert words in shown(at)


def test_url_is_the_question(open_page, fake):
    at = open_page(
        model="/models/x", method="lora", goal="smallest", pin=["learning_rate=0.0005", "optim=sgd"]
    )
    assert not at.exception
    asked = fake.asked[-1]
    assert (asked.model, asked.method, asked.goal) == ("/models/x", "lora", "smallest")
    assert asked.pins == {"learning_rate": 0.0005, "optim": "sgd"}


def test_nonsense_in_the_url_is_ignored(open_page, fake):
    at = open_page(method="magic", goal="fame", pin=["=1", "x", "seed="])
    assert not at.exception
    assert (fake.asked[-1].method, fake.asked[-1].goal, fake.asked[-1].pins) == (
        "auto", "fastest", {}
    )  # fmt: skip


def test_padlock_pins_the_value_and_the_url_carries_it(open_page, fake):
    at = open_page()
    at.button(key="pin_learning_rate").click().run()
    assert not at.exception
    assert fake.asked[-1].pins == {"learning_rate": 2e-5}
    assert at.query_params["pin"] == "learning_rate=2e-05"
    at.button(key="pin_learning_rate").click().run()
    assert fake.asked[-1].pins == {}
    assert "pin" not in at.query_params


def test_pinning_moves_other_rows_which_say_what_they_were(open_page):
    at = open_page()
    assert "was " not in shown(at)
    at.pills(key="set_per_device_train_batch_size").set_value(2).run()
    assert not at.exception
    assert "was 1 \u00d7 64" in shown(at)
    assert "was 2,048" not in shown(at)


def test_unpinning_the_method_gives_it_back(open_page, fake):
    at = open_page(method="lora")
    at.button(key="pin_method").click().run()
    assert fake.asked[-1].method == "auto"


def test_knobs_change_the_question(open_page, fake):
    at = open_page()
    at.segmented_control(key="plan_method").set_value("lora").run()
    at.segmented_control(key="plan_goal").set_value("smallest").run()
    at.select_slider(key="plan_length").set_value(512).run()
    assert not at.exception
    asked = fake.asked[-1]
    assert (asked.method, asked.goal, asked.pins) == ("lora", "smallest", {"max_length": 512})


@pytest.mark.parametrize("name", ["demo", "/models/x"])
@pytest.mark.parametrize("weights", [True, False])
def test_adapters_are_offered_where_there_is_something_to_adapt(open_page, fake, name, weights):
    fake.model = dataclasses.replace(fake.model, has_weights=weights)
    at = open_page(model=name)
    assert not at.exception
    options = at.segmented_control(key="plan_method").options
    assert len(options) == (4 if weights else 2)
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    "error",
    [
        InputError("rows.empty", path="/d.jsonl", field="data"),  # on its card
        InputError("solve.qlora", field="method"),  # in place of the verdict
    ],
)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_errors_are_in_the_language_of_the_page(open_page, fake, monkeypatch, error, lang):
    def refuse(question, *, on_progress=None, on_first=None):
        raise error

    monkeypatch.setattr(fake, "recommend", refuse)
    at = open_page(lang=lang)
    assert not at.exception
    assert texts.escape(error.sentence(lang)) in shown(at)


def test_refused_method_can_be_given_up(open_page, fake, monkeypatch):
    def refuse(question, *, on_progress=None, on_first=None):
        raise InputError("The model demo has no weights.", field="method")

    monkeypatch.setattr(fake, "recommend", refuse)
    at = open_page(method="lora")
    assert at.segmented_control(key="plan_method").value == "lora"
    at.button(key="give_up_refused").click().run()
    assert not at.exception
    assert at.segmented_control(key="plan_method").value == "auto"


def test_same_question_is_solved_once(open_page, fake):
    at = open_page()
    at.run()
    at.run()
    assert len(fake.asked) == 1


def test_unreadable_model_turns_its_card_red_and_keeps_the_last_plan(open_page):
    at = open_page()
    at.text_input(key="model_path").set_value("/missing").run()
    assert not at.exception
    assert ":red[No model at /missing; give a directory.]" in shown(at)
    assert "before the change" in shown(at)
    assert "start" not in keys(at)
    at.text_input(key="model_path").set_value("demo").run()
    assert "before the change" not in shown(at)
    assert "start" in keys(at)


def test_bad_data_in_the_url_of_a_first_visit(open_page):
    at = open_page(data="missing.jsonl")
    assert not at.exception
    assert "No file missing.jsonl" in shown(at)
    assert "start" not in keys(at)


def test_refused_value_can_be_given_up(open_page, fake):
    at = open_page(pin="learning_rate=0")
    assert "learning\\_rate must be greater than 0" in shown(at)
    at.button(key="give_up_refused").click().run()
    assert not at.exception
    assert "Fits." in shown(at)


def test_conflict_offers_the_ways_out(open_page, fake):
    at = open_page(pin="per_device_train_batch_size=8")
    assert not at.exception
    assert "Does not fit." in shown(at)
    assert "start" not in keys(at)
    at.button(key="give_up_0_per_device_train_batch_size").click().run()
    assert fake.asked[-1].pins == {}
    assert "start" in keys(at)


def test_catalogue_machine_can_be_planned_for_but_not_started(open_page):
    at = open_page(machine="Tesla T4")
    assert not at.exception
    assert at.button(key="start").disabled
    assert "export the plan and start it there" in shown(at)


def test_server_that_others_can_reach_starts_nothing(open_page, serve_at):
    serve_at("0.0.0.0")
    at = open_page()
    assert at.button(key="start").disabled
    assert "starts no processes" in shown(at)


def test_probe_again_asks_the_machine(open_page, fake):
    at = open_page()
    assert fake.probes == 1
    at.button(key="probe_again").click().run()
    assert not at.exception
    assert fake.probes > 1
    assert len(fake.asked) == 2


def test_question_survives_a_visit_to_another_page(open_page, fake):
    at = open_page(method="lora")
    at.switch_page("views/runs.py").run()
    at.query_params.clear()
    at.switch_page("views/plan.py").run()
    assert not at.exception
    assert fake.asked[-1].method == "lora"


def test_nothing_trains(open_page):
    at = open_page("run")
    assert not at.exception
    assert at.markdown[0].value == "# Nothing is training here."


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(
    "state", ["starting", "running", "stopping", "finished", "stopped", "failed", "lost"]
)
def test_run_in_each_state(open_page, records, home, state, lang):
    records.write_run(home, "one", state)
    at = open_page("run", run="one", lang=lang)
    assert not at.exception
    assert ("stop" in keys(at)) == (state in ("starting", "running", "stopping"))
    assert ("resume" in keys(at)) == (state in ("stopped", "failed", "lost"))


def test_run_is_rebuilt_from_its_directory_alone(open_page, records, home):
    records.write_run(home, "one", "running", nan_at=60)
    first, second = open_page("run", run="one"), open_page("run", run="one")
    assert [m.value for m in first.metric] == [m.value for m in second.metric]
    assert len(first.metric) == 4
    assert len(first.get("plotly_chart")) == 5


def test_run_without_a_plan_says_so(open_page, records, home):
    records.write_run(home, "one", "stopped", planned=False)
    at = open_page("run", run="one")
    assert not at.exception
    assert "nothing was predicted" in shown(at)


def test_damaged_plan_does_not_hide_the_run(open_page, records, home):
    directory = records.write_run(home, "one", "stopped")
    (directory / "plan.json").write_text('{"plan": 3}', encoding="utf-8")
    at = open_page("run", run="one")
    assert not at.exception
    assert "nothing was predicted" in shown(at)


def test_resume_failure_is_said_on_the_page(open_page, records, home, monkeypatch):
    from advisor.errors import InputError
    from trainer import launch

    def refuse(run_dir):
        raise InputError("one is running already; stop it first.")

    monkeypatch.setattr(launch, "resume", refuse)
    records.write_run(home, "one", "stopped")
    at = open_page("run", run="one")
    at.button(key="resume").click().run()
    assert not at.exception
    assert "one is running already; stop it first." in shown(at)


def test_runs_lists_every_run(open_page, records, home):
    records.write_run(home, "a", "finished")
    records.write_run(home, "b", "running")
    records.write_run(home, "c", "failed", nan_at=60)
    at = open_page("runs")
    assert not at.exception
    assert at.markdown[0].value == "# One of 3 runs is training; 1 failed."
    table = at.dataframe[0].value
    assert set(table["run"]) == {"a", "b", "c"}
    assert table["measured"].notna().all()


def test_runs_without_a_run(open_page):
    at = open_page("runs")
    assert not at.exception
    assert at.markdown[0].value == "# No run has been started on this machine."


def test_a_busy_machine_is_said_in_the_dialog_of_the_calibration(open_page, fake, monkeypatch):
    fake.this_machine = dataclasses.replace(fake.this_machine, gpus=(), ram_free_bytes=20 * 2**30)

    class Refused:
        progress = None

        def done(self):
            raise InputError("measurements.busy", processors="1.9", names=["make (7)"])

    monkeypatch.setattr("app.plan_parts.measurements.calibration_state", lambda: "never")
    monkeypatch.setattr("app.cache.Calibrating", Refused)
    at = open_page()
    at.button(key="calibrate").click().run()
    assert not at.exception
    assert "make (7)" in shown(at)
    assert "calibrate_again" in keys(at)


def test_a_calibrated_machine_is_not_offered_it_again(open_page, fake, monkeypatch):
    fake.this_machine = dataclasses.replace(fake.this_machine, gpus=(), ram_free_bytes=20 * 2**30)
    monkeypatch.setattr("app.plan_parts.measurements.calibration_state", lambda: "current")
    found = keys(open_page())
    assert "start" in found
    assert "calibrate" not in found


def test_an_answer_that_is_given_up_says_so_and_can_be_asked_again(open_page, fake, monkeypatch):
    at = open_page()
    at.session_state["given_up"] = Question()
    at.session_state["answer"] = None
    at.run()
    assert not at.exception
    assert "Cancelled" in shown(at)
    at.button(key="retry").click().run()
    assert "Fits." in shown(at)
