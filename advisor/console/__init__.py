"""Answers as aligned text for a terminal; bad news comes first."""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from advisor import units
from advisor.errors import AdvisorError
from advisor.hardware.machine import Gpu, Machine
from advisor.locale import Message, format_duration, render, say
from advisor.measurements import Calibration, GpuCalibration
from advisor.memory import MemoryEstimate
from advisor.recommendation import Recommendation
from advisor.review import Review
from advisor.speed import TimeEstimate


def error_line(error: AdvisorError, lang: str) -> str:
    """An error on one line."""
    return _say("error", lang, sentence=" ".join(error.sentence(lang).split()))


def probe_text(machine: Machine) -> str:
    """The facts of a machine, with what torch cannot use of it in front."""
    lines = [] if machine.torch is None or not machine.torch.problem else [machine.torch.problem]
    cpu = machine.cpu
    facts = [("machine", machine.name)]
    facts += [(f"gpu {i if g.index is None else g.index}", _gpu(g)) for i, g in _numbered(machine)]
    facts += _peers(machine)
    facts += [
        ("cpu", _joined(cpu.model, f"{_known(cpu.usable_cores)} usable cores", *cpu.flags)),
        ("ram", f"{_free(machine.ram_free_bytes, machine.ram_total_bytes)}{_limit(machine)}"),
        ("disk", f"{units.format_bytes(machine.disk_free_bytes)} free"),
        ("driver", _known(machine.driver_version)),
    ]
    if machine.cuda_visible_devices is not None:
        facts.append(("CUDA_VISIBLE_DEVICES", repr(machine.cuda_visible_devices)))
    if machine.torch is not None:
        build = machine.torch.cuda_version
        facts.append(
            ("torch", f"{machine.torch.version}, {f'CUDA {build}' if build else 'CPU build'}")
        )
    facts += [
        ("python", _known(machine.python_version)),
        ("platform", f"{_known(machine.platform)}{', WSL2' if machine.is_wsl else ''}"),
        ("trains on", _trains_on(machine)),
    ]
    return _text([*lines, *_table(facts), *(f"note: {note}" for note in machine.notes)])


def _numbered(machine: Machine) -> Iterable[tuple[int, Gpu]]:
    return enumerate(machine.gpus)


def _gpu(gpu: Gpu) -> str:
    capability = gpu.compute_capability
    cuda = gpu.vendor in (None, "nvidia")
    hidden = "hidden from CUDA" if gpu.index is None and cuda else None
    return _joined(
        gpu.name,
        gpu.uuid,
        _free(gpu.free_bytes, gpu.total_bytes),
        None if gpu.memory_kind in (None, "dedicated") else f"{gpu.memory_kind} with RAM",
        f"compute capability {capability[0]}.{capability[1]}" if capability else None,
        _link(gpu),
        _held(gpu),
        hidden if gpu.source == "measured" else None,
    )


def _peers(machine: Machine) -> list[tuple[str, str]]:
    """What each GPU reaches the others over."""
    names = {g.uuid: f"gpu {i if g.index is None else g.index}" for i, g in _numbered(machine)}
    return [
        (
            f"{names[gpu.uuid]} to",
            ", ".join(f"{names.get(uuid, uuid)}: {path}" for uuid, path in gpu.link.peers.items()),
        )
        for gpu in machine.gpus
        if gpu.link is not None and gpu.link.peers
    ]


def _link(gpu: Gpu) -> str | None:
    link = gpu.link
    if link is None:
        return None
    parts = []
    if link.pcie_generation and link.pcie_width:
        most = f" of {link.pcie_max_generation} x{link.pcie_max_width}"
        parts.append(f"PCIe {link.pcie_generation} x{link.pcie_width}{most}")
    if link.nvlinks:
        parts.append(f"{link.nvlinks} NVLinks")
    return ", ".join(parts) or None


def _held(gpu: Gpu) -> str | None:
    if not gpu.processes:
        return None
    shown = [
        f"{p.pid} {p.name or '?'} ({p.user or '?'}) {units.format_bytes(p.used_bytes)}"
        for p in gpu.processes[:5]
    ]
    more = len(gpu.processes) - len(shown)
    return f"held by {'; '.join(shown)}{f' and {more} more' if more else ''}"


