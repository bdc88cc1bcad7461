"""The sections of Machines, drawn with Streamlit."""

import hashlib
import re
import time

import pandas as pd
import streamlit as st

from advisor.elsewhere import Elsewhere
from advisor.errors import AdvisorError, InputError
from advisor.hardware import catalogue
from advisor.hardware.choice import choose
from advisor.hardware.machine import Gpu, Machine
from advisor.locale import format_duration, say
from advisor.recommend import Question
from advisor.recommendation import Recommendation
from app import cache, machine_texts, state, texts
from app.components import VERDICTS, figure, heading, headline
from app.launching import PLAN_PAGE
from app.texts import t

TICK_SECONDS = 0.8
"""Seconds of simulation between two redraws, while the table fills."""


def known(asked: Question, shown: Recommendation | None) -> dict[str | None, Elsewhere]:
    """The plan's numbers by machine, of the present question; empty when it changed."""
    kept = st.session_state.get("elsewhere")
    key = (asked, None if shown is None else shown.plan)
    if kept is None or kept[0] != key:
        kept = (key, {})
        st.session_state["elsewhere"] = kept
    return kept[1]


def wanted(asked: Question) -> list[str | None]:
    """Machines in the order they are asked for: the cards first, then the catalogue."""
    names = catalogue.accelerator_names()
    return list(dict.fromkeys((*cards(asked), *names)))


def cards(asked: Question) -> list[str | None]:
    """Machines that have a card: this one, the plan's, those added, the references."""
    added = st.session_state.get("machines_added", [])
    chosen = [asked.machine] if asked.machine else []
    return list(dict.fromkeys((None, *chosen, *added, *machine_texts.REFERENCES)))


def fill(asked: Question, shown: Recommendation) -> bool:
    """Ask for some more machines; whether all are known."""
    assert shown.plan is not None
    found = known(asked, shown)
    left = [name for name in wanted(asked) if name not in found]
    if left:
        answers = cache.elsewhere(asked, shown.plan, left, TICK_SECONDS)
        found.update({one.name: one for one in answers})
    return all(name in found for name in left)


def title_and_cards(asked: Question, shown: Recommendation) -> None:
    """The sentence, the contract and a card for each machine of interest."""
    lang = state.language()
    found = known(asked, shown)
    names = catalogue.accelerator_names()
    in_table = [one for name, one in found.items() if name in names]
    headline(
        machine_texts.summary(in_table, len(names), lang),
        t("machines.caption", lang, name=texts.escape(shown.model.name)),
    )
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="medium"):
        st.markdown(f":green[:material/lock:] **{t('machines.held', lang)}**", width="content")
        for what, value in machine_texts.contract(shown, lang).items():
            st.markdown(f":gray[{what}] **{value}**", width="content")
    with st.grid(5, min_column_width=236, gap="small"):
        for name in cards(asked):
            with st.container(border=True, height="stretch", gap="xsmall"):
                _card(asked, name, found.get(name))


def _card(asked: Question, name: str | None, one: Elsewhere | None) -> None:
    lang = state.language()
    if one is None:
        st.markdown(f"**{texts.escape(name or t('machine.this', lang))}**")
        st.caption(t("machines.waiting", lang))
        return
    memory = one.memory
    device = texts.escape(texts.device_name(one.machine, one.plan)) if name is None else ""
    below = f"  \n:small[:gray[{device}]]" if device else ""
    st.markdown(f"**{texts.escape(machine_texts.title(one, lang))}**{below}")
    color, icon = VERDICTS[memory.verdict]
    word = t(f"verdict.{memory.verdict}", lang)
    peak = t("machines.peak", lang, peak=memory.process_bytes, free=memory.capacity_bytes)
    st.markdown(f":{color}[{icon} **{word}**] :gray[{peak}]")
    if memory.categories:
        alt = f"{machine_texts.title(one, lang)}: {word} {peak}"
        figure(machine_texts.strip(one), f"strip_{name}", alt)
    if memory.verdict in ("fits", "tight"):
        st.markdown(f"## {format_duration(one.time.total_seconds, lang)}", anchors=False)
    st.caption(texts.escape(machine_texts.remark(one, lang)))
    st.space("stretch")
    mine = name == asked.machine
    label = t("machines.open" if mine else "machines.use", lang)
    if st.button(label, key=f"use_{name}", type="tertiary"):
        use(name)


def use(name: str | None) -> None:
    """Plan for this machine; ends on Plan."""
    if name != state.question().machine:
        state.change_question(machine=name)
    st.switch_page(PLAN_PAGE)


def table(asked: Question, shown: Recommendation | None) -> None:
    """The catalogue, searched and sorted; a selected row gets a card."""
    lang = state.language()
    text = st.session_state.get("machines_search", "")
    found = known(asked, shown)
    listed = machine_texts.rows(catalogue.entries(), found, text, lang)
    if not listed:
        st.caption(t("machines.none", lang, text=texts.escape(text)))
        return
    number = st.column_config.NumberColumn
    # Rows are selected by their place: a table with other rows is another table.
    names = "/".join(row["name"] for row in listed)
    key = "machines_table_" + hashlib.sha256(names.encode()).hexdigest()[:12]

    def add() -> None:
        for row in st.session_state[key]["selection"]["rows"]:
            add_card(listed[row]["name"])

    st.dataframe(
        pd.DataFrame(listed),
        hide_index=True,
        height=420,
        placeholder="",
        key=key,
        on_select=add,
        selection_mode="single-row",
        column_config={
            "name": st.column_config.TextColumn(t("machines.column.name", lang), pinned=True),
            "maker": t("machines.column.maker", lang),
            "verdict": t("machines.column.verdict", lang),
            "peak": number(t("machines.column.peak", lang), format="%.2f"),
            "minutes": number(t("machines.column.minutes", lang), format="%.1f"),
            "step": number(t("machines.column.step", lang), format="%.3f"),
            "usable": number(t("machines.column.usable", lang), format="%.1f"),
            "bandwidth": number(t("machines.column.bandwidth", lang), format="%.0f"),
            "half": number(t("machines.column.half", lang), format="%.1f"),
            "single": number(t("machines.column.single", lang), format="%.1f"),
            "memory": t("machines.column.memory", lang),
            "source": st.column_config.TextColumn(t("machines.column.source", lang), width="large"),
        },
    )


