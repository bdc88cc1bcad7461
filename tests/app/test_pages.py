"""The pages through the router, driven by AppTest, with the Advisor replaced by test records."""

import dataclasses
import threading
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import app
from advisor.errors import InputError
from advisor.locale import Message
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


def draw_another_answer(at, fake):
    """The page is drawn again, as when other plans are there or a proof has ended."""
    fake.data = dataclasses.replace(fake.data, name="letters.jsonl")
    del at.session_state["answer"]
    at.run()


def test_start_dialog_stays_open_and_shows_the_new_answer(open_page, fake):
    at = open_page()
    at.button(key="start").click().run()
    assert "test-model-dialogues-full" in shown(at)
    draw_another_answer(at, fake)
    assert not at.exception
    assert "start_go" in keys(at)
    assert "test-model-letters-full" in shown(at)
    assert "test-model-dialogues-full" not in shown(at)
    at.button(key="start_not_yet").click().run()
    at.run()
    assert "start_go" not in keys(at)


def test_start_dialog_closes_when_nothing_can_be_started_any_more(open_page, fake, serve_at):
    at = open_page()
    at.button(key="start").click().run()
    serve_at("0.0.0.0")
    draw_another_answer(at, fake)
    assert not at.exception
    assert "start_go" not in keys(at)
    serve_at("127.0.0.1")
    at.run()
    assert "start_go" not in keys(at)


def test_start_dialog_does_not_wait_on_another_page(open_page):
    at = open_page()
    at.button(key="start").click().run()
    at.switch_page("views/runs.py").run()
    at.switch_page("views/plan.py").run()
    assert not at.exception
    assert "start_go" not in keys(at)


def test_calibration_dialog_stays_open(open_page, fake, monkeypatch):
    from advisor import measurements

    let = threading.Event()
    monkeypatch.setattr(measurements, "calibration_state", lambda: "never")
    monkeypatch.setattr(measurements, "calibrate", lambda told, cancelled: let.wait(20))
    host = dataclasses.replace(fake.this_machine, gpus=(), ram_free_bytes=2**35)
    fake.this_machine = dataclasses.replace(host, ram_total_bytes=2**36)
    at = open_page()
    at.button(key="calibrate").click().run()
    at.run()
    assert not at.exception
    assert "calibrate_cancel" in keys(at)
    at.button(key="calibrate_cancel").click().run()
    let.set()
    at.run()
    assert "calibrate_cancel" not in keys(at)


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


def test_proofs_stand_apart(open_page, records, home):
    from trainer import record

    records.write_run(home, "a", "finished")
    records.write_run(home, "b", "finished")
    record.update(home / "runs" / "b", kind="proof")
    at = open_page("runs")
    assert set(at.dataframe[0].value["run"]) == {"a"}
    assert at.markdown[0].value == "# Nothing is training; 1 kept, 0 failed."
    at.segmented_control(key="runs_kind").set_value("proof").run()
    assert set(at.dataframe[0].value["run"]) == {"b"}


def test_selected_runs_are_compared(open_page, records, home):
    from trainer import record

    for name, dtype in (("a", "float32"), ("b", "bfloat16")):
        directory = records.write_run(home, name, "finished", nan_at=60 if name == "a" else None)
        record.write_json(directory / "args.json", {"learning_rate": 1e-4, "dtype": dtype})
        record.update(directory, effective={"weights_dtype": dtype, "world_size": 1})
    at = open_page("runs", compare=["a", "b", "gone"])
    assert not at.exception
    table = at.dataframe[1].value
    assert list(table.itertuples(index=False, name=None)) == [
        ("Sent", "dtype", "float32", "bfloat16"),
        ("Effective", "dtype", "float32", "bfloat16"),
    ]
    assert len(at.get("plotly_chart")) == 1
    assert "a: values that were not a number: 1, the first at step 60." in shown(at)
    assert {"delete_a", "delete_b"} <= keys(at)
    assert "Process" not in at.selectbox(key="compare_metric").options[0]


def test_one_selected_run_shows_asked_sent_effective(open_page, records, home):
    from trainer import record

    directory = records.write_run(home, "a", "running", planned=False)
    record.write_json(directory / "args.json", {"bf16": True, "dtype": "float32"})
    record.update(directory, effective={"autocast": "bfloat16", "optimizer_class": "torch.AdamW"})
    at = open_page("runs", compare=["a"])
    rows = list(at.dataframe[1].value.itertuples(index=False, name=None))
    assert ("autocast", "bfloat16", "bfloat16", "bfloat16") in rows
    assert ("optim", "", "", "torch.AdamW") in rows
    assert at.button(key="delete_a").disabled


def test_notes_are_saved_and_shown_in_the_table(open_page, records, home):
    records.write_run(home, "a", "finished")
    at = open_page("runs", compare=["a"])
    at.text_area(key="notes_text_a").set_value("lr too high\nretry").run()
    assert not at.exception
    assert (home / "runs" / "a" / "notes.txt").read_text() == "lr too high\nretry"
    assert at.dataframe[0].value["notes"].tolist() == ["lr too high retry"]


