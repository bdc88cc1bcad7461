"""Steps of other lengths after the steady one: a program that goes on with them. No torch.

Batches of a real data set differ in length. What a short batch leaves in the allocator's cache does
not always serve the next long one, so that more is reserved than by equal batches.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from advisor.errors import SimulationError
from advisor.simulate.profile import Program

LAST_STEP = "optimizer1"
"""Mark at the end of the steady step; what follows belongs to the end of the recording."""
MIXED = "mixed_lengths"
"""Mark at the end of the added steps."""


def mixed(
    program: Program, sizes: np.ndarray, others: Sequence[np.ndarray]
) -> tuple[Program, np.ndarray]:
    """The program with its steady step once more for each of `others`.

    Args:
        program: load, first and steady step.
        sizes: int64, bytes by slot.
        others: the bytes by slot where batches have another length, step by step.

    Returns:
        The program, and the bytes of its slots: a repeated slot is one of its own.
    """
    if not others:
        return program, sizes
    start, end = program.steady()
    window = program.events[start:end]
    before, left = carried(program)
    counterpart = np.arange(len(sizes))
    """Of a slot, the one that stands for it in the step at hand."""
    born = window[window >= 0]
    events, new_sizes, total = [program.events[:end]], [sizes], len(sizes)
    for other in others:
        counterpart[before] = counterpart[left]
        counterpart[born] = np.arange(total, total + len(born))
        total += len(born)
        events.append(_renamed(window, counterpart))
        new_sizes.append(other[born])
    counterpart[before] = before
    events.append(_renamed(program.events[end:], counterpart))
    added = len(window) * len(others)
    marks = [(p if p <= end else p + added, label) for p, label in program.marks]
    marks.insert([label for _, label in marks].index(LAST_STEP) + 1, (end + added, MIXED))
    slots = np.concatenate([np.arange(len(sizes)), np.tile(born, len(others))])
    return (
        dataclasses.replace(
            program,
            events=np.concatenate(events),
            template=program.template[slots],
            categories=program.categories[slots],
            streams=program.streams[slots],
            marks=tuple(marks),
        ),
        np.concatenate(new_sizes),
    )


def carried(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Slots that the steady step lets go of for the first step, and those it leaves to the next.

    They are each other's counterparts, one by one: in both steps born in the same order.

    Raises:
        SimulationError: the two steps do not leave the same.
    """
    start, end = program.steady()
    codes = program.events[start:end]
    births, dead = codes[codes >= 0], -codes[codes < 0] - 1
    before = _without(dead, births, len(program.template))
    left = _without(births, dead, len(program.template))
    if len(before) != len(left):
        raise SimulationError("mixing.steps_differ", first=len(before), second=len(left))
    return before, left


def _without(slots: np.ndarray, others: np.ndarray, num_slots: int) -> np.ndarray:
    """What is among `slots` and not among `others`, ascending: np.setdiff1d without sorting."""
    among = np.zeros(num_slots, dtype=bool)
    among[slots] = True
    among[others] = False
    return np.flatnonzero(among)


def _renamed(events: np.ndarray, names: np.ndarray) -> np.ndarray:
    return np.where(events >= 0, names[events], -names[-events - 1] - 1)
