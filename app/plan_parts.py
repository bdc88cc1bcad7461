"""The sections of Plan, top to bottom, drawn with Streamlit."""

from typing import Any

import streamlit as st

from advisor.errors import AdvisorError, InputError
from advisor.export import FORMATS, export
from advisor.hardware.catalogue import accelerator_names, machine_from_name
from advisor.locale import catalogue, render
from advisor.recommend import Question
from advisor.recommendation import Advice, Conflict, Recommendation
from app import cache, charts, forms, state, texts
from app.components import SOURCES, card, figure, heading, may_launch
from app.components import verdict as draw_verdict
from app.launching import start_dialog
from app.texts import t

MODEL_FIELDS = frozenset({"model", "config", "model_type", "task"})
DATA_FIELDS = frozenset({"data", "text_column", "validation"})
MAX_DEVICES = 64
ICONS = {"machine": "memory", "model": "deployed_code", "data": "dataset"}


def problem_card(error: InputError) -> str | None:
    """Which input the error belongs to: machine, model or data; None where it is a pinned value."""
    root = (error.field or "").split(".")[0]
    if root == "machine":
        return "machine"
    if root in MODEL_FIELDS:
        return "model"
    return "data" if root in DATA_FIELDS else None


def input_names(asked: Question, shown: Recommendation | None) -> dict[str, str]:
    """The three inputs by name: as asked while nothing is known of them."""
    lang = state.language()
    if shown is not None:
        data = shown.data
        rows = t("data.name", lang, name=data.name, rows=data.num_rows) if data else "-"
        return {"machine": texts.machine_name(shown.machine), "model": shown.model.name, "data": rows}
    return {
        "machine": asked.machine or t("machine.this", lang),
        "model": asked.model,
        "data": asked.data or "-",
    }


def loading_cards(slots: dict[str, Any], asked: Question) -> None:
    """The cards before anything is known of what they name."""
    lang = state.language()
    names = input_names(asked, None)
    for place, slot in slots.items():
        with slot.container():
            # The same elements as the finished card, which then takes their place one by one.
            card(ICONS[place], texts.escape(names[place]), (t("card.loading", lang),), ready=False)




def input_cards(
    slots: dict[str, Any], asked: Question, shown: Recommendation | None, error: InputError | None
) -> None:
    """Machine, model and data with their facts and the way to change each."""
    lang = state.language()
    bad = problem_card(error) if error else None
    names = input_names(asked, shown) | ({bad: input_names(asked, None)[bad]} if bad else {})
    facts: dict[str, tuple[str, ...]] = {}
    if shown is not None:
        length = shown.plan.max_length if shown.plan else None
        facts["machine"] = texts.machine_facts(shown.machine, lang)
        facts["model"] = texts.model_facts(shown.model, lang)
        if shown.data is not None:
            facts["data"] = texts.data_facts(shown.data, length, lang)
    editors = {"machine": _change_machine, "model": _change_model, "data": _change_data}
    for place, slot in slots.items():
        with slot.container():
            lines = tuple(map(texts.escape, facts.get(place, (t("card.unknown", lang),))))
            sentence = texts.escape(str(error)) if error and place == bad else None
            popover = card(ICONS[place], texts.escape(names[place]), lines, sentence)
        assert popover is not None
        with popover:
            editors[place](asked, shown)


def _change_machine(asked: Question, shown: Recommendation | None) -> None:
    lang = state.language()
    this = t("machine.this", lang)
    names = [this, *accelerator_names()]
    current, count = this, 1
    if asked.machine:
        try:
            machine = machine_from_name(asked.machine)
            current, count = machine.gpus[0].name, len(machine.gpus)
        except InputError:
            current = this  # a name that is in no catalogue: its sentence stands on the card
    st.session_state["machine_name"] = current if current in names else this
    st.session_state["machine_count"] = min(max(count, 1), MAX_DEVICES)

    def change() -> None:
        name, n = st.session_state["machine_name"], st.session_state["machine_count"]
        chosen = None if name == this else f"{name} x {n}" if n > 1 else name
        state.change_question(machine=chosen)

    st.selectbox(t("machine.choose", lang), names, key="machine_name", on_change=change)
    if st.session_state["machine_name"] != this:
        st.number_input(
            t("machine.count", lang), 1, MAX_DEVICES, step=1, key="machine_count", on_change=change
        )
    else:
        st.button(t("machine.probe", lang), icon=":material/refresh:", on_click=_probe_again)
        for sentence in shown.machine.notes if shown else ():
            st.caption(texts.escape(sentence))


