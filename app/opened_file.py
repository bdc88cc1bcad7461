"""Opening somebody's arguments: upload or paste, the findings, and taking them over."""

import dataclasses
import json

import streamlit as st

from advisor.errors import AdvisorError, InputError
from advisor.hardware.machine import Machine
from advisor.locale import render
from advisor.locale import sentence as say
from advisor.review import Review, read_arguments, review
from advisor.review.better import suggestions
from advisor.review.finding import Finding
from advisor.review.pins import question_from
from app import cache, state, texts
from app.texts import t

MARKS = {
    "error": ":red[:material/error:]",
    "warning": ":orange[:material/warning:]",
    "change": ":gray[:material/swap_horiz:]",
    "advice": ":green[:material/lightbulb:]",
}
ENCODING = "utf-8"


def open_button() -> None:
    """The popover that takes a file, or its text."""
    lang = state.language()
    # A file that was read closes the popover: Streamlit draws one of another key closed.
    number = state.opened_files()
    with st.popover(
        t("open.button", lang), icon=":material/upload_file:", key=f"open_file_{number}"
    ):
        st.caption(t("open.help", lang))
        st.file_uploader(t("open.upload", lang), key=f"open_upload_{number}")
        st.text_area(t("open.paste", lang), key=f"open_paste_{number}", height=160)
        st.button(
            t("open.read", lang), type="primary", key="open_read", on_click=_read, args=(number,)
        )
        if sentence := state.refused_file():
            st.markdown(f":red[:material/error: {texts.escape(sentence)}]")


def _read(number: int) -> None:
    lang = state.language()
    upload = st.session_state[f"open_upload_{number}"]
    pasted = st.session_state[f"open_paste_{number}"].strip()
    state.keep_opened(None)
    state.keep_refused_file(None)
    if upload is None and not pasted:
        state.keep_refused_file(t("open.nothing", lang))
        return
    name = upload.name if upload is not None else t("open.pasted", lang)
    raw = upload.getvalue() if upload is not None else pasted.encode(ENCODING)
    try:
        state.keep_given_file(read_arguments(raw, name))
    except InputError as error:
        state.keep_refused_file(error.sentence(lang))


def review_given() -> None:
    """Review the file that was just read; where no plan is known yet, that takes a while."""
    given = state.given_file()
    if given is None:
        return
    lang = state.language()
    with st.spinner(t("open.reviewing", lang)):
        try:
            state.keep_opened(_with_suggestions(review(given, _machine())))
        except InputError as error:
            state.keep_refused_file(error.sentence(lang))
    state.keep_given_file(None)  # not before: a click meanwhile runs the page anew


def _machine() -> Machine:
    """The question's; one that is not there is no fault of the file, and the page says it."""
    try:
        return cache.machine(state.question().machine)
    except InputError:
        return cache.machine()


def _with_suggestions(found: Review) -> Review:
    """Better values for the model and data that are asked about; none where they have no plan."""
    asked, _ = question_from(found.arguments, state.question())
    free = dataclasses.replace(asked, pins={})
    try:
        best = cache.whole(free)
    except AdvisorError:
        return found  # the plan's own cards say what is wrong once the file is taken over
    return found.with_findings(suggestions(found.arguments, best))


def findings_card(found: Review) -> None:
    """What was found in the file, and the button that fills the form with it."""
    lang = state.language()
    count, given = len(found.findings), len(found.arguments)
    with st.container(border=True, gap="small", key="findings"):
        key = "open.findings" if count else "open.clean"
        st.markdown(f"### {t(key, lang, count=count, given=given)}", anchors=False)
        with st.container(height=360 if count > 6 else "content", border=False, gap="xsmall"):
            for finding in found.findings:
                st.markdown(_line(finding, lang))
        with st.container(horizontal=True, gap="small"):
            st.button(
                t("open.fill", lang),
                type="primary",
                icon=":material/input:",
                key="open_fill",
                on_click=_fill,
                args=(found,),
            )
            st.button(t("open.close", lang), key="open_close", on_click=_close)


def _line(finding: Finding, lang: str) -> str:
    shown = json.dumps(finding.got, ensure_ascii=False)
    got = "" if finding.got is None else f" = {texts.escape(shown)}"
    text = texts.escape(say(finding.text, lang))
    do = texts.escape(texts.upper_first(say(finding.do, lang)))
    line = f"{MARKS[finding.severity]} **{texts.escape(finding.field)}**{got} {text}.  \n**{do}.**"
    if lang == "zh":
        line = line.replace(".  \n", "。  \n").removesuffix(".**") + "。**"
    if finding.reason is not None:
        reason = texts.escape(texts.upper_first(render(finding.reason, lang)))
        reference = texts.escape(finding.reference) if finding.reference else ""
        line += f"  \n:small[:gray[{texts.DOT.join(filter(None, (reason, reference)))}]]"
    return line


def _fill(found: Review) -> None:
    """Ask what the file asks; what no plan can hold is said."""
    lang = state.language()
    asked, refused = question_from(found.arguments, state.question())
    changes = {f.name: getattr(asked, f.name) for f in dataclasses.fields(asked)}
    state.change_question(**changes)
    state.keep_opened(None)
    if refused:
        names = texts.listing((error.field or "" for error in refused), lang)
        reasons = " ".join(error.sentence(lang) for error in refused)
        state.leave_notice(t("open.not_taken", lang, names=names, reasons=reasons))


def _close() -> None:
    state.keep_opened(None)
