"""Prove it: real steps with the longest batch, started from Plan, shown beside the prediction."""

import threading

import streamlit as st

from advisor import calibration
from advisor.arguments import arguments_for
from advisor.errors import InputError
from advisor.recommendation import Recommendation
from app import launching, run_source, state
from app.run_texts import Run
from app.texts import escape, listing, t
from trainer import launch, proof, record
from trainer.runs import ACTIVE

_STARTING = threading.Lock()
QUANTITIES = ("process_bytes", "reserved_bytes", "allocated_bytes")


def latest(recommendation: Recommendation) -> Run | None:
    """The newest proof of exactly this plan, model and data; a changed plan was not measured."""
    for run in run_source.proofs():
        proved = run.recommendation
        if (
            proved is not None
            and proved.plan == recommendation.plan
            and proved.model.path == recommendation.model.path
            and _data(proved) == _data(recommendation)
            and proved.machine.name == recommendation.machine.name
        ):
            return run
    return None


def _data(recommendation: Recommendation) -> str | None:
    return recommendation.data.path if recommendation.data else None


def ran_out(run: Run | None) -> bool:
    """Whether the proof ran out of memory."""
    return run is not None and bool(run.status.measured.get("out_of_memory"))


def measured_bytes(run: Run | None) -> int | None:
    """The peak of a proof that went through; None of another."""
    if run is None or run.state != "finished":
        return None
    return run.status.measured.get("process_bytes")


def button(recommendation: Recommendation, why_not: str | None) -> None:
    """Starts a proof at once; not while something else trains, which would be measured with it."""
    lang = state.language()
    if why_not is None and (busy := _busy()):
        why_not = escape(busy)
    if why_not is None:
        state.allow_start("proof")
    st.button(
        t("prove.action", lang),
        icon=":material/straighten:",
        key="prove",
        on_click=_start,
        args=(recommendation,),
        disabled=why_not is not None,
        help=why_not,
    )


def _busy() -> str | None:
    """What trains now, as a sentence; None while nothing does."""
    lang = state.language()
    names = [run.name for run in run_source.active()]
    return t("start.busy", lang, names=listing(names, lang)) if names else None


def _start(recommendation: Recommendation) -> None:
    """Start the proof; a button's callback. Two clicks at once, here or in two tabs, start one."""
    if not state.take_start("proof"):
        return

    def act() -> None:
        with _STARTING:
            if names := [run.name for run in run_source.active()]:
                raise InputError("proving.busy", names=names)
            run_dir = proof.create(
                launching.run_slug(recommendation),
                plan=recommendation.to_dict(state.language()),
                arguments=arguments_for(recommendation),
            )
            launch.start(run_dir)

    launching.done(act)


def panel(run: Run | None) -> None:
    """How the proof goes, or what it measured beside what was predicted."""
    if run is None:
        return
    every = "1s" if run.state in ACTIVE else None
    shown_state, name = run.state, run.name

    def live() -> None:
        now = run_source.find(name)
        if now is None or now.state != shown_state:
            st.rerun()
        with st.container(border=True, gap="xsmall", key="proof"):
            _progress(now) if now.state in ACTIVE else _result(now)

    st.fragment(live, run_every=every)()


def _progress(run: Run) -> None:
    lang, steps = state.language(), run.total_steps() or proof.STEPS
    st.markdown(f"**{t('prove.title', lang, steps=steps)}**")
    done = [run.data.start is not None, *(run.step >= n for n in range(1, steps + 1))]
    names = [t("prove.loading", lang)]
    names += [t("prove.step", lang, step=n, steps=steps) for n in range(1, steps + 1)]
    icons = {True: "check", False: "hourglass_empty"}
    lines = (
        f":gray[:material/{icons[is_done]}:] {name}"
        for is_done, name in zip(done, names, strict=True)
    )
    st.markdown("  \n".join(lines))
    st.button(
        t("prove.cancel", lang),
        icon=":material/stop_circle:",
        key="prove_cancel",
        type="tertiary",
        on_click=_cancel,
        args=(run,),
    )


def _cancel(run: Run) -> None:
    launching.done(lambda: launch.stop(run.status.run_dir, force=True))


def _result(run: Run) -> None:
    lang = state.language()
    if ran_out(run):
        st.markdown(f":red[:material/block: {out_of_memory(run)}]")
        st.caption(escape(run.status.error or ""))
    elif run.state == "stopped":
        st.caption(t("prove.stopped", lang))
    elif run.state != "finished":
        reason = run.status.error or t("run.cause.unknown", lang)
        st.markdown(f":red[:material/error: {t('prove.failed', lang, reason=escape(reason))}]")
    else:
        st.markdown(f":material/straighten: {_memory(run)} {_time(run)}")
        batch = (record.read_object(run.status.run_dir / record.RECORD) or {}).get("proof") or {}
        rows, tokens = batch.get("batch_rows"), batch.get("longest_tokens")
        said = t("prove.batch", lang, rows=rows, tokens=tokens, steps=run.step)
        st.caption(f"{said} {t(_learned(run), lang)}")
    if run.state == "finished" or ran_out(run):
        st.button(
            t("prove.again", lang),
            icon=":material/refresh:",
            key="prove_again",
            type="tertiary",
            on_click=state.forget_answer,
        )


def _learned(run: Run) -> str:
    """What the next answers take from it, as a message id."""
    taught = calibration.taught_by(run.status.run_dir)
    return "prove.learned." + ("both" if len(taught) > 1 else next(iter(taught), "nothing"))


def out_of_memory(run: Run) -> str:
    """The sentence of a proof that ran out of memory."""
    predicted = run.status.predicted
    return t(
        "prove.out_of_memory",
        state.language(),
        step=run.step + 1,
        predicted=predicted.get("process_bytes"),
        free=predicted.get("capacity_bytes"),
    )


def _memory(run: Run) -> str:
    lang, predicted, measured = state.language(), run.status.predicted, run.status.measured
    both = next((n for n in QUANTITIES if predicted.get(n) and measured.get(n)), None)
    if both is None:
        return t("prove.memory.alone", lang, measured=measured.get("process_bytes"))
    share = 100 * (measured[both] / predicted[both] - 1)
    found, expected = measured[both], predicted[both]
    return t("prove.memory", lang, measured=found, predicted=expected, share=f"{share:+.1f}")


def _time(run: Run) -> str:
    lang = state.language()
    found, expected = (v.get("step_seconds") for v in (run.status.measured, run.status.predicted))
    if expected is None:
        return t("prove.time.alone", lang, measured=found)
    return t("prove.time", lang, measured=found, predicted=expected)
