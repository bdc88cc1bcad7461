"""The Machines page through the router, and its sentences and rows; the Advisor is replaced."""

import dataclasses
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import app
from advisor.elsewhere import Elsewhere
from advisor.hardware import catalogue
from advisor.hardware.machine import Gpu, GpuProcess, Link, Machine
from advisor.memory import MemoryEstimate
from advisor.speed import TimeEstimate
from app import machine_parts, machine_texts

MAIN = str(Path(app.__file__).parent / "main.py")
GIB = 2**30


@pytest.fixture
def open_machines(fake, monkeypatch):
    real = st.get_option
    fixed = {"server.address": "127.0.0.1"}
    monkeypatch.setattr(st, "get_option", lambda key: fixed.get(key) or real(key))

    def run(**query):
        at = AppTest.from_file(MAIN, default_timeout=30)
        for key, value in query.items():
            at.query_params[key] = value
        at.run()
        return at.switch_page("views/machines.py").run()

    return run


def shown(at):
    return "\n".join(str(e.value) for e in (*at.markdown, *at.caption))


def the_table(at):
    return next(f.value for f in at.dataframe if "bandwidth" in f.value.columns)


def test_every_card_has_the_plans_verdict(open_machines):
    at = open_machines()
    assert not at.exception
    frame = the_table(at)
    assert len(frame) == len(catalogue.accelerator_names())
    t4 = frame[frame["name"] == "Tesla T4"].iloc[0]
    assert (t4["verdict"], round(t4["usable"], 2)) == ("Fits", 14.56)
    assert t4["minutes"] > 0
    assert "techpowerup" in t4["source"]
    apple = frame[frame["maker"] == "Apple"]
    assert set(apple["verdict"]) == {"Unknown"}
    assert at.markdown[0].value.startswith("# The plan fits ")
    assert "so far" not in at.markdown[0].value


def test_a_plan_of_unknown_memory_fits_no_number_of_cards():
    one = Elsewhere(
        name="x",
        machine=catalogue.machine_from_name("Tesla T4"),
        plan=None,
        memory=MemoryEstimate.unknown("not simulated", None),
        time=TimeEstimate(step_seconds=None),
    )
    assert machine_texts.summary([], 2, "en") == "Asking which cards hold the plan."
    said = machine_texts.summary([one, one], 2, "en")
    assert said == "Whether the plan fits is unknown on all 2 cards."


def test_the_contract_and_the_cards_stand_above(open_machines):
    text = shown(open_machines())
    for words in ("Held on every machine", "**64**", "**2e-5**", "**cosine**", "**3**"):
        assert words in text
    for name in machine_texts.REFERENCES:
        assert f"**{name}**" in text
    assert "Fits." in text


def test_it_fills_in_progressively(open_machines, fake):
    fake.at_once = 2
    at = open_machines()
    assert not at.exception
    assert "simulated soon" in shown(at)
    at.run()
    assert "so far; 1 of" in at.markdown[0].value  # the other was this machine
    assert len(the_table(at)) == len(catalogue.accelerator_names())


def test_use_this_machine_sets_the_plans(open_machines, fake):
    at = open_machines()
    at.button(key="use_Tesla T4").click().run()
    assert not at.exception
    assert fake.asked[-1].machine == "Tesla T4"
    assert at.query_params["machine"] == "Tesla T4"


def test_search_keeps_rows_with_all_words(open_machines):
    at = open_machines()
    at.text_input(key="machines_search").set_value("a100 80gb").run()
    assert not at.exception
    names = list(the_table(at)["name"])
    assert {"A100-SXM4-80GB", "A100-PCIE-80GB"} <= set(names)
    assert len(names) < 6
    at.text_input(key="machines_search").set_value("no such card").run()
    assert "No accelerator has" in shown(at)


def test_a_selected_row_belongs_to_the_rows_it_was_selected_in(open_machines):
    """Rows are selected by place, so other rows are another table."""
    at = open_machines()
    before = next(f for f in at.dataframe if "bandwidth" in f.value.columns).proto.id
    at.run()
    again = next(f for f in at.dataframe if "bandwidth" in f.value.columns).proto.id
    at.text_input(key="machines_search").set_value("a100 80gb").run()
    after = next(f for f in at.dataframe if "bandwidth" in f.value.columns)
    assert before == again != after.proto.id
    assert "machines_table_" in before
    assert after.proto.placeholder == ""
    assert after.proto.HasField("placeholder")


def test_a_card_can_be_added(open_machines):
    at = open_machines()
    at.selectbox(key="machines_add").set_value("L40S").run()
    assert not at.exception
    assert any(b.key == "use_L40S" for b in at.button)


