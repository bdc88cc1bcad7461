"""Pieces that more than one page draws."""

import pytest

from advisor import events
from app import components, run_data, state
from app.run_data import RunData


@pytest.fixture
def bar(monkeypatch):
    """How far the reading was said to be; None at its end."""
    shown = []

    class Bar:
        def progress(self, share, text):
            shown.append(share)

        def empty(self):
            shown.append(None)

    monkeypatch.setattr(components.st, "progress", lambda share: Bar())
    monkeypatch.setattr(state, "language", lambda: "en")
    monkeypatch.setattr(components, "READ_SECONDS", 1e-9)
    monkeypatch.setattr(run_data, "CHUNK_BYTES", 500)
    return shown


@pytest.fixture
def half_read(tmp_path, bar):
    lines = [events.encode("log", step=n, time=float(n), loss=1.0) for n in range(100)]
    (tmp_path / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    data = RunData(tmp_path).update(1e-9)
    assert 0 < data.share_read() < 1
    return data


def test_a_long_file_is_read_to_its_end(half_read, bar):
    components.read_whole(half_read, "one")
    assert half_read.share_read() == 1
    assert len(bar) > 3
    assert bar == [*sorted(bar[:-1]), None]


def test_a_file_that_disappears_ends_the_reading(half_read, bar):
    half_read.path.unlink()
    components.read_whole(half_read, "one")
    assert bar == [None]
