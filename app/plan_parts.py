"""The sections of Plan beside its inputs and rows: verdict, conflicts, knobs, charts."""

import importlib.util
from typing import Any

import streamlit as st

from advisor import measurements
from advisor.errors import AdvisorError, InputError
from advisor.export import FORMATS, export
from advisor.hardware.machine import Gpu
from advisor.locale import catalogue, render
from advisor.recommend import Question
from advisor.recommendation import Conflict, Recommendation
from advisor.rules.optimizer import needs_bitsandbytes
from app import cache, charts, forms, frames, proving, state, texts
from app.answering import say_progress
from app.components import figure, heading, may_launch
from app.components import verdict as draw_verdict
from app.launching import START_DIALOG, ask_to_start, start_dialog
from app.run_texts import Run
from app.texts import t

_CALIBRATION_DIALOG = "calibrate"


def verdict_card(recommendation: Recommendation, proof: Run | None) -> None:
    """What will happen, in one sentence, and what can be done with it.

    It can start a proof, so a page that draws it draws `proving.panel` too.

    Args:
        recommendation: the answer, with a plan.
        proof: the newest proof of this plan.
    """
    lang = state.language()
    plan, memory = recommendation.plan, recommendation.memory
    assert plan is not None
    assert memory is not None
    why_not = _why_no_start(recommendation)
    detail = texts.verdict_detail(memory, recommendation.time, lang)
    failed = proving.ran_out(proof)
    draw_verdict(
        "does_not_fit" if failed else memory.verdict,
        proving.out_of_memory(proof)
        if proof is not None and failed
        else texts.verdict_sentence(plan, memory, recommendation.time, lang),
        f"{detail}  \n{why_not}" if why_not else detail,
    )
    with st.container(horizontal=True, width="content", gap="small"):
        proving.button(recommendation, why_not)
        if _may_calibrate(recommendation):
            st.button(
                t("action.calibrate", lang),
                icon=":material/speed:",
                key="calibrate",
                on_click=_calibrate,
                args=(_trains_on(recommendation),),
                help=t(_calibration_help(recommendation), lang),
            )
        _export(recommendation)
        st.button(
            t("action.start", lang),
            type="primary",
            icon=":material/play_arrow:",
            key="start",
            on_click=ask_to_start,
            disabled=why_not is not None,
        )


def _may_calibrate(recommendation: Recommendation) -> bool:
    """Whether the time rests on rates of this machine that are not known well."""
    if recommendation.plan is None or recommendation.machine.source != "probe":
        return False
    gpu = _trains_on(recommendation)
    if gpu is None:
        return measurements.calibration_state() != "current"
    return measurements.can_calibrate(gpu) and measurements.gpu_calibration(gpu) is None


def _trains_on(recommendation: Recommendation) -> Gpu | None:
    plan, machine = recommendation.plan, recommendation.machine
    return None if plan is None or plan.use_cpu else machine.accelerator()


def _calibration_help(recommendation: Recommendation) -> str:
    if _trains_on(recommendation) is not None:
        return "calibrate.gpu"
    return f"calibrate.{measurements.calibration_state()}"


def open_dialog(recommendation: Recommendation | None) -> None:
    """The dialog that the reader has open, with the answer as it is now.

    A page that is drawn again (a proof ended, other plans are there) would close it otherwise.

    Args:
        recommendation: what can be started now; None closes what asks to start it.
    """
    name = state.dialog()
    if name == _CALIBRATION_DIALOG:
        calibrate_dialog()
    elif name == START_DIALOG and recommendation is not None and recommendation.plan is not None:
        if _why_no_start(recommendation) is None:
            start_dialog(recommendation)
        else:
            state.close_dialog()
    elif name is not None:
        state.close_dialog()


def _calibrate(gpu: Gpu | None) -> None:
    st.session_state["calibrating"] = cache.Calibrating(gpu)
    state.open_dialog(_CALIBRATION_DIALOG)


def calibrate_dialog() -> None:
    """Measure this machine in a dialog that can be left."""
    lang = state.language()
    st.dialog(t("calibrate.title", lang), on_dismiss=_end_calibration)(_calibration_body)()


def _calibration_body() -> None:
    st.markdown(t("calibrate.text", state.language()))
    _follow_calibration()


@st.fragment(run_every="0.5s")
def _follow_calibration() -> None:
    lang = state.language()
    running: cache.Calibrating = st.session_state["calibrating"]
    line = st.empty()
    if running.is_cancelled():
        state.close_dialog()
        st.rerun()
    try:
        done = running.done()
    except AdvisorError as error:
        line.markdown(f":red[:material/error: {texts.escape(error.sentence(lang))}]")
        st.button(
            t("action.retry", lang),
            icon=":material/refresh:",
            key="calibrate_again",
            on_click=lambda: st.session_state.update(calibrating=cache.Calibrating(running.gpu)),
        )
        return
    if done:
        state.close_dialog()
        state.forget_answer()
        st.rerun()
    line.caption(t("calibrate.start", lang))
    if running.progress is not None:
        say_progress(line, running.progress)
    st.button(
        t("action.cancel", lang),
        icon=":material/close:",
        key="calibrate_cancel",
        on_click=_end_calibration,
    )