def add_card(name: str) -> None:
    """Show a machine among the cards."""
    added = st.session_state.setdefault("machines_added", [])
    if name not in added:
        added.append(name)


def this_machine(machine: Machine, asked: Question) -> None:
    """What this machine has now: processor, RAM, every GPU and who holds it."""
    lang = state.language()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        heading(t("machines.here", lang), t("machines.probed", lang, clock=time.strftime("%X")))
        st.button(
            t("machines.refresh", lang), icon=":material/refresh:", type="tertiary", key="refresh"
        )
    with st.grid(3, min_column_width=300, gap="small"):
        with st.container(border=True, height="stretch", gap="xsmall"):
            _host(machine)
        for number, gpu in enumerate(machine.gpus):
            with st.container(border=True, height="stretch", gap="xsmall"):
                _gpu(gpu, machine, asked, number)
    for sentence in machine.notes:
        st.caption(texts.escape(say(sentence, lang)))


def _host(machine: Machine) -> None:
    lang = state.language()
    model = re.sub(r"\((R|TM)\)", "", machine.cpu.model or t("unknown", lang))
    st.markdown(f":gray[:material/memory:] **{texts.escape(model)}**")
    _bar(machine.ram_free_bytes, machine.ram_total_bytes)
    ram = t("machine.ram", lang, free=machine.ram_free_bytes, total=machine.ram_total_bytes)
    limit = machine.ram_limit_source == "cgroup"
    st.caption(ram + (f"{texts.DOT}{t('machines.limit', lang)}" if limit else ""))
    facts = [t("machines.cores", lang, cores=machine.cpu.usable_cores)]
    facts.append(t("machines.disk", lang, disk=machine.disk_free_bytes))
    if machine.is_wsl:
        facts.append("WSL2")
    if machine.is_container:
        facts.append(t("machines.container", lang))
    if machine.driver_version:
        facts.append(t("machine.driver", lang, version=machine.driver_version))
    st.caption(texts.DOT.join(facts))


def _gpu(gpu: Gpu, machine: Machine, asked: Question, number: int) -> None:
    lang = state.language()
    index = "" if gpu.index is None else f"GPU {gpu.index}{texts.DOT}"
    st.markdown(f":gray[:material/developer_board:] **{index}{texts.escape(gpu.name)}**")
    _bar(gpu.free_bytes, gpu.total_bytes)
    st.caption(t("machine.of_total", lang, free=gpu.free_bytes, total=gpu.total_bytes))
    for line in machine_texts.gpu_facts(gpu, machine, lang):
        st.caption(texts.escape(line))
    if gpu.processes is None:
        st.caption(t("machines.processes.unknown", lang))
    elif not gpu.processes:
        st.caption(t("machines.processes.none", lang))
    else:
        _processes(gpu, number)
    _choose(gpu, machine, asked, number)


def _processes(gpu: Gpu, number: int) -> None:
    lang = state.language()
    st.dataframe(
        pd.DataFrame(machine_texts.processes(gpu, lang)),
        hide_index=True,
        key=f"processes_{number}",
        column_config={
            "pid": st.column_config.NumberColumn("pid", format="%d"),
            "name": t("machines.process.name", lang),
            "user": t("machines.process.user", lang),
            "held": st.column_config.NumberColumn("GiB", format="%.2f"),
        },
    )


def _choose(gpu: Gpu, machine: Machine, asked: Question, number: int) -> None:
    """Train on exactly this one, or why that cannot be."""
    lang = state.language()
    if gpu.uuid is None or gpu.vendor != "nvidia":
        return
    try:
        choose(machine, gpu.uuid)
    except InputError as error:
        st.caption(texts.escape(error.sentence(lang)))
        return
    if asked.machine == gpu.uuid:
        st.caption(f":green[:material/check:] {t('machines.chosen', lang)}")
        return
    if st.button(t("machines.choose", lang), key=f"choose_{number}", type="tertiary"):
        use(gpu.uuid)


def _bar(free: int | None, total: int | None) -> None:
    if free is not None and total:
        st.progress(min(max(1 - free / total, 0.0), 1.0))


def problem(error: AdvisorError) -> None:
    """There is no plan to carry to other machines: why, and the way to mend it."""
    lang = state.language()
    st.markdown(f":red[:material/error: {texts.escape(error.sentence(lang))}]")
    if not isinstance(error, InputError):
        st.button(t("action.retry", lang), icon=":material/refresh:", on_click=state.forget_answer)
    no_plan()


def no_plan() -> None:
    """The link to the page where the plan is made."""
    st.page_link(PLAN_PAGE, label=t("run.none.plan", state.language()), icon=":material/balance:")
