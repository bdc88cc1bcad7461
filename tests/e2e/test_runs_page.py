"""Runs and proofs in a real browser: compare, note, delete, a run from a shell, prove a plan."""

import json
import re

import pytest
from playwright.sync_api import expect
from test_dashboard import ANSWER_MS, STEP_MS, answered, chromium, dashboard, heading, open_tab

from trainer import record

__all__ = ["chromium", "dashboard", "open_tab"]
pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(600)]
CURVES = """() => Math.max(0, ...[
    ...document.querySelectorAll('[class*=st-key-compare-] .js-plotly-plot')
].map(e => (e._fullData ?? []).filter(t => t.name && !t.name.startsWith('trace')).length))"""


def write_run(home, name, rate):
    """A finished run as the trainer leaves one that was started from a shell."""
    from advisor import events

    directory = home / "runs" / name
    directory.mkdir(parents=True)
    record.write_json(directory / record.ARGUMENTS, {"learning_rate": rate, "bf16": False})
    lines = [events.encode("start", step=0, time=1e9)]
    for step in range(1, 41):
        loss, seen = 2.0 / step + rate, 50 * step
        lines.append(
            events.encode("log", step=step, time=1e9 + step, loss=loss, num_input_tokens_seen=seen)
        )
    lines.append(events.encode("end", step=40, time=1e9 + 40, reason="finished"))
    (directory / record.EVENTS).write_text("".join(lines))
    record.write_json(
        directory / record.RECORD,
        {"v": 1, "started_at": 1e9, "num_steps": 40, "effective": {"autocast": None}},
    )


def select(tab, row):
    """Click the box in front of a row; the table is a canvas."""
    tab.locator(".stDataFrame .dvn-scroller").first.click(
        position={"x": 15, "y": 36 + 38 * row + 19}
    )


def test_runs_are_compared_noted_and_deleted(open_tab, dashboard):
    write_run(dashboard.home, "20200101T000000Z-one", 0.1)
    write_run(dashboard.home, "20200101T000001Z-two", 0.2)
    tab = open_tab("/runs")
    expect(heading(tab)).to_contain_text("2 kept", timeout=STEP_MS)
    select(tab, 0)
    expect(tab.get_by_text("Asked, sent, effective").first).to_be_visible()
    select(tab, 1)
    expect(tab.get_by_text("Only what differs").first).to_be_visible()
    tab.wait_for_function(f"() => ({CURVES})() == 2", timeout=STEP_MS)

    # One more comes from a shell while the page is open; the selection stays.
    write_run(dashboard.home, "20200101T000002Z-three", 0.3)
    expect(heading(tab)).to_contain_text("3 kept", timeout=STEP_MS)
    expect(tab.get_by_text("Selected: 2")).to_be_visible()
    tab.wait_for_function(f"() => ({CURVES})() == 2", timeout=STEP_MS)

    key = ".st-key-notes_20200101T000000Z-one"
    tab.locator(f"{key} button").first.click()
    area = tab.locator(".st-key-notes_text_20200101T000000Z-one textarea")
    area.fill("too high")
    area.press("Control+Enter")
    notes = dashboard.home / "runs" / "20200101T000000Z-one" / "notes.txt"
    for _ in range(100):
        if notes.exists() and notes.read_text() == "too high":
            break
        tab.wait_for_timeout(100)
    assert notes.read_text() == "too high"
    tab.keyboard.press("Escape")

    tab.locator(".st-key-delete_20200101T000001Z-two button").click()
    dialog = tab.get_by_role("dialog")
    expect(dialog.get_by_text("There is no way back")).to_be_visible()
    dialog.get_by_role("button", name="Delete for good").click()
    expect(heading(tab)).to_contain_text("2 kept", timeout=STEP_MS)
    expect(tab.get_by_text("Selected: 1")).to_be_visible()
    assert not (dashboard.home / "runs" / "20200101T000001Z-two").exists()


def test_plan_is_proved(open_tab, dashboard):
    tab = open_tab()
    answered(tab)
    tab.get_by_role("button", name="Prove it").click()
    expect(tab.locator(".st-key-proof")).to_contain_text("Loading model", timeout=STEP_MS)
    proof = tab.locator(".st-key-proof")
    expect(proof).to_contain_text(re.compile(r"Measured [\d.]+ GiB where"), timeout=ANSWER_MS)
    expect(proof).to_contain_text("3 steps")
    diamond = tab.locator("[class*=st-key-bar-] .scatterlayer path.point")
    expect(diamond).to_have_count(1)
    saved = [json.loads(path.read_text()) for path in dashboard.runs()]
    (proved,) = [run for run in saved if run.get("kind") == "proof"]
    assert proved["state"] == "finished"
    assert proved["measured"]["process_bytes"] > 0
    assert proved["predicted"]["step_seconds"] > 0
    tab.get_by_role("button", name="Answer again").click()
    answered(tab)
    expect(tab.get_by_test_id("stException")).to_have_count(0)
