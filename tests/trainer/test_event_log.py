"""Writing events."""

from advisor import events
from trainer.event_log import EventLog


def test_line_cut_by_a_crash_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write("log", step=1, loss=2.0)
    log.close()
    with path.open("a") as file:
        file.write('{"v": 1, "event": "lo')
    log = EventLog(path)
    log.write("end", step=1, reason="stopped")
    batch = events.read(path)
    assert [event["event"] for event in batch.events] == ["log", "end"]
    assert batch.num_bad_lines == 1
    log.close()


def test_only_the_first_process_writes(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", enabled=False)
    log.write("log", step=1)
    log.close()
    assert not (tmp_path / "events.jsonl").exists()
