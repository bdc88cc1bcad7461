"""The dialogs of Plan, without a page."""

import threading

import pytest
import streamlit as st

from advisor import measurements
from advisor.errors import WorkerError
from app import cache, plan_parts, state


def test_cancelled_calibration_closes_its_dialog(monkeypatch):
    begun = threading.Event()

    def calibrate(told, *, cancelled):
        begun.set()
        while not cancelled():
            pass
        raise WorkerError("worker.cancelled")

    class ClosedError(Exception):
        pass

    def close():
        raise ClosedError

    monkeypatch.setattr(measurements, "calibrate", calibrate)
    monkeypatch.setattr(state, "language", lambda: "en")
    monkeypatch.setattr(st, "session_state", {"calibrating": cache.Calibrating(None)})
    monkeypatch.setattr(st, "rerun", close)
    assert begun.wait(10)
    plan_parts._end_calibration()
    with pytest.raises(ClosedError):
        plan_parts._follow_calibration.__wrapped__()
    with pytest.raises(WorkerError):
        st.session_state["calibrating"]._future.result(10)