def _probe_again() -> None:
    cache.machine(refresh=True)
    state.forget_answer()


def _change_model(asked: Question, shown: Recommendation | None) -> None:
    lang = state.language()
    st.session_state["model_path"] = asked.model

    def change() -> None:
        state.change_question(model=st.session_state["model_path"].strip() or "demo")

    st.text_input(
        t("model.path", lang), key="model_path", help=t("model.path.help", lang), on_change=change
    )
    if shown is not None:
        st.caption(f"{shown.model.architecture}{texts.DOT}{texts.escape(shown.model.path)}")
        for sentence in shown.model.notes:
            st.caption(texts.escape(sentence))


def _change_data(asked: Question, shown: Recommendation | None) -> None:
    lang = state.language()
    data = shown.data if shown else None
    st.session_state["data_path"] = asked.data or "demo"
    st.session_state["data_validation"] = asked.validation or ""

    def change() -> None:
        path = st.session_state["data_path"].strip() or "demo"
        changes: dict[str, Any] = {"data": path}
        if path != asked.data:
            changes["text_column"] = None  # a column of the old file says nothing about the new one
        else:
            changes["validation"] = st.session_state["data_validation"].strip() or None
        state.change_question(**changes)

    st.text_input(
        t("data.path", lang), key="data_path", help=t("data.path.help", lang), on_change=change
    )
    if data is not None and len(data.columns) > 1:
        st.session_state["data_column"] = asked.text_column or data.text_column

        def change_column() -> None:
            state.change_question(text_column=st.session_state["data_column"])

        columns = list(dict.fromkeys((*data.columns, st.session_state["data_column"])))
        st.selectbox(t("data.column", lang), columns, key="data_column", on_change=change_column)
    elif asked.text_column:
        st.button(
            t("data.any_column", lang, column=texts.escape(asked.text_column)),
            on_click=state.change_question,
            kwargs={"text_column": None},
        )
    st.text_input(
        t("data.validation", lang),
        key="data_validation",
        help=t("data.validation.help", lang),
        on_change=change,
    )
    if data is not None and data.preview:
        st.caption(t("data.preview", lang))
        st.code(data.preview[0], language=None, wrap_lines=True)


def verdict_card(recommendation: Recommendation) -> None:
    """What will happen, in one sentence, and what can be done with it."""
    lang = state.language()
    plan, memory = recommendation.plan, recommendation.memory
    assert plan is not None
    assert memory is not None
    why_not = _why_no_start(recommendation)
    detail = texts.verdict_detail(memory, recommendation.time, lang)
    draw_verdict(
        memory.verdict,
        texts.verdict_sentence(plan, memory, recommendation.time, lang),
        f"{detail}  \n{why_not}" if why_not else detail,
    )
    with st.container(horizontal=True, width="content", gap="small"):
        _export(recommendation)
        st.button(
            t("action.start", lang),
            type="primary",
            icon=":material/play_arrow:",
            key="start",
            on_click=start_dialog,
            args=(recommendation,),
            disabled=why_not is not None,
        )


def _why_no_start(recommendation: Recommendation) -> str | None:
    lang = state.language()
    if recommendation.machine.source == "catalogue":
        return t("start.catalogue", lang, name=texts.machine_name(recommendation.machine))
    if recommendation.data is None:
        return t("start.no_data", lang)
    return None if may_launch() else t("start.not_loopback", lang)


