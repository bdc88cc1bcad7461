"""A few small traces become a Profile, checked against one more before it is believed.

Depth: a trace of DEPTH layers is cut into global segments and sweeps over the layers (load,
forward, backward, optimizer). The middle layers must be equal up to the shift of one layer; then
any number of them can be repeated. Shape: three shapes determine sizes that separate into a factor
of the batch and a factor of the length; six determine every polynomial of BASIS. The last trace has
one layer more and another shape: the profile must reproduce it event for event.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from advisor.errors import SimulationError
from advisor.simulate.profile import BASIS, Kernels, Profile, Rule
from advisor.simulate.trace import GLOBAL, MARK, WORKSPACE, Kernel, Trace

DEPTH = 4
UNIT = 64
"""Lengths of the traces are multiples of it, where the model takes rows that long."""
SHAPES = ((4, 4), (5, 4), (4, 5))
"""(batch, length in units)."""
MORE_SHAPES = ((5, 5), (6, 6), (7, 7))
CHECK_SHAPE = (6, 3)
LONGEST = 7


class NotReplicableError(Exception):
    """The trace has no layers that repeat, or its order of events depends on the shape."""


Record = Callable[[int, int, int], Trace]
"""(depth, batch, length) -> Trace."""


def fit(
    record: Record, *, depth: int, replicate: bool, single_row: bool, context: int | None = None
) -> Profile:
    """Make the profile of a structure.

    Args:
        record: records a trace.
        depth: repeated layers of the real model.
        replicate: repeat layers; False traces all of them.
        single_row: every batch has one row.
        context: tokens of the longest row that the model takes; None: of any length.

    Raises:
        SimulationError: the order of events depends on batch or length.
    """
    traced = DEPTH if replicate and depth > DEPTH else depth
    rows = _Rows(single_row, _unit(context))
    try:
        return _fit(record, traced, traced < depth, rows)
    except NotReplicableError as error:
        if traced == depth:
            raise SimulationError("fit.shape_dependent", reason=error) from error
        note = f"layers do not repeat ({error}): all {depth} were traced"
        try:
            profile = _fit(record, depth, False, rows)
        except NotReplicableError as again:
            raise SimulationError("fit.shape_dependent", reason=again) from again
        return _with_note(profile, note)


def _with_note(profile: Profile, note: str) -> Profile:
    return dataclasses.replace(profile, notes=(*profile.notes, note))


def _unit(context: int | None) -> int:
    """Masks of multiples of 16 are not padded on CUDA: as long as that is possible."""
    if context is None or context >= LONGEST * UNIT:
        return UNIT
    most = context // LONGEST
    return most // 16 * 16 or max(most, 1)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """How the shapes of the traces become rows and tokens."""

    single: bool
    unit: int

    def shape(self, batch: int, units: int) -> tuple[int, int]:
        return (1 if self.single else batch), units * self.unit


def _fit(record: Record, traced: int, replicated: bool, rows: _Rows) -> Profile:
    shape = rows.shape
    shapes = [shape(*s) for s in SHAPES]
    if rows.single:
        shapes = [shapes[0], shapes[2]]
    traces = [record(traced, *s) for s in shapes]
    check_depth = traced + 1 if replicated else traced
    check_shape = shape(*CHECK_SHAPE)
    check = record(check_depth, *check_shape)
    deeper = check if replicated else None
    try:
        profile = _build(traces, shapes, traced, deeper, check_shape)
        _verify(profile, check, check_depth, check_shape)
    except _NotSeparableError:
        more = [shape(*s) for s in (MORE_SHAPES[1:] if rows.single else MORE_SHAPES)]
        traces += [record(traced, *s) for s in more]
        try:
            profile = _build(traces, shapes + more, traced, deeper, check_shape)
            _verify(profile, check, check_depth, check_shape)
        except _NotSeparableError as error:
            raise NotReplicableError("a size is no polynomial of batch and length") from error
    return profile


def _build(
    traces: list[Trace],
    shapes: list[tuple[int, int]],
    traced: int,
    check: Trace | None,
    check_shape: tuple[int, int],
) -> Profile:
    """The profile of some traces; `check` is the deeper one where layers repeat, else None."""
    first, replicated = traces[0], check is not None
    for other in traces[1:]:
        if other.events != first.events:
            raise NotReplicableError("traces of two shapes differ")
    sizes = np.array([[a.num_bytes for a in t.allocations] for t in traces], dtype=float)
    rules = _rules(traces, shapes)
    sizes[:, list(rules)] = 0
    coefficients = solve_polynomials(sizes, shapes)
    segments = _segments(first, traced) if replicated else [["global", _whole(first)]]
    slope = np.zeros(len(first.allocations), dtype=np.int64)
    if check is not None:
        _check_middle(segments, traced)
        slope, rules = _slopes((first, check), check_shape, segments, coefficients, rules)
    return Profile(
        traced_depth=traced,
        replicated=replicated,
        coefficients=coefficients,
        slope=slope,
        categories=np.array([a.category for a in first.allocations], dtype=np.int8),
        streams=np.array([a.stream for a in first.allocations], dtype=np.int8),
        rules=rules,
        segments=segments,
        kernels=_kernels(traces, shapes, traced, check),
    )


# -- sizes ------------------------------------------------------------------------------------


class _NotSeparableError(Exception):
    """Three shapes do not determine a size; more are needed."""


def solve_polynomials(values: np.ndarray, shapes: list[tuple[int, int]]) -> np.ndarray:
    """Coefficients over BASIS of each column.

    Args:
        values: (shapes, columns).
        shapes: (batch, length) of each row; 2 or 3 rows assume separable terms, more are solved
        exactly.

    Raises:
        _NotSeparableError: too few shapes for one of the columns.
    """
    if len(shapes) > 3:
        return _solve_all(values, shapes, all(b == 1 for b, _ in shapes))
    result, found = _separate(values, shapes)
    if not found.all():
        raise _NotSeparableError
    return result


def _separate(values: np.ndarray, shapes: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of each column, and whether its terms separate (else they are zeros)."""
    single = all(b == 1 for b, _ in shapes)
    (b0, s0), (b1, _), (_, s1) = (
        (shapes[0], shapes[0], shapes[1]) if single else (shapes[0], shapes[1], shapes[2])
    )
    base, by_batch, by_length = values[0], values[0 if single else 1], values[-1]
    length_power = np.full(base.shape, -1)
    for j in (0, 1, 2):
        length_power[np.isclose(by_length * s0**j, base * s1**j, rtol=1e-12)] = j
    batch_power = np.zeros(base.shape, dtype=int)
    if not single:
        batch_power = np.full(base.shape, -1)
        for i in (0, 1):
            batch_power[np.isclose(by_batch * b0**i, base * b1**i, rtol=1e-12)] = i
    result = np.zeros((values.shape[1], len(BASIS)))
    for i, j in itertools.product((-1, 0, 1), (-1, 0, 1, 2)):
        at = (batch_power == i) & (length_power == j)
        if i >= 0 and j >= 0:
            result[at, BASIS.index((i, j))] = base[at] / (b0**i * s0**j)
        elif i >= 0:  # constant and linear in the length
            linear = (by_length[at] - base[at]) / (s1 - s0)
            result[at, BASIS.index((i, 1))] = linear / b0**i
            result[at, BASIS.index((i, 0))] = (base[at] - linear * s0) / b0**i
        elif j >= 0 and not single:  # constant and linear in the batch
            linear = (by_batch[at] - base[at]) / (b1 - b0)
            result[at, BASIS.index((1, j))] = linear / s0**j
            result[at, BASIS.index((0, j))] = (base[at] - linear * b0) / s0**j
    return result, (length_power >= 0) | (batch_power >= 0)