def _end_calibration() -> None:
    state.close_dialog()
    st.session_state["calibrating"].cancel()


def _why_no_start(recommendation: Recommendation) -> str | None:
    lang, plan = state.language(), recommendation.plan
    if recommendation.machine.source == "catalogue":
        return t("start.catalogue", lang, name=texts.machine_name(recommendation.machine))
    if recommendation.data is None:
        return t("start.no_data", lang)
    if plan is not None and plan.devices > 1:
        return t("start.devices", lang, devices=plan.devices)
    eight_bit = plan is not None and (plan.method == "qlora" or needs_bitsandbytes(plan.optim))
    if eight_bit and importlib.util.find_spec("bitsandbytes") is None:
        return t("start.bitsandbytes", lang)
    fused = plan is not None and plan.use_liger_kernel
    if fused and importlib.util.find_spec("liger_kernel") is None:
        return t("start.liger", lang)
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
            st.markdown(f":red[:material/error: {texts.escape(error.sentence(lang))}]")
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
        pinned = any(conflict.ways_out for conflict in recommendation.conflicts)
        kind = "conflict" if pinned else "conflict.machine"
        several = ".several" if len(recommendation.conflicts) > 1 else ""
        draw_verdict("does_not_fit", t(f"{kind}.text", lang), t(f"{kind}.detail{several}", lang))
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
    if held is None and field == "method" and state.is_pinned(asked, field):
        held = field
    with st.container(width="stretch", gap="xxsmall"):
        key = "problem.refused" if isinstance(error, InputError) else "problem.unknown"
        st.markdown(f"## :red[:material/error: {t(key, lang)}]", anchors=False)
        st.markdown(texts.escape(error.sentence(lang)))
    if held is not None:
        st.button(
            t("conflict.give_up", lang, field=forms.label(held, lang)),
            icon=":material/lock_open_right:",
            key="give_up_refused",
            on_click=state.unpin,
            args=(held,),
        )
    elif not isinstance(error, InputError):
        st.button(
            t("action.retry", lang),
            icon=":material/refresh:",
            key="retry",
            on_click=state.forget_answer,
        )


def method_choices(asked: Question) -> tuple[str, ...]:
    """What the method knob offers: adapters unless the model is known to have no weights.

    What is asked for stays among them, so that its refusal can be undone where it was made.
    """
    return tuple(dict.fromkeys(("auto", *state.methods(asked), asked.method)))


def knobs(asked: Question) -> None:
    """Method and goal; they are part of the question and need no answer to be drawn."""
    lang = state.language()
    methods = list(method_choices(asked))
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


def memory_bar(recommendation: Recommendation, proof: Run | None, *, live: bool) -> None:
    """The bar at the peak, with its takeaway as text for who sees no picture."""
    lang = state.language()
    memory, plan = recommendation.memory, recommendation.plan
    if memory is None or not memory.categories:
        return
    gpu = recommendation.machine.accelerator()
    on_gpu = gpu is not None and not (plan and plan.use_cpu)
    total = gpu.total_bytes if on_gpu and gpu else recommendation.machine.ram_total_bytes
    heading(t("chart.bar", lang), "GiB", help=t("chart.bar.help", lang))
    measured = proving.measured_bytes(proof) if live else None
    bar = charts.memory_bar(memory, total, lang, measured_bytes=measured)
    alt = t("chart.bar.alt", lang, peak=memory.process_bytes, free=memory.capacity_bytes)
    figure(bar if live else frames.fade(bar), "bar", alt, repr(plan))
    st.caption(texts.category_list(memory, lang))


def step_chart(recommendation: Recommendation, *, live: bool) -> None:
    """Memory through one step."""
    lang = state.language()
    memory, plan, timeline = recommendation.memory, recommendation.plan, recommendation.timeline
    if memory is None or not memory.categories or timeline is None or not timeline.time_fraction:
        return
    heading(t("chart.step", lang), "GiB", help=t("chart.step.help", lang))
    time = recommendation.time
    single = plan is not None and plan.gradient_accumulation_steps == 1
    seconds = time.step_seconds if time is not None and single else None
    step = charts.step_timeline(timeline, memory, seconds, lang)
    figure(step if live else frames.fade(step), "step", t("chart.step.alt", lang), repr(plan))


def batch_map(slot: Any, asked: Question, recommendation: Recommendation) -> None:
    """Micro-batch by length; `slot` shows a skeleton until the sweep is there."""
    plan = recommendation.plan
    assert plan is not None
    lang = state.language()
    try:
        cells = state.sweep(asked, plan, cache.sweep)
    except AdvisorError as error:
        slot.caption(texts.escape(error.sentence(lang)))
        return
    if not cells:
        slot.caption(t("chart.map.none", lang))
        return
    data = recommendation.data
    rows = data.rows_of(plan) if data else None
    length = rows.longest_batch_tokens(plan.max_length) if rows else plan.max_length
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