def _export(recommendation: Recommendation) -> None:
    lang = state.language()
    with st.popover(t("action.export", lang), icon=":material/download:", key="export"):
        names = catalogue(texts.PACKAGE, lang)
        chosen = st.segmented_control(
            t("export.format", lang),
            list(FORMATS),
            format_func=lambda f: names.get(f"export.{f}", f),
            default=next(iter(FORMATS)),
            required=True,
            key="export_format",
        )
        try:
            exported = export(recommendation, chosen or next(iter(FORMATS)))
        except AdvisorError as error:
            st.markdown(f":red[:material/error: {texts.escape(str(error))}]")
            return
        st.code(exported.text, language=None, height=320)
        st.download_button(
            t("action.download", lang, name=exported.filename),
            exported.text,
            exported.filename,
            icon=":material/download:",
            on_click="ignore",
            key="download",
        )


def conflict_card(asked: Question, recommendation: Recommendation) -> None:
    """Nothing fits: which pins exclude each other, and a button for each way out."""
    lang = state.language()
    with st.container(width="stretch", gap="small"):
        draw_verdict("does_not_fit", t("conflict.text", lang), t("conflict.detail", lang))
        for number, conflict in enumerate(recommendation.conflicts):
            _conflict(asked, conflict, number)


def _conflict(asked: Question, conflict: Conflict, number: int) -> None:
    lang = state.language()
    st.markdown(texts.upper_first(render(conflict.reason, lang)))
    outs = dict(conflict.ways_out)
    fields = list(dict.fromkeys((*outs, *conflict.fields)))
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        for field in fields:
            yields = render(outs[field], lang) if field in outs else None
            if state.is_pinned(asked, field):
                st.button(
                    t("conflict.give_up", lang, field=forms.label(field, lang)),
                    icon=":material/lock_open_right:",
                    key=f"give_up_{number}_{field}",
                    on_click=state.unpin,
                    args=(field,),
                )
            if yields:
                st.caption(texts.upper_first(yields), width="content")


def problem_in_values(asked: Question, error: AdvisorError) -> None:
    """The sentence of a refused value or of an unknown answer, with the way back."""
    lang = state.language()
    field = getattr(error, "field", None) or ""
    held = next((f for f in asked.pins if f == field or f.split(".")[0] == field), None)
    with st.container(width="stretch", gap="xxsmall"):
        key = "problem.refused" if isinstance(error, InputError) else "problem.unknown"
        st.markdown(f"## :red[:material/error: {t(key, lang)}]", anchors=False)
        st.markdown(texts.escape(str(error)))
    if held is not None:
        st.button(
            t("conflict.give_up", lang, field=forms.label(held, lang)),
            icon=":material/lock_open_right:",
            key="give_up_refused",
            on_click=state.unpin,
            args=(held,),
        )
    elif not isinstance(error, InputError):
        st.button(t("action.retry", lang), icon=":material/refresh:", on_click=state.forget_answer)


def knobs(asked: Question) -> None:
    """Method and goal; they are part of the question and need no answer to be drawn."""
    lang = state.language()
    methods = ["auto", "full", "lora", *(["qlora"] if asked.method == "qlora" else [])]
    st.session_state["plan_method"] = asked.method
    st.session_state["plan_goal"] = asked.goal
    st.segmented_control(
        t("knob.method", lang),
        methods,
        required=True,
        key="plan_method",
        format_func=lambda m: t(f"value.method.{m}", lang),
        on_change=lambda: state.change_question(method=st.session_state["plan_method"]),
    )
    st.segmented_control(
        t("knob.goal", lang),
        ["fastest", "smallest"],
        required=True,
        key="plan_goal",
        format_func=lambda g: t(f"value.goal.{g}", lang),
        on_change=lambda: state.change_question(goal=st.session_state["plan_goal"]),
    )


def cut_knob(recommendation: Recommendation) -> None:
    """Where rows are cut; moving it pins max_length."""
    plan, data = recommendation.plan, recommendation.data
    if plan is None:
        return
    lang = state.language()
    options = forms.length_options(
        data.max_tokens if data else None,
        recommendation.model.max_position_embeddings,
        plan.max_length,
    )
    if len(options) < 2:
        return
    st.session_state["plan_length"] = plan.max_length
    st.select_slider(
        t("knob.length", lang),
        options,
        key="plan_length",
        format_func=lambda n: f"{n:,}",
        width=320,
        on_change=lambda: state.pin("max_length", st.session_state["plan_length"]),
    )