def _solve_all(values: np.ndarray, shapes: list[tuple[int, int]], single: bool) -> np.ndarray:
    used = [k for k, (i, _) in enumerate(BASIS) if i == 0] if single else list(range(len(BASIS)))
    matrix = np.array(
        [[float(b ** BASIS[k][0] * s ** BASIS[k][1]) for k in used] for b, s in shapes]
    )
    solved, *_ = np.linalg.lstsq(matrix, values, rcond=None)
    result = np.zeros((values.shape[1], len(BASIS)))
    result[:, used] = solved.T
    return result


def _rules(traces: list[Trace], shapes: list[tuple[int, int]]) -> dict[int, Rule]:
    result = {}
    for slot, allocation in enumerate(traces[0].allocations):
        if allocation.rule is None:
            continue
        name, index, _ = allocation.rule
        arguments = np.array([t.allocations[slot].rule[2] for t in traces], dtype=float)  # type: ignore[index]
        coefficients = solve_polynomials(arguments, shapes)
        result[slot] = Rule(
            name=name, index=index, arguments=coefficients, slope=np.zeros(len(coefficients))
        )
    return result


# -- segments ---------------------------------------------------------------------------------


def _whole(trace: Trace) -> list[list[Any]]:
    return [
        ["m", trace.marks[e - MARK]] if e >= MARK else ["b", e] if e >= 0 else ["g", -e - 1]
        for e in trace.events
    ]


