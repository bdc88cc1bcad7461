"""Plan: what is here, what to run, what it will cost."""

import streamlit as st

from advisor.errors import InputError
from app import answering, forms, plan_inputs, plan_parts, plan_values, proving, state, texts
from app.components import SOURCES, heading, headline, notice
from app.texts import t

lang = state.language()
asked = state.question()

notice()
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

waiting = answering.Waiting(
    asked,
    top,
    (answer_card, left, right),
    more=lambda: plan_inputs.loading_cards(slots, asked),
)
last, error = answering.answer(asked, waiting, holds=True)
if error is None and plan_parts.method_choices(asked) != offered:
    st.rerun()  # the answer told what the knob may offer

live = error is None
shown = last.recommendation if last is not None else None
input_error = error if isinstance(error, InputError) else None
proof = None
# The answer first, then what explains it: who moved a value waits for these two.
with answer_card:
    if error is not None and (input_error is None or plan_inputs.problem_card(input_error) is None):
        plan_parts.problem_in_values(asked, error)
    elif error is not None:
        st.markdown(f":red[:material/error: {t('problem.card', lang)}]")
    elif shown is not None and shown.plan is None:
        plan_parts.conflict_card(asked, shown)
    elif shown is not None:
        proof = proving.latest(shown)
        plan_parts.verdict_card(shown, proof)
if shown is not None:
    with right:
        plan_parts.memory_bar(shown, proof, live=live)
if last is not None and last.rest is not None:
    last.rest.go_on()
with top:
    if error is None and shown is not None:
        headline(
            texts.headline(shown, lang),
            texts.escape(texts.machine_caption(shown.machine, lang)),
        )
    else:
        headline(t("headline.problem", lang), t("headline.problem.caption", lang))
plan_inputs.input_cards(slots, asked, shown, input_error)
with proof_slot:
    proving.panel(proof)
plan_parts.open_dialog(shown if live else None)

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
        plan_parts.step_chart(shown, live=live)
    map_slot = None
    if shown.plan is not None and live:
        with low_left:
            heading(t("chart.map", lang), t("chart.map.note", lang))
            map_slot = st.skeleton(height=268)
        with low_right:
            heading(t("alternatives.title", lang))
            if last is not None and last.rest is None:
                plan_parts.alternatives(shown)
            else:
                answering.fill_in(asked)
    if others:
        half = (len(others) + 1) // 2
        with rest:
            heading(t("values.rest", lang))
            for column, part in zip(
                st.columns(2, gap="medium"), (others[:half], others[half:]), strict=True
            ):
                with column:
                    plan_values.values(part, shown, asked, live=live)
    if map_slot is not None and last is not None and last.rest is None:
        # Last, because it may take a while: the skeleton stands until then.
        plan_parts.batch_map(map_slot, asked, shown)
