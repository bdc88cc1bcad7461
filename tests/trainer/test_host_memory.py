"""malloc's holes go back to the system now and then, on a CPU alone."""

import pytest

from trainer import host_memory
from trainer.host_memory import INTERVAL_SECONDS, HeapTrimmer


@pytest.fixture
def trims(monkeypatch):
    calls = []
    monkeypatch.setattr(host_memory, "_malloc_trim", lambda: calls.append)
    return calls


def test_trims_at_most_once_an_interval(trims, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(host_memory.time, "monotonic", lambda: now[0])
    heap = HeapTrimmer(enabled=True)
    for step in range(20):
        now[0] = 100.0 + step
        heap.now_and_then()
    assert len(trims) == int(19 // INTERVAL_SECONDS)
    heap.now()
    assert len(trims) == int(19 // INTERVAL_SECONDS) + 1


def test_does_nothing_where_it_is_off_or_the_library_cannot(trims, monkeypatch):
    HeapTrimmer(enabled=False).now()
    assert trims == []
    monkeypatch.setattr(host_memory, "_malloc_trim", lambda: None)
    HeapTrimmer(enabled=True).now()


def test_holes_in_the_heap_go_back():
    """Blocks below malloc's mmap threshold, every second one freed: the rest holds the heap up."""
    psutil = pytest.importorskip("psutil")
    if host_memory._malloc_trim() is None:
        pytest.skip("this C library has no malloc_trim")
    heap, process = HeapTrimmer(enabled=True), psutil.Process()
    blocks = [bytearray(60_000) for _ in range(4_000)]
    kept = [bytearray(600) for _ in range(10)]
    del blocks[::2]
    holes = process.memory_info().rss
    heap.now()
    assert holes - process.memory_info().rss > 60_000_000
    assert kept
