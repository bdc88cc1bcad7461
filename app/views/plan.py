"""Plan: what is here, what to run, what it will cost."""

import streamlit as st

from advisor.errors import AdvisorError, InputError
from advisor.locale import Message, catalogue, render
from app import cache, forms, plan_inputs, plan_parts, plan_values, proving, state, texts
from app.components import SOURCES, heading, headline
from app.texts import t

lang = state.language()
asked = state.question()

if sentence := state.notice():
    st.markdown(f":red[:material/error: {texts.escape(sentence)}]")
top = st.container()
grid = st.grid(3, min_column_width=300)
slots = {place: grid.cell().empty() for place in plan_inputs.ICONS}
# The verdict stands above the knobs, so that a phone shows it without scrolling: reserve its place.
answer_card = st.container(
    border=True,
    horizontal=True,
    horizontal_alignment="distribute",
    vertical_alignment="center",
    gap="small",
    key="verdict",
)
proof_slot = st.container()
offered = plan_parts.method_choices(asked)
with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
    plan_parts.knobs(asked)
    length_knob = st.container(width="content")
note = st.container()
left, right = st.columns([10, 11], gap="medium")
low_left, low_right = st.columns([10, 11], gap="medium")
rest = st.container()

error: AdvisorError | None = None
last = state.last_answer()
if last is None or last.question != asked:
    with top:
        waiting_title = st.empty()
    waiting = [answer_card.empty(), left.empty(), right.empty()]
    with waiting_title.container():
        headline(t("headline.loading", lang), t("headline.loading.caption", lang))
    plan_inputs.loading_cards(slots, asked)
    with waiting[0].container():
        progress = st.empty()
        progress.caption(t("progress.start", lang))
    waiting[1].skeleton(height=380)
    waiting[2].skeleton(height=380)

    def show(event: cache.Progress | None) -> None:
        """Say how far the answer is, where the catalogue knows the step."""
        if event is not None and event[0] in catalogue("advisor.locale", lang):
            progress.caption(render(Message(id=event[0], params=event[1]), lang))

    try:
        if last is None:
            cache.machine(refresh=True)  # what is free now, not when the server was started
        recommendation = cache.recommend(asked, show)
    except AdvisorError as problem:
        error = problem
    else:
        rows = {
            a.field: forms.format_value(a.field, a.value, lang, recommendation.plan)
            for a in recommendation.advice
        }
        last = state.Answer(question=asked, recommendation=recommendation)
        state.keep_answer(last, rows)
        if plan_parts.method_choices(asked) != offered:
            st.rerun()  # the answer told what the knob may offer
    for slot in (waiting_title, *waiting):
        slot.empty()

live = error is None
shown = last.recommendation if last is not None else None
with top:
    if error is None and shown is not None:
        headline(
            texts.headline(shown, lang),
            texts.escape(texts.machine_caption(shown.machine, lang)),
        )
    else:
        headline(t("headline.problem", lang), t("headline.problem.caption", lang))
input_error = error if isinstance(error, InputError) else None
plan_inputs.input_cards(slots, asked, shown, input_error)
with answer_card:
    if error is not None and (input_error is None or plan_inputs.problem_card(input_error) is None):
        plan_parts.problem_in_values(asked, error)
    elif error is not None:
        st.markdown(f":red[:material/error: {t('problem.card', lang)}]")
    elif shown is not None and shown.plan is None:
        plan_parts.conflict_card(asked, shown)
    elif shown is not None:
        plan_parts.verdict_card(shown)
if live and shown is not None and shown.plan is not None:
    with proof_slot:
        proving.panel(proving.latest(shown))

if shown is not None:
    if not live:
        note.caption(t("problem.before", lang, name=texts.escape(shown.model.name)))
    with length_knob:
        plan_parts.cut_knob(shown)
    main, others = forms.ordered(shown.advice)
    if main:
        with left:
            heading(t("values.title", lang), help=t("values.help", lang))
            plan_values.values(main, shown, asked, live=live)
            legend = (f"{icon} {t(f'source.{name}', lang)}" for name, icon in SOURCES.items())
            st.caption(texts.DOT.join(legend))
    elif live and asked.pins:
        with left:
            heading(t("values.pinned", lang))
            plan_values.pins(asked)
    with right:
        plan_parts.memory_charts(shown, live=live)
    map_slot = None
    if shown.plan is not None and live:
        with low_left:
            heading(t("chart.map", lang), t("chart.map.note", lang))
            map_slot = st.skeleton(height=268)
        with low_right:
            heading(t("alternatives.title", lang))
            plan_parts.alternatives(shown)
    if others:
        half = (len(others) + 1) // 2
        with rest:
            heading(t("values.rest", lang))
            for column, part in zip(
                st.columns(2, gap="medium"), (others[:half], others[half:]), strict=True
            ):
                with column:
                    plan_values.values(part, shown, asked, live=live)
    if map_slot is not None:
        # Last, because it may take a while: the skeleton stands until then.
        plan_parts.batch_map(map_slot, asked, shown)