def values(advice: list[Advice], recommendation: Recommendation, asked: Question, *, live: bool) -> None:
    """Rows of values; `live` is False for the plan before a change that could not be answered."""
    with st.container(gap="xxsmall"):
        for a in advice:
            advice_row(a, recommendation, asked, live=live)


def advice_row(a: Advice, recommendation: Recommendation, asked: Question, *, live: bool) -> None:
    """Padlock, name and reason, value. The value opens the why and the way to change it."""
    lang = state.language()
    name, value = forms.label(a.field, lang), shown_value(a, recommendation)
    pinned = a.pinned or state.is_pinned(asked, a.field)
    reason = render(a.reason, lang)
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", wrap=False):
        _padlock(a, name, pinned=pinned, live=live)
        before = state.was(a.field)
        moved = before is not None and before != value
        badge = f" :green-badge[{t('was', lang, value=before)}]" if live and moved else ""
        st.markdown(
            f"**{name}**{badge}  \n:small[:gray[{SOURCES[a.source]} {texts.escape(reason)}]]",
            width="stretch",
        )
        text = f"**{value}**" if live else f":gray[{value}]"
        text = f":green[{text}]" if live and pinned else text
        with st.popover(text, type="tertiary", key=f"why_{a.field}", disabled=not live):
            _why(a, name, reason, recommendation)


def shown_value(a: Advice, recommendation: Recommendation) -> str:
    """The value of a row as text."""
    return forms.format_value(a.field, a.value, state.language(), recommendation.plan)


def _padlock(a: Advice, name: str, *, pinned: bool, live: bool) -> None:
    lang = state.language()
    if a.field in forms.READ_ONLY or a.field not in forms.FIELDS:
        st.markdown(":gray[:material/remove:]", width=32)
        return
    st.button(
        ":green[:material/lock:]" if pinned else ":gray[:material/lock_open_right:]",
        key=f"pin_{a.field}",
        type="tertiary",
        width=32,
        help=t("action.unpin" if pinned else "action.pin", lang, field=name),
        disabled=not live,
        on_click=state.unpin if pinned else state.pin,
        args=(a.field,) if pinned else (a.field, a.value),
    )


def _why(a: Advice, name: str, reason: str, recommendation: Recommendation) -> None:
    lang = state.language()
    st.markdown(f"**{name}** `{a.field}`")
    st.markdown(texts.escape(texts.full_stop(texts.upper_first(reason), lang)))
    if a.counterfactual is not None:
        other = texts.full_stop(texts.upper_first(render(a.counterfactual, lang)), lang)
        st.markdown(texts.escape(other))
    if a.field in forms.FIELDS and a.field not in forms.READ_ONLY:
        _editor(a, forms.FIELDS[a.field], recommendation)
    source = [f"{SOURCES[a.source]} {t(f'source.{a.source}', lang)}"]
    source += [a.rule] if a.rule else []
    source += [texts.escape(a.reference)] if a.reference else []
    st.caption(texts.DOT.join(source))


def _editor(a: Advice, spec: forms.Field, recommendation: Recommendation) -> None:
    lang = state.language()
    options = (True, False) if spec.widget == "switch" else (a.options or spec.options)
    if options:
        key = f"set_{a.field}"
        options = tuple(dict.fromkeys((*options, a.value))) if a.value is not None else options
        st.session_state[key] = a.value
        st.pills(
            t("pin.to", lang),
            options,
            key=key,
            format_func=lambda v: forms.format_value(a.field, v, lang),
            on_change=_pin_from,
            args=(a.field, key),
        )
    if spec.widget in ("integer", "number"):
        kind = int if spec.widget == "integer" else float
        key, current = f"type_{a.field}", None if a.value is None else kind(a.value)
        low = None if spec.minimum is None else kind(spec.minimum)
        high = None if spec.maximum is None else kind(spec.maximum)
        if current is not None and low is not None:
            low = min(low, current)
        st.session_state[key] = current
        st.number_input(
            t("pin.other" if options else "pin.to", lang),
            min_value=low,
            max_value=high,
            value=None,
            step=kind(spec.step or 1),
            format=spec.format,
            key=key,
            on_change=_pin_from,
            args=(a.field, key),
        )