def _runs(trace: Trace) -> list[tuple[int, int, int, bool]]:
    """(layer, start, end, is mark) of the stretches in one layer; a cut ends a stretch."""
    runs = []
    i, n = 0, len(trace.events)
    while i < n:
        is_mark, j = trace.events[i] >= MARK, i + 1
        while (
            j < n
            and trace.layers[j] == trace.layers[i]
            and (trace.events[j] >= MARK) == is_mark
            and j not in trace.cuts
        ):
            j += 1
        runs.append((trace.layers[i], i, j, is_mark))
        i = j
    return runs


def _sweeps(trace: Trace, depth: int) -> list[tuple[str, Any]]:
    """("global", (start, end)) and ("sweep", [(layer, start, end), ...]) in order of execution.

    Global events between two layers of one sweep belong to the layer before them.
    """
    runs, items, k = _runs(trace), [], 0
    while k < len(runs):
        layer, start, end, is_mark = runs[k]
        k += 1
        if layer == GLOBAL or is_mark:
            if items and items[-1][0] == "global":
                items[-1] = ("global", (items[-1][1][0], end))
            else:
                items.append(("global", (start, end)))
            continue
        blocks, step = [[layer, start, end]], 0

        while k < len(runs) and not runs[k][3]:
            layer, start, end, _ = runs[k]
            complete = step != 0 and len(blocks) == depth
            if layer == GLOBAL:
                after = runs[k + 1] if k + 1 < len(runs) else None
                if complete or after is None or after[3]:
                    break
                if after[0] != blocks[-1][0] and not (
                    after[0] != GLOBAL and _follows(after[0], blocks, step)
                ):
                    break
                blocks[-1][2] = end
            elif layer == blocks[-1][0]:
                if complete and start in trace.cuts:
                    break
                blocks[-1][2] = end
            elif _follows(layer, blocks, step):
                step = layer - blocks[-1][0]
                blocks.append([layer, start, end])
            else:
                break
            k += 1
        visited = [b[0] for b in blocks]
        if visited not in (list(range(depth)), list(range(depth - 1, -1, -1))):
            raise NotReplicableError(f"a pass over layers {visited} only")
        items.append(("sweep", blocks))
    return items


def _follows(layer: int, blocks: list[list[int]], step: int) -> bool:
    """Whether `layer` is the next one of a sweep that goes by `step` (0: not known yet)."""
    return abs(layer - blocks[-1][0]) == 1 and step in (0, layer - blocks[-1][0])