def _free(free: int | None, total: int | None) -> str:
    return f"{units.format_bytes(free)} free of {units.format_bytes(total)}"


def _limit(machine: Machine) -> str:
    return " (the container's limit)" if machine.ram_limit_source == "cgroup" else ""


def _trains_on(machine: Machine) -> str:
    gpu = machine.accelerator()
    return "the CPU" if gpu is None else gpu.name


def calibration_text(found: Calibration | GpuCalibration, lang: str = "en") -> str:
    """What was measured of this machine's processor or GPU, in one line."""
    if isinstance(found, GpuCalibration):
        return _text([_gpu_calibration(found, lang)])
    tables = found.tables
    rates = {name: tables.matmul_flops_per_second(name) for name in ("single", "half")}
    return _text(
        [
            _say(
                "calibrated",
                lang,
                **{name: f"{(rate or 0) / 1e9:,.0f} GFLOP/s" for name, rate in rates.items()},
                threads=tables.num_threads,
                spread=tables.spread,
            )
        ]
    )


def _gpu_calibration(found: GpuCalibration, lang: str) -> str:
    tables = found.tables
    flops = {k: f"{v / 1e12:,.1f} TFLOP/s" for k, v in tables.flops_per_second.items()}
    return _say(
        "calibrated_gpu",
        lang,
        name=found.name,
        dtype=tables.half,
        memory=f"{tables.bytes_per_second['elementwise'] / 1e9:,.0f} GB/s",
        host=f"{found.host[0]:.2f}",
        ratio=f"{found.ratio:.2f}",
        **flops,
    )


def recommend_text(recommendation: Recommendation, lang: str = "en") -> str:
    """The verdict, then field, value and reason of every argument, then the ways out or around."""
    lines: list[str] = []
    torch = recommendation.machine.torch
    if torch is not None and torch.problem:
        lines.append(torch.problem)
    if recommendation.plan is None:
        lines.append(_say("no_plan", lang, machine=recommendation.machine.name))
    elif recommendation.memory is not None:
        lines.append(_verdict(recommendation.memory, lang))
    lines += _conflicts(recommendation, lang)
    if recommendation.time is not None:
        lines.append(_time(recommendation.time, lang))
    lines += ["", *_subject(recommendation, lang), ""]
    header = tuple(_say(name, lang) for name in ("field", "value", "reason"))
    rows = [
        (a.field, _value(a.field, a.value), render(a.reason, lang)) for a in recommendation.advice
    ]
    if rows:
        lines += _table([header, *rows])
    lines += _alternatives(recommendation, lang)
    assumptions = [
        *(recommendation.memory.assumptions if recommendation.memory else ()),
        *(recommendation.time.assumptions if recommendation.time else ()),
    ]
    if assumptions:
        lines += [
            "",
            _say("assumptions", lang),
            *(f"  {say(a, lang)}" for a in dict.fromkeys(assumptions)),
        ]
    return _text(lines)


def review_text(review: Review, lang: str = "en") -> str:
    """Findings, worst first, then the mended arguments as JSON."""
    count = len(review.findings)
    lines = [_say("review_none" if not count else "review_found", lang, count=count), ""]
    for finding in review.findings:
        found = finding.to_dict(lang)
        got = "" if finding.got is None else f" = {json.dumps(finding.got, ensure_ascii=False)}"
        severity = _say(f"severity_{finding.severity}", lang)
        lines.append(f"{severity}  {finding.field}{got}: {found['text']}")
        lines.append(f"  -> {found['do']}")
        if found["reason"]:
            lines.append("  " + _joined(found["reason"], found["reference"]))
    lines += ["", json.dumps(review.arguments, indent=2, ensure_ascii=False)]
    return _text(lines)


def _verdict(memory: MemoryEstimate, lang: str) -> str:
    low, high = memory.interval.get("process_bytes", (memory.process_bytes,) * 2)
    return _say(
        memory.verdict,
        lang,
        peak=memory.process_bytes,
        low=low,
        high=high,
        capacity=memory.capacity_bytes,
    )


def _time(time: TimeEstimate, lang: str) -> str:
    low, high = time.total_seconds_interval or (time.total_seconds,) * 2
    return _say(
        "time" if time.total_seconds is not None else "time_unknown",
        lang,
        steps=time.num_steps,
        total=time.total_seconds,
        low=low,
        high=high,
        speed=time.tokens_per_second,
    )