def _pin_from(field: str, key: str) -> None:
    """Pin what the widget holds; clearing it lets the advisor choose again."""
    value = st.session_state[key]
    if value is None:
        state.unpin(field)
    else:
        state.pin(field, value)


def memory_charts(recommendation: Recommendation, *, live: bool) -> None:
    """The bar at the peak and the step, each with its takeaway as text for who sees no picture."""
    lang = state.language()
    memory, plan = recommendation.memory, recommendation.plan
    if memory is None or not memory.categories:
        return
    gpu = recommendation.machine.accelerator()
    on_gpu = gpu is not None and not (plan and plan.use_cpu)
    total = gpu.total_bytes if on_gpu and gpu else recommendation.machine.ram_total_bytes
    revision = repr(plan)
    heading(t("chart.bar", lang), "GiB", help=t("chart.bar.help", lang))
    bar = charts.memory_bar(memory, total, lang)
    alt = t("chart.bar.alt", lang, peak=memory.process_bytes, free=memory.capacity_bytes)
    figure(bar if live else charts.fade(bar), "bar", alt, revision)
    st.caption(texts.category_list(memory, lang))
    if recommendation.timeline is not None and recommendation.timeline.time_fraction:
        heading(t("chart.step", lang), "GiB", help=t("chart.step.help", lang))
        time = recommendation.time
        single = plan is not None and plan.gradient_accumulation_steps == 1
        seconds = time.step_seconds if time is not None and single else None
        step = charts.step_timeline(recommendation.timeline, memory, seconds, lang)
        figure(step if live else charts.fade(step), "step", t("chart.step.alt", lang), revision)


def batch_map(slot: Any, asked: Question, recommendation: Recommendation) -> None:
    """Micro-batch by length; `slot` shows a skeleton until the sweep is there."""
    plan = recommendation.plan
    assert plan is not None
    lang = state.language()
    try:
        cells = state.sweep(asked, plan, cache.sweep)
    except AdvisorError as error:
        slot.caption(texts.escape(str(error)))
        return
    if not cells:
        slot.caption(t("chart.map.none", lang))
        return
    data = recommendation.data
    length = data.longest_batch_tokens(plan.max_length) if data else plan.max_length
    lengths = {c.length for c in cells}
    length = length if length in lengths else plan.max_length
    fig = charts.batch_length_map(cells, plan.per_device_train_batch_size, length, lang)
    with slot.container():
        figure(fig, "map", t("chart.map.alt", lang), repr(plan))


def alternatives(recommendation: Recommendation) -> None:
    """Other plans by time and memory, and the way to take one."""
    plan, memory, time = recommendation.plan, recommendation.memory, recommendation.time
    lang = state.language()
    others = recommendation.alternatives
    if not others or plan is None or memory is None:
        st.caption(t("alternatives.none", lang))
        return
    labels = [render(a.label, lang) for a in others]
    rows = [
        (
            t("alternatives.recommended", lang),
            time.total_seconds if time else None,
            memory.process_bytes,
        ),
        *(
            (texts.upper_first(name), a.time.total_seconds, a.memory.process_bytes)
            for name, a in zip(labels, others, strict=True)
        ),
    ]
    fig = charts.alternatives(rows, memory.capacity_bytes, lang)
    figure(fig, "alternatives", t("alternatives.alt", lang), repr(plan))
    chosen = st.menu_button(
        t("alternatives.use", lang),
        range(len(others)),
        format_func=lambda i: texts.upper_first(labels[i]),
        type="tertiary",
        icon=":material/swap_horiz:",
        key="use_another",
    )
    if chosen is not None:
        state.apply_pins(others[chosen].pins)
        st.rerun()