def _segments(trace: Trace, depth: int) -> list[Any]:
    """The trace as Profile.segments; see unroll.py for the codes."""
    home: dict[int, tuple[Any, ...]] = {}  # slot -> ("g", slot) or ("l", segment, layer, ordinal)
    segments: list[Any] = []
    for number, (kind, content) in enumerate(_sweeps(trace, depth)):
        if kind == "global":
            events: list[list[Any]] = []
            for e in trace.events[content[0] : content[1]]:
                if e >= MARK:
                    events.append(["m", trace.marks[e - MARK]])
                elif e >= 0:
                    home[e] = ("g", e)
                    events.append(["b", e])
                else:
                    events.append(list(home[-e - 1]))
            segments.append(["global", events])
            continue
        templates: list[list[Any]] = [[] for _ in range(depth)]
        for layer, start, end in content:
            ordinal = 0
            for e in trace.events[start:end]:
                if e >= 0 and trace.allocations[e].op.startswith(WORKSPACE):
                    home[e] = (
                        "g",
                        e,
                    )  # the process', never freed: no part of the layer it fell into
                    templates[layer].append(["w", e])
                    continue
                if e >= 0:
                    home[e] = ("l", number, layer, ordinal)
                    ordinal += 1
                    templates[layer].append(["b", e])
                    continue
                where = home[-e - 1]
                if where[0] == "l" and {layer, where[2]} == {0, depth - 1} and depth > 2:
                    # between the ends of two sweeps: not a distance, but that very layer
                    where = ("a", *where[1:])
                elif where[0] == "l":
                    where = ("l", where[1], where[2] - layer, where[3])
                templates[layer].append(list(where))
        segments.append(["sweep", content[0][0] == 0, templates])
    return segments


def _check_middle(segments: list[Any], depth: int) -> None:
    """The layers between the first and the last must do the same, one layer further on."""

    def shape(events: list[Any]) -> list[Any]:
        return [["b"] if e[0] == "b" else e for e in events]

    for number, segment in enumerate(segments):
        if segment[0] == "sweep":
            middle = [shape(t) for t in segment[2][1 : depth - 1]]
            if any(m != middle[0] for m in middle[1:]):
                raise NotReplicableError(f"layers differ in sweep {number}")


def _slopes(
    traces: tuple[Trace, Trace],
    check_shape: tuple[int, int],
    segments: list[Any],
    coefficients: np.ndarray,
    rules: dict[int, Rule],
) -> tuple[np.ndarray, dict[int, Rule]]:
    """Growth of global allocations with depth, from a trace with one layer more (check_shape)."""
    trace, deeper = traces
    slope = np.zeros(len(trace.allocations), dtype=np.int64)
    rules = dict(rules)
    mine, theirs = _global_births(segments), _global_births(_segments(deeper, DEPTH + 1))
    if len(mine) != len(theirs):
        raise NotReplicableError("global allocations differ between two depths")
    batch, length = check_shape
    basis = np.array([float(batch**i * length**j) for i, j in BASIS])
    for a, b in zip(mine, theirs, strict=True):
        other = deeper.allocations[b]
        if a in rules and other.rule is not None:
            r = rules[a]
            growth = np.rint(np.array(other.rule[2]) - r.arguments @ basis)
            rules[a] = Rule(name=r.name, index=r.index, arguments=r.arguments, slope=growth)
        else:
            slope[a] = other.num_bytes - round(float(coefficients[a] @ basis))
    return slope, rules


def _global_births(segments: list[Any]) -> list[int]:
    return [e[1] for s in segments if s[0] == "global" for e in s[1] if e[0] == "b"]


def _verify(profile: Profile, check: Trace, depth: int, shape: tuple[int, int]) -> None:
    """The profile must reproduce the check trace event for event."""
    program = profile.program(depth)
    sizes = profile.sizes(*shape, depth)[program.template]
    births = [e for e in check.events if 0 <= e < MARK]
    real = np.array([check.allocations[e].num_bytes for e in births])
    order = {e: i for i, e in enumerate(births)}
    events = [order[e] if e >= 0 else -(order[-e - 1] + 1) for e in check.events if e < MARK]
    if program.events.tolist() != events:
        raise NotReplicableError("the unrolled program is not the deeper trace")
    if not np.array_equal(sizes, real):
        raise _NotSeparableError