def _subject(recommendation: Recommendation, lang: str) -> list[str]:
    model, data = recommendation.model, recommendation.data
    rows = [
        (_say("machine", lang), recommendation.machine.name),
        (
            _say("model", lang),
            f"{model.name}, {model.architecture}, {units.format_count(model.num_parameters)}",
        ),
    ]
    if data is not None:
        rows.append((_say("data", lang), _say("rows", lang, name=data.name, rows=data.num_rows)))
        rows += [("", render(finding, lang)) for finding in data.findings]
    if data is not None and data.labels:
        pairs = list(zip(data.labels, data.label_rows, strict=True))
        counts = ", ".join(f"{name}: {count:,}" for name, count in pairs[:8])
        rows.append((_say("classes", lang), counts + (", ..." if len(pairs) > 8 else "")))
    return _table(rows)


def _conflicts(recommendation: Recommendation, lang: str) -> list[str]:
    lines = []
    for conflict in recommendation.conflicts:
        fields, reason = " + ".join(conflict.fields), render(conflict.reason, lang)
        lines.append(f"{fields}: {reason}" if fields else reason)
        lines += [
            "  " + _say("give_up", lang, field=field, gain=render(gain, lang))
            for field, gain in conflict.ways_out
        ]
    return lines


def _alternatives(recommendation: Recommendation, lang: str) -> list[str]:
    rows = [
        (
            render(a.label, lang),
            units.format_in_gib(a.memory.process_bytes),
            format_duration(a.time.total_seconds, lang),
            " ".join(f"--pin {k}={_json(v)}" for k, v in a.pins.items()),
        )
        for a in recommendation.alternatives
    ]
    return ["", _say("alternatives", lang), *(f"  {line}" for line in _table(rows))] if rows else []


def estimate_text(answer: Mapping[str, Any]) -> str:
    """The answer to an exact question: verdict, peaks with their intervals, phases, time."""
    intervals = answer.get("interval") or {}
    process = answer.get("process_bytes")
    low, high = intervals.get("process_bytes") or (process, process)
    capacity = answer.get("capacity_bytes")
    verdict = answer.get("verdict") or "unknown"
    lines = [_say(verdict, "en", peak=process, low=low, high=high, capacity=capacity), ""]
    rows = [("", "peak", "interval")]
    for name in ("allocated_bytes", "reserved_bytes", "process_bytes"):
        span = intervals.get(name)
        between = " to ".join(map(units.format_in_gib, span)) if span else units.UNKNOWN
        rows.append((name.removesuffix("_bytes"), units.format_in_gib(answer.get(name)), between))
    span = intervals.get("step_seconds")
    between = " to ".join(_seconds(s) for s in span) if span else units.UNKNOWN
    rows.append(("step", _seconds(answer.get("step_seconds")), between))
    rows.append(("tokens per second", units.format_count(answer.get("tokens_per_second")), ""))
    lines += _table(rows)
    for name, title in (
        ("phases", "allocated at the peak of each phase"),
        ("categories", "at the peak"),
    ):
        parts = [(k, units.format_in_gib(v)) for k, v in (answer.get(name) or {}).items()]
        if parts:
            lines += ["", title, *(f"  {line}" for line in _table(parts))]
    if answer.get("assumptions"):
        lines += ["", "assumptions", *(f"  {a}" for a in answer["assumptions"])]
    return _text(lines)


def _seconds(value: float | None) -> str:
    return units.UNKNOWN if value is None else f"{value:.3g} s"


def formats_text(rows: Iterable[tuple[str, str, str]]) -> str:
    """Names, file names and readers of the export formats."""
    return _text(_table(list(rows)))


def _say(message: str, lang: str, **params: Any) -> str:
    return render(Message(id=message, params=params), lang, package="advisor.console")


def _value(field: str, value: Any) -> str:
    if field == "learning_rate":
        return units.format_learning_rate(value)
    if field.endswith("_bytes"):
        return units.format_in_gib(value)
    return _json(value)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _known(value: Any) -> str:
    return units.UNKNOWN if value is None else str(value)


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned; the last one is left as it is."""
    widths = [max(map(_width, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return [
        "  ".join(
            [c + " " * (w - _width(c)) for c, w in zip(row[:-1], widths, strict=True)] + [row[-1]]
        ).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