def test_deletion_failure_is_said_on_the_page(open_page, records, home, monkeypatch):
    from app import launching

    records.write_run(home, "a", "running")
    monkeypatch.setattr(launching, "delete_dialog", lambda run_dir: launching._delete(run_dir.name))
    monkeypatch.setattr("app.runs_parts.ACTIVE", ())
    at = open_page("runs", compare=["a"])
    at.button(key="delete_a").click().run()
    assert "a is running, so it is not deleted; stop it first." in shown(at)
    assert (home / "runs" / "a").exists()


def write_proof(records, home, state, **measured):
    from trainer import proof, record

    saved = records.recommendation().to_dict()
    directory = records.write_run(home, "p-proof", state, steps=30)
    changes = {"kind": "proof", "num_steps": 3, "measured": measured, "signal": None}
    record.update(directory, **changes, predicted=proof.predictions(saved))
    return directory


def test_proof_stands_beside_the_prediction(open_page, records, home):
    from trainer import record

    peak = int(1.05 * records.recommendation().memory.process_bytes)
    directory = write_proof(records, home, "finished", process_bytes=peak, step_seconds=4.0)
    record.update(directory, proof={"batch_rows": 1, "longest_tokens": 1986})
    at = open_page()
    assert not at.exception
    text = shown(at)
    assert "(+5.0 %)" in text
    assert "Batches of 1 \u00d7 1,986 tokens" in text
    assert "prove_again" in keys(at)
    other = open_page(pin="learning_rate=0.01")
    assert "prove_again" not in keys(other)  # another plan was not measured


@pytest.mark.parametrize(
    ("memory", "slower", "said"),
    [
        (1.05, 1.2, "The next answers have learned from it."),
        (1.05, 9.0, "have learned its memory; its time was too far"),
        (9.0, 1.2, "have learned its time; its memory was too far"),
        (9.0, 9.0, "have not learned from it"),
    ],
)
def test_a_proof_says_what_the_next_answers_have_learned(
    open_page, records, home, memory, slower, said
):
    from trainer import record

    reserved = round(memory * records.recommendation().memory.reserved_bytes)
    directory = write_proof(
        records, home, "finished", reserved_bytes=reserved, step_seconds=slower * 2.0
    )
    predicted = record.read_object(directory / record.RECORD)["predicted"]
    predicted = {**predicted, "step_seconds": 2.0}
    record.update(directory, state="finished", predicted=predicted)
    at = open_page()
    assert not at.exception
    assert said in shown(at)


def test_proof_that_ran_out_of_memory_decides_the_verdict(open_page, records, home):
    write_proof(records, home, "failed", out_of_memory=True)
    at = open_page()
    assert not at.exception
    verdict = next(m.value for m in at.markdown if m.value.startswith("## "))
    assert "Does not fit." in verdict
    assert "Out of memory at step 31 with the longest batch" in verdict


def test_proof_under_way_can_be_cancelled_and_nothing_else_is_proved(
    open_page, records, home, monkeypatch
):
    from trainer import launch

    write_proof(records, home, "running")
    stopped = []
    monkeypatch.setattr(
        launch, "stop", lambda run_dir, force: stopped.append((run_dir.name, force))
    )
    at = open_page()
    assert "Loading model and data" in shown(at)
    assert at.button(key="prove").disabled
    at.button(key="prove_cancel").click().run()
    assert stopped == [("p-proof", True)]


def test_proof_is_made_of_the_plan_on_the_page(open_page, home, monkeypatch):
    from trainer import launch, record, runs

    monkeypatch.setattr(launch, "start", lambda run_dir: None)
    at = open_page()
    at.button(key="prove").click().run()
    assert not at.exception
    (status,) = runs.list_runs()
    assert status.kind == "proof"
    arguments = record.read_object(status.run_dir / "args.json")
    assert (arguments["max_steps"], arguments["save_strategy"]) == (3, "no")
    assert arguments["train_sampling_strategy"] == "sequential"


FINDINGS = (
    Message(
        id="data.duplicates",
        params={
            "count": 3,
            "rows": 50,
            "file": "a.jsonl",
            "row": 9,
            "first_file": "a.jsonl",
            "first_row": 2,
        },
    ),
    Message(id="data.overlap", params={"count": 1, "rows": 5}),
    Message(id="data.held_out", params={"held": 5, "rows": 50, "percent": 10.0, "seed": 42}),
)


@pytest.mark.parametrize(
    ("lang", "words", "more"),
    [("en", "3 of 50 rows repeat", "1 more under Change"), ("zh", "\u91cd\u590d", "1 \u6761")],
)
def test_findings_about_the_data_stand_on_their_card(open_page, fake, lang, words, more):
    fake.data = dataclasses.replace(fake.data, findings=FINDINGS, rows_are_counted=False)
    at = open_page(lang=lang)
    assert not at.exception
    (card,) = [c.value for c in at.caption if words in c.value and more in c.value]
    assert ":orange[" in card
    every = [c.value for c in at.caption]
    assert sum("42" in text and ":orange[" not in text for text in every) == 1  # held out: no alarm
    assert sum(words in text for text in every) == 2  # and in full where the data are chosen


def test_a_busy_machine_is_said_in_the_dialog_of_the_calibration(open_page, fake, monkeypatch):
    fake.this_machine = dataclasses.replace(fake.this_machine, gpus=(), ram_free_bytes=20 * 2**30)

    class Refused:
        progress = None

        def __init__(self, gpu):
            self.gpu = gpu

        def is_cancelled(self):
            return False

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