# -- kernels ----------------------------------------------------------------------------------


def _kernels(
    traces: list[Trace], shapes: list[tuple[int, int]], depth: int, check: Trace | None
) -> Kernels:
    """Rows of the step's operators; the repeated layers stand once."""
    replicated = check is not None
    tables = [_merge(t.kernels) for t in traces]
    first = tables[0]
    if any(len(t) != len(first) for t in tables):
        raise NotReplicableError("operators differ between shapes")
    keep = [i for i, k in enumerate(first) if not (replicated and 2 <= k.layer < depth - 2)]
    rows = [first[i] for i in keep]
    values = {
        name: _solve_loosely(
            np.array([[getattr(t[i], name) for i in keep] for t in tables], float), shapes
        )
        for name in ("flops", "num_bytes")
    }
    shaped = [n for n, k in enumerate(rows) if any(k.dims)]
    dims = np.array([[t[keep[n]].dims for n in shaped] for t in tables], float)
    growth = 0 if check is None else check.num_trained - traces[0].num_trained
    per_layer = np.zeros((len(rows), 3))
    if check is not None:
        deeper = {(k.kind, k.half, k.operator): k for k in _merge(check.kernels) if k.phase == 2}
        for n, row in enumerate(rows):
            if row.phase == 2 and (row.kind, row.half, row.operator) in deeper:
                other = deeper[row.kind, row.half, row.operator]
                per_layer[n] = (
                    other.num_launches - row.num_launches,
                    other.flops - row.flops,
                    other.num_bytes - row.num_bytes,
                )
    return Kernels(
        phase=np.array([k.phase for k in rows], dtype=np.int8),
        kind=np.array([k.kind for k in rows], dtype=np.int8),
        half=np.array([k.half for k in rows], dtype=bool),
        repeated=np.array([replicated and k.layer == 1 for k in rows], dtype=bool),
        num_launches=np.array([k.num_launches for k in rows], dtype=np.int64),
        num_views=np.array([k.num_views for k in rows], dtype=np.int64),
        by_python=np.array([k.by_python for k in rows], dtype=bool),
        shaped=np.array(shaped, dtype=np.int32),
        dims=_solve_loosely(dims.reshape(len(tables), -1), shapes).reshape(-1, 4, len(BASIS)),
        operator=np.array([k.operator for k in rows], dtype=np.str_),
        num_trained=np.array([traces[0].num_trained, growth], dtype=np.int64),
        flops=values["flops"],
        num_bytes=values["num_bytes"],
        per_layer=per_layer,
    )


def _merge(kernels: list[Kernel]) -> list[Kernel]:
    """The optimizer's operators summed by kind, after the others.

    Their number grows with depth, and their cost does not depend on the shape.
    """
    result = []
    merged: dict[tuple[int, int, bool, int, str], Kernel] = {}
    for k in kernels:
        if k.phase != 2:
            result.append(k)
            continue
        key = (k.phase, k.kind, k.half, k.layer, k.operator)
        total = merged.setdefault(
            key, Kernel(k.phase, k.kind, k.layer, k.half, 0, 0, 0, operator=k.operator)
        )
        total.num_launches += k.num_launches
        total.num_views += k.num_views
        total.flops += k.flops
        total.num_bytes += k.num_bytes
    return result + [merged[key] for key in sorted(merged)]


def _solve_loosely(values: np.ndarray, shapes: list[tuple[int, int]]) -> np.ndarray:
    """solve_polynomials, with a line in the number of tokens where a column does not separate."""
    if len(shapes) > 3:
        columns = [solve_polynomials(column[:, None], shapes) for column in values.T]
        return np.array(columns).reshape(-1, len(BASIS))
    result, found = _separate(values, shapes)
    tokens = np.array([b * s for b, s in shapes], float)
    for column in np.flatnonzero(~found):
        slope, constant = np.polyfit(tokens, values[:, column], 1)
        result[column, BASIS.index((1, 1))], result[column, BASIS.index((0, 0))] = slope, constant
    return result
