"""A profile's segments walked for one depth, the middle layer's template repeated.

Event codes in Profile.segments: ["b", template] birth, ["w", template] birth of a workspace,
["m", label] mark, ["g", template] death of a global allocation, ["l", segment, layer, ordinal]
death of a layer's allocation, its ordinal-th birth but for workspaces. In a sweep the layer is
relative to the block's own layer, in a global segment and in ["a", segment, layer, ordinal] it is a
template layer.

All layers of one template are written at once: each event is a birth, counted from its layer's
first one, or a death, counted from the first birth of another layer.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from advisor.simulate.profile import Profile, Program

_BIRTH, _GLOBAL, _LAYER, _RELATIVE = range(4)
"""Kinds of events: of a birth, and deaths of what belongs to no layer, to a template layer, and
to a layer so many further on."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A global segment, or what one template layer does in a sweep; arrays are per event."""

    kinds: np.ndarray
    segments: np.ndarray
    """Where a layer's allocation was born."""
    layers: np.ndarray
    ordinals: np.ndarray
    """Of a birth: its number in the block; of _GLOBAL: the template."""
    templates: np.ndarray
    """Per birth."""
    marks: tuple[tuple[int, str], ...]
    """(number of the block's events before it, label)"""
    places: np.ndarray
    """Number in the block of each birth that is no workspace's."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    blocks: list[_Block]
    """One, or one for each template layer."""
    is_sweep: bool
    ascending: bool = True


@lru_cache(maxsize=64)
def unroll(profile: Profile, depth: int) -> Program:
    """The profile's events for `depth` layers."""
    return _Unrolling(profile, depth).program()


@lru_cache(maxsize=64)
def _read(profile: Profile) -> tuple[list[_Segment], np.ndarray]:
    """The segments as arrays, and _Block.places as (segment, template layer, ordinal)."""
    segments = []
    for content in profile.segments:
        if content[0] == "global":
            segments.append(_Segment(blocks=[_block(content[1], _LAYER)], is_sweep=False))
            continue
        blocks = [_block(events, _RELATIVE) for events in content[2]]
        segments.append(_Segment(blocks=blocks, is_sweep=True, ascending=content[1]))
    longest = max((len(b.places) for s in segments for b in s.blocks), default=0)
    places = np.zeros((len(segments), max(profile.traced_depth, 1), longest), dtype=np.int64)
    for number, segment in enumerate(segments):
        for layer, block in enumerate(segment.blocks if segment.is_sweep else ()):
            places[number, layer, : len(block.places)] = block.places
    return segments, places


def _block(events: list[Any], layer_kind: int) -> _Block:
    rows: list[tuple[int, int, int, int]] = []
    templates: list[int] = []
    marks: list[tuple[int, str]] = []
    places: list[int] = []
    for event in events:
        code = event[0]
        if code == "m":
            marks.append((len(rows), event[1]))
        elif code in ("b", "w"):
            if code == "b":
                places.append(len(templates))
            rows.append((_BIRTH, 0, 0, len(templates)))
            templates.append(event[1])
        elif code == "g":
            rows.append((_GLOBAL, 0, 0, event[1]))
        else:
            rows.append((layer_kind if code == "l" else _LAYER, event[1], event[2], event[3]))
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return _Block(
        kinds=table[:, 0],
        segments=table[:, 1],
        layers=table[:, 2],
        ordinals=table[:, 3],
        templates=np.array(templates, dtype=np.int32),
        marks=tuple(marks),
        places=np.array(places, dtype=np.int64),
    )


class _Unrolling:
    """A profile on its way to one depth."""

    def __init__(self, profile: Profile, depth: int) -> None:
        self.profile, self.depth = profile, depth
        self.segments, self.places = _read(profile)
        traced = profile.traced_depth
        layers = np.arange(depth)
        # the first two and the last two stand for themselves, the second for all between
        is_last = (layers >= depth - 2) & (layers > 1)
        self.stands = np.where(is_last, traced - depth + layers, np.minimum(layers, 1))
        template_layers = np.arange(traced)
        self.real = np.where(
            template_layers < traced - 2, template_layers, depth - traced + template_layers
        )
        self.first_births = np.zeros((len(self.segments), max(depth, 1)), dtype=np.int64)
        """Slot of the first birth of each (segment, layer)."""
        self.first_events = np.zeros_like(self.first_births)
        self.global_slots = np.zeros(len(profile.categories), dtype=np.int64)
        """By template."""

    def program(self) -> Program:
        """All segments, one after another."""
        num_births, num_events, marks = self._lay_out()
        events = np.empty(num_events, dtype=np.int64)
        template = np.empty(num_births, dtype=np.int32)
        for number, segment in enumerate(self.segments):
            for stands, block in enumerate(segment.blocks):
                layers = (
                    np.flatnonzero(self.stands == stands) if segment.is_sweep else np.zeros(1, int)
                )
                events_at = self.first_events[number, layers][:, None]
                births_at = self.first_births[number, layers][:, None]
                events[events_at + np.arange(len(block.kinds))] = self._codes(
                    block, layers, births_at
                )
                template[births_at + np.arange(len(block.templates))] = block.templates
        return Program(
            depth=self.depth,
            events=events,
            template=template,
            categories=self.profile.categories[template],
            streams=self.profile.streams[template],
            marks=tuple(marks),
        )

    def _lay_out(self) -> tuple[int, int, list[tuple[int, str]]]:
        """Where each block's births and events start; how many there are; the marks."""
        births = events = 0
        marks: list[tuple[int, str]] = []
        for number, segment in enumerate(self.segments):
            order = np.zeros(1, dtype=np.int64)
            lengths = np.array([(len(b.templates), len(b.kinds)) for b in segment.blocks])
            if segment.is_sweep:
                order = np.arange(self.depth)[:: 1 if segment.ascending else -1]
                lengths = lengths[self.stands[order]]
            else:
                block = segment.blocks[0]
                marks += [(events + position, label) for position, label in block.marks]
                self.global_slots[block.templates] = births + np.arange(len(block.templates))
            ends = np.cumsum(lengths, axis=0)
            self.first_births[number, order] = births + ends[:, 0] - lengths[:, 0]
            self.first_events[number, order] = events + ends[:, 1] - lengths[:, 1]
            births, events = births + int(ends[-1, 0]), events + int(ends[-1, 1])
        return births, events, marks

    def _codes(self, block: _Block, layers: np.ndarray, births_at: np.ndarray) -> np.ndarray:
        """Events of a block in each of `layers`: (layers, events)."""
        codes = np.empty((len(layers), len(block.kinds)), dtype=np.int64)
        at = block.kinds == _BIRTH
        codes[:, at] = births_at + block.ordinals[at]
        at = block.kinds == _GLOBAL
        codes[:, at] = -self.global_slots[block.ordinals[at]] - 1
        for kind in (_LAYER, _RELATIVE):
            at = block.kinds == kind
            born, ordinals = block.segments[at], block.ordinals[at]
            if kind == _LAYER:
                where = np.broadcast_to(self.real[block.layers[at]], (len(layers), len(born)))
            else:
                where = layers[:, None] + block.layers[at]
            slots = self.first_births[born, where] + self.places[born, self.stands[where], ordinals]
            codes[:, at] = -slots - 1
        return codes
