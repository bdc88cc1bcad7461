"""How two recordings are compared, and a worker with a home of its own."""

import itertools
from dataclasses import dataclass, field

import pytest

from advisor.simulate.trace import MARK
from advisor.simulate.worker import Worker


@dataclass(frozen=True)
class Line:
    """One event of a recording."""

    what: str
    """born, dies, or the label of a mark."""
    number: int = 0
    """Of the storage; 0 is the first after loading."""
    num_bytes: int = 0
    op: str = field(default="", compare=False)


def timeline(trace, *, marks=True):
    """What happens from the end of loading to the mark `end`, as it can be compared.

    Two things are made equal, and nothing else. Storages are numbered in the order of their births.
    Deaths that follow each other directly are sorted: what lets go of several storages at once
    (Python's frames, autocast's cache) has no order that a program could rely on, and the
    allocator's state after them is the same.
    """
    start = trace.events.index(MARK + trace.marks.index("load"))
    loaded = sum(0 <= e < MARK for e in trace.events[:start])
    births = [e for e in trace.events if 0 <= e < MARK]
    number = {slot: i - loaded for i, slot in enumerate(births)}
    end = trace.events.index(MARK + trace.marks.index("end"))
    events = [e for e in trace.events[start:end] if marks or e < MARK]
    lines = []
    for dead, group in itertools.groupby(events, key=lambda e: e < 0):
        if dead:
            lines += [Line("dies", n) for n in sorted(number[-e - 1] for e in group)]
            continue
        for e in group:
            if e >= MARK:
                lines.append(Line(trace.marks[e - MARK]))
            else:
                a = trace.allocations[e]
                lines.append(Line("born", number[e], a.num_bytes, a.op))
    return lines


def first_difference(found, expected):
    """None, or the first place where two timelines part, with what stands before it."""
    for i, (a, b) in enumerate(itertools.zip_longest(found, expected)):
        if a != b:
            near = "\n".join(f"  {line}" for line in expected[max(i - 5, 0) : i])
            return f"event {i}:\n{near}\n  found    {a}\n  expected {b}"
    return None


@pytest.fixture(scope="session")
def differ():
    """(trace, trace) -> None where they show the same, else a text."""

    def compare(found, expected, *, marks=True):
        return first_difference(timeline(found, marks=marks), timeline(expected, marks=marks))

    return compare


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """The process that simulates, with an empty cache."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(home))
        worker = Worker(home=home)
        yield worker
        worker.close()
