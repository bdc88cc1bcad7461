"""How two recordings are compared."""

import itertools

import pytest

from advisor.simulate.trace import MARK


def timeline(trace):
    """Births with their bytes, deaths and marks after loading, as they can be compared.

    Two things are made equal, and nothing else. Storages are numbered in the order of their births.
    Deaths that follow each other directly are sorted: what lets go of several storages at once
    (Python's frames, autocast's cache) has no order that a program could rely on, and the
    allocator's state after them is the same.
    """
    start = trace.events.index(MARK + trace.marks.index("load"))
    births = [e for e in trace.events if 0 <= e < MARK]
    number = {slot: i for i, slot in enumerate(births)}
    lines = []
    for dead, events in itertools.groupby(trace.events[start:], key=lambda e: e < 0):
        if dead:
            lines += [("death", n) for n in sorted(number[-e - 1] for e in events)]
            continue
        for e in events:
            if e >= MARK:
                lines.append(("mark", trace.marks[e - MARK]))
            else:
                a = trace.allocations[e]
                lines.append(("birth", number[e], a.num_bytes, a.op))
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
    return lambda found, expected: first_difference(timeline(found), timeline(expected))
