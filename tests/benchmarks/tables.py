"""The error table: pure functions from answers and measurements to Markdown."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FIGURES = ("allocated_bytes", "reserved_bytes", "process_bytes")
TIME = "step_seconds"
OURS = "advisor"
LEFT_OUT = "advisor, source left out"
"""Our step times with constants that no row of the source was fitted to."""
MARKERS = "<!-- bench: start -->", "<!-- bench: end -->"
TIME_MARKERS = "<!-- times: start -->", "<!-- times: end -->"
SLIDER_MARKERS = "<!-- slider: start -->", "<!-- slider: end -->"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one estimator says of one row; what it does not say is missing or None."""

    values: Mapping[str, float | None] = field(default_factory=dict)
    """Figure to bytes or seconds."""
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Figure to (low, high)."""
    verdict: str | None = None
    """fits, tight, does_not_fit, unknown or None."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured run and what every estimator says of it."""

    source: str
    method: str
    measured: Mapping[str, Any]
    answers: dict[str, Answer]


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors of one estimator over one group of rows, in percent of the measurement."""

    asked: int
    errors: tuple[float, ...]
    """Signed; one for each answered row."""
    held: int
    """Rows whose measurement lay in the interval."""
    widths: tuple[float, ...]
    """Interval widths, in percent of the answer."""

    def size(self) -> tuple[float, ...]:
        """Sizes of the errors, smallest first."""
        return tuple(sorted(map(abs, self.errors)))


def method_of(plan: Mapping[str, Any]) -> str:
    """The method with its quantisation: "full", "lora", "qlora nf4", "qlora nf4 double"."""
    quantization = plan.get("quantization")
    if not quantization:
        return plan["method"]
    kind = quantization.get("bnb_4bit_quant_type", "nf4")
    words = [plan["method"], kind if quantization.get("load_in_4bit") else "int8"]
    if quantization.get("bnb_4bit_use_double_quant"):
        words.append("double")
    return " ".join(words)


def percentile(sizes: Sequence[float], percent: int) -> float:
    """A percentile of sorted numbers: the smallest that so many percent do not exceed."""
    return sizes[max(-(-percent * len(sizes) // 100) - 1, 0)]


def measure(rows: Sequence[Row], estimator: str, figure: str) -> Errors:
    """Errors over the rows where the figure was measured."""
    asked, held, errors, widths = 0, 0, [], []
    for row in rows:
        want = row.measured.get(figure)
        if want is None:
            continue
        asked += 1
        answer = row.answers.get(estimator, Answer())
        got = answer.values.get(figure)
        if got is None:
            continue
        errors.append(100 * (got / want - 1))
        if figure in answer.intervals:
            low, high = answer.intervals[figure]
            held += low <= want <= high
            widths.append(100 * (high - low) / got)
    return Errors(asked=asked, errors=tuple(errors), held=held, widths=tuple(widths))


def fitted(measured: Mapping[str, Any]) -> bool | None:
    """Whether a measured run fitted; None where that was not recorded."""
    return {"fits": True, "oom": False, "does_not_fit": False}.get(measured.get("verdict") or "")


def verdicts(rows: Sequence[Row], estimator: str) -> tuple[int, int, int]:
    """(right, answered, asked): "fits" and "tight" say that it fits."""
    right = answered = asked = 0
    for row in rows:
        want = fitted(row.measured)
        if want is None:
            continue
        asked += 1
        said = row.answers.get(estimator, Answer()).verdict
        if said in ("fits", "tight", "does_not_fit"):
            answered += 1
            right += (said != "does_not_fit") == want
    return right, answered, asked


def table(rows: Sequence[Row], others: Sequence[str]) -> str:
    """One Markdown table over all rows; the other estimators stand in columns of their own."""
    head = ["measured", "method", "figure", "answered", "median", "p95", "worst under"]
    head += ["worst over", "in interval", "its width", *others]
    lines = [_line(head), _line(["---"] * len(head))]
    for source, method in dict.fromkeys((row.source, row.method) for row in rows):
        group = [row for row in rows if (row.source, row.method) == (source, method)]
        for figure in FIGURES:
            ours = measure(group, OURS, figure)
            if ours.asked:
                beside = [_beside(measure(group, other, figure)) for other in others]
                name = figure.removesuffix("_bytes")
                lines.append(_line([source, method, name, *_ours(ours), *beside]))
        right, answered, asked = verdicts(group, OURS)
        if asked:
            share = f"**{right} of {asked} right**" if answered else "no answer"
            beside = [_right(*verdicts(group, other)) for other in others]
            cells = [source, method, "verdict", f"{answered} of {asked}", share]
            lines.append(_line([*cells, "", "", "", "", "", *beside]))
    return "\n".join(lines)


def times(rows: Sequence[Row]) -> str:
    """One Markdown table of our step times, by source and method, and over all rows."""
    rows = [row for row in rows if row.measured.get(TIME) is not None]
    head = ["measured", "method", "answered", "median", "p90", "worst", "in range", "its width"]
    head += ["source left out: median", "p90"]
    lines = [_line(head), _line(["---"] * len(head))]
    keys = dict.fromkeys((row.source, row.method) for row in rows)
    groups = {key: [r for r in rows if (r.source, r.method) == key] for key in keys}
    for (source, method), group in {**groups, ("all", ""): rows}.items():
        found = measure(group, OURS, TIME)
        cells = [source, method, f"{len(found.errors)} of {found.asked}"]
        if found.errors:
            size = found.size()
            cells += [f"**{statistics.median(size):.1f} %**", f"{percentile(size, 90):.1f} %"]
            cells += [f"{max(found.errors, key=abs):+.1f} %"]
            cells += [f"{found.held} of {len(found.widths)}"]
            cells += [f"{statistics.median(found.widths):.0f} %"]
            outside = measure(group, LEFT_OUT, TIME).size()
            if outside:
                cells += [f"{statistics.median(outside):.1f} %"]
                cells += [f"{percentile(outside, 90):.1f} %"]
        lines.append(_line([*cells, *[""] * (len(head) - len(cells))]))
    return "\n".join(lines)


def splice(text: str, new: str, markers: tuple[str, str] = MARKERS) -> str:
    """`text` with what stands between the two markers replaced.

    Raises:
        ValueError: a marker is missing.
    """
    start, end = markers
    if start not in text or end not in text:
        raise ValueError(f"The file needs the lines {start} and {end}; add them.")
    before, rest = text.split(start, 1)
    _, after = rest.split(end, 1)
    return f"{before}{start}\n{new}\n{end}{after}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ours(found: Errors) -> list[str]:
    answered = f"{len(found.errors)} of {found.asked}"
    if not found.errors:
        return [answered, "", "", "", "", "", ""]
    size = found.size()
    cells = [answered, f"**{statistics.median(size):.2f} %**", f"{percentile(size, 95):.2f} %"]
    cells += [_worst(found.errors, min), _worst(found.errors, max)]
    if not found.widths:
        return [*cells, "", ""]
    return [
        *cells,
        f"{found.held} of {len(found.widths)}",
        f"{statistics.median(found.widths):.1f} %",
    ]


def _worst(errors: Sequence[float], pick: Callable[[Sequence[float]], float]) -> str:
    worst = pick(errors)
    is_under = pick is min
    return f"{worst:+.2f} %" if (worst < 0) == is_under and worst else "none"


def _beside(found: Errors) -> str:
    """Median size and the worst error of another estimator, and how many where not all."""
    if not found.errors:
        return ""
    worst = max(found.errors, key=abs)
    text = f"{statistics.median(found.size()):.1f} % ({worst:+.1f} %)"
    return text if len(found.errors) == found.asked else f"{text}, {len(found.errors)} answered"


def _right(right: int, answered: int, asked: int) -> str:
    if not answered:
        return ""
    return f"{right} of {asked} right" + (f", {answered} answered" if answered < asked else "")