def test_this_machine_shows_who_holds_its_gpus_and_lets_choose(open_machines, fake):
    links = Link(pcie_generation=1, pcie_width=8, pcie_max_generation=4, pcie_max_width=16)
    busy = dataclasses.replace(
        fake.this_machine.gpus[0],
        vendor="nvidia",
        memory_kind="dedicated",
        link=dataclasses.replace(links, nvlinks=4, peers={"GPU-2": "nvlink"}),
        processes=(GpuProcess(pid=77, name="python", user="ada", used_bytes=5 * GIB),),
    )
    free = dataclasses.replace(busy, uuid="GPU-2", index=1, processes=(), link=None)
    silent = dataclasses.replace(busy, uuid="GPU-3", index=2, processes=None)
    radeon = Gpu(name="Radeon", uuid="GPU-4", vendor="amd", memory_kind="shared")
    gpus = (busy, free, silent, radeon)
    fake.this_machine = dataclasses.replace(
        fake.this_machine, gpus=gpus, notes=("A note.",), is_wsl=True
    )
    at = open_machines()
    assert not at.exception
    held = next(f.value for f in at.dataframe if "pid" in f.value.columns)
    assert held.iloc[0].to_dict() == {"pid": 77, "name": "python", "user": "ada", "held": 5.0}
    text = shown(at)
    for words in (
        "PCIe 1.0 x8 of 4.0 x16", "4 NVLinks", "GPU 1\\: over NVLink", "WSL2", "A note.",
        "no process holds its memory", "cannot be listed", "borrows RAM", "memory of its own",
    ):  # fmt: skip
        assert words in text, words
    at.button(key="choose_1").click().run()
    assert fake.asked[-1].machine == "GPU-2"
    assert not [b for b in at.button if b.key == "choose_3"]


@pytest.mark.parametrize(("lang", "words"), [("zh", "每台机器都保持"), ("en", "This machine now")])
def test_both_languages(open_machines, lang, words):
    at = open_machines(lang=lang)
    assert not at.exception
    assert words in shown(at)


def test_without_a_plan_machine_and_catalogue_still_show(open_machines):
    at = open_machines(model="/missing")
    assert not at.exception
    assert at.markdown[0].value == "# There is no plan to carry to other machines"
    assert "This machine now" in shown(at)
    assert set(the_table(at)["verdict"]) == {""}


def test_looking_at_this_machine_leaves_the_one_that_answers_rest_on(open_machines, fake):
    at = open_machines()
    probed = fake.probes
    at.button(key="refresh").click().run()
    assert not at.exception
    assert fake.probes == probed
    assert len(fake.asked) == 1


def test_a_new_question_forgets_the_old_answers(monkeypatch):
    monkeypatch.setattr(st, "session_state", {})
    machine_parts.known("first", None)["x"] = 1
    assert machine_parts.known("first", None) == {"x": 1}
    assert machine_parts.known("second", None) == {}


def card(**memory):
    estimate = MemoryEstimate(
        allocated_bytes=None, reserved_bytes=None, capacity_bytes=8 * GIB, **memory
    )
    time = TimeEstimate(step_seconds=0.25)
    machine = Machine(name="m")
    return Elsewhere(name="m", machine=machine, plan=None, memory=estimate, time=time)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({"process_bytes": 10 * GIB, "verdict": "does_not_fit"}, "2.0 GiB more than is free"),
        ({"process_bytes": None, "assumptions": ("no data",)}, "no data"),
        ({"process_bytes": GIB, "verdict": "fits"}, "a step"),
    ],
)
def test_a_card_says_why(memory, words):
    assert words in machine_texts.remark(card(**memory), "en")


def test_plan_offers_each_gpu_of_this_machine(open_machines, fake):
    first = dataclasses.replace(fake.this_machine.gpus[0], vendor="nvidia")
    second = dataclasses.replace(first, uuid="GPU-2", index=1, free_bytes=3 * GIB)
    fake.this_machine = dataclasses.replace(fake.this_machine, gpus=(first, second))
    labels = machine_texts.local_gpus(fake.this_machine, "en")
    assert labels["GPU-2"] == "GPU 1 here: Tesla T4, 3.0 GiB free"
    at = open_machines().switch_page("views/plan.py").run()
    at.selectbox(key="machine_name").set_value("GPU-2").run()
    assert not at.exception
    assert fake.asked[-1].machine == "GPU-2"
    assert at.selectbox(key="machine_name").value == "GPU-2"
    alone = dataclasses.replace(fake.this_machine, gpus=(first,))
    assert machine_texts.local_gpus(alone, "en") == {}
