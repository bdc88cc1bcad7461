"""What Machines says and tabulates: records in, sentences, rows and figures out. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import plotly.graph_objects as go

from advisor import units
from advisor.elsewhere import Elsewhere
from advisor.errors import InputError
from advisor.hardware.catalogue import Entry
from advisor.hardware.choice import choose
from advisor.hardware.machine import Gpu, Machine
from advisor.locale import say
from advisor.recommendation import Recommendation
from app import charts, forms
from app.texts import DOT, machine_name, t

REFERENCES = ("Tesla T4", "GeForce RTX 4090", "A100-SXM4-80GB", "H100-SXM5-80GB")
"""Cards that are shown without being asked for: rented most, one of each size."""
STRIP_HEIGHT = 56


def summary(found: Iterable[Elsewhere], total: int, lang: str) -> str:
    """The page's sentence: how many of the catalogue's cards hold the plan."""
    verdicts = [one.memory.verdict for one in found if one.name is not None]
    known = len(verdicts) - verdicts.count("unknown")
    if len(verdicts) < total:
        key = "machines.headline.filling" if known else "machines.headline.asking"
    elif not known:
        key = "machines.headline.unknown"
    else:
        key = "machines.headline.tight" if "tight" in verdicts else "machines.headline"
    return t(
        key,
        lang,
        fits=verdicts.count("fits"),
        tight=verdicts.count("tight"),
        known=known,
        done=len(verdicts),
        total=total,
    )


def contract(recommendation: Recommendation, lang: str) -> dict[str, str]:
    """What every machine keeps: name -> value."""
    plan, data = recommendation.plan, recommendation.data
    assert plan is not None
    kept = {t("field.effective_batch_size", lang): f"{plan.effective_batch_size():,}"}
    if data is not None:
        rows = data.rows_of(plan)
        tokens = plan.tokens_per_update(rows.mean_tokens_cut(plan.max_length))
        kept[t("machines.tokens", lang)] = f"{tokens:,.0f}"
    rate = forms.format_value("learning_rate", plan.learning_rate, lang, plan)
    kept[t("field.learning_rate", lang)] = rate
    kept[t("field.lr_scheduler_type", lang)] = plan.lr_scheduler_type
    if plan.max_steps > 0:
        kept[t("field.max_steps", lang)] = f"{plan.max_steps:,}"
    else:
        kept[t("field.num_train_epochs", lang)] = f"{plan.num_train_epochs:g}"
    return kept


def title(one: Elsewhere, lang: str) -> str:
    """A card's name."""
    return t("machine.this", lang) if one.name is None else machine_name(one.machine)


def remark(one: Elsewhere, lang: str) -> str:
    """The grey line of a card: step time, precision; or why nothing is known."""
    memory, plan = one.memory, one.plan
    if memory.verdict == "unknown":
        return say(memory.assumptions[0], lang) if memory.assumptions else t("unknown", lang)
    if memory.verdict == "does_not_fit":
        over = (memory.process_bytes or 0) - (memory.capacity_bytes or 0)
        return t("machines.over", lang, over=max(over, 0))
    parts = []
    if one.time.step_seconds is not None:
        parts.append(t("machines.step", lang, step=f"{one.time.step_seconds:.2g}"))
    if plan is not None:
        parts.append(t(f"machines.precision.{precision(one)}", lang))
    return DOT.join(parts)


def precision(one: Elsewhere) -> str:
    """bf16, fp16 (with its scaler) or fp32: what the step computes in."""
    plan = one.plan
    if plan is None or not (plan.bf16 or plan.fp16):
        return "fp32"
    return "bf16" if plan.bf16 else "fp16"


def strip(one: Elsewhere) -> go.Figure:
    """The memory bar of a card: no words, its numbers stand beside it."""
    gpu = one.machine.accelerator()
    total = gpu.total_bytes if gpu is not None else one.machine.ram_total_bytes
    fig = charts.memory_bar(one.memory, total, "en")
    fig.update_layout(height=STRIP_HEIGHT, margin={"l": 0, "r": 0, "t": 0, "b": 0})
    fig.layout.annotations = ()
    fig.update_traces(text="")
    fig.update_xaxes(visible=False)
    return fig


def rows(
    entries: Iterable[Entry], found: Mapping[str | None, Elsewhere], asked: str, lang: str
) -> list[dict[str, Any]]:
    """Rows of the catalogue's table.

    Args:
        entries: of the catalogue.
        found: name -> the plan's numbers there, as far as they are known.
        asked: words that a row has to have, in name, maker or source.
        lang: of the verdicts.
    """
    words = asked.lower().split()
    result = []
    for entry in entries:
        gpu = entry.gpu
        source = source_of(entry)
        text = f"{gpu.name} {entry.maker} {source} {entry.note}".lower()
        if all(word in text for word in words):
            result.append(_row(entry, found.get(gpu.name), source, lang))
    return result


def _row(entry: Entry, one: Elsewhere | None, source: str, lang: str) -> dict[str, Any]:
    gpu = entry.gpu
    half = gpu.peak_flops.get("bfloat16") or gpu.peak_flops.get("float16")
    single = gpu.peak_flops.get("float32")
    seconds = one.time.total_seconds if one is not None else None
    verdict = one.memory.verdict if one is not None else None
    fits = verdict in ("fits", "tight")
    return {
        "name": gpu.name,
        "maker": entry.maker,
        "verdict": "" if verdict is None else t(f"verdict.{verdict}", lang).rstrip(".\u3002"),
        "peak": _scaled(one.memory.process_bytes if one else None, units.GIB),
        "minutes": seconds / 60 if seconds is not None and fits else None,
        "step": one.time.step_seconds if one is not None and fits else None,
        "usable": _scaled(gpu.total_bytes, units.GIB),
        "bandwidth": _scaled(gpu.bandwidth_bytes_per_second, 1e9),
        "half": _scaled(half, 1e12),
        "single": _scaled(single, 1e12),
        "memory": t(f"memory_kind.{gpu.memory_kind}", lang) if gpu.memory_kind else "",
        "source": source,
    }


def source_of(entry: Entry) -> str:
    """Where a row's figures were read; the 16-bit rates often stand elsewhere."""
    parts = dict.fromkeys(part for part in (entry.source, entry.tensor_source) if part)
    return "; ".join(parts)


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def gpu_facts(gpu: Gpu, machine: Machine, lang: str) -> list[str]:
    """Lines under a GPU of this machine: UUID, kind of memory, links, what it reaches."""
    lines = []
    kind = [t(f"memory_kind.{gpu.memory_kind}.long", lang)] if gpu.memory_kind else []
    if gpu.compute_capability:
        kind.append(t("machines.capability", lang, version="{}.{}".format(*gpu.compute_capability)))
    if gpu.parent_uuid:
        kind.append(t("machines.mig", lang))
    if kind:
        lines.append(DOT.join(kind))
    link = gpu.link
    if link is not None:
        parts = []
        if link.pcie_generation and link.pcie_width:
            parts.append(
                t(
                    "machines.pcie",
                    lang,
                    now=f"{link.pcie_generation}.0 x{link.pcie_width}",
                    most=f"{link.pcie_max_generation}.0 x{link.pcie_max_width}",
                )
            )
        if link.nvlinks:
            parts.append(t("machines.nvlinks", lang, count=link.nvlinks))
        names = {g.uuid: g.name if g.index is None else f"GPU {g.index}" for g in machine.gpus}
        parts += [
            t("machines.peer", lang, name=names.get(uuid, uuid), path=t(f"path.{path}", lang))
            for uuid, path in link.peers.items()
        ]
        if parts:
            lines.append(DOT.join(parts))
    if gpu.uuid:
        lines.append(gpu.uuid)
    return lines


def local_gpus(machine: Machine, lang: str) -> dict[str, str]:
    """UUID -> label of the GPUs of this machine between which there is a choice."""
    found = {}
    for gpu in machine.gpus:
        if gpu.uuid is None or gpu.vendor != "nvidia":
            continue
        try:
            choose(machine, gpu.uuid)
        except InputError:
            continue
        index = gpu.uuid[:12] if gpu.index is None else f"GPU {gpu.index}"
        found[gpu.uuid] = t("machines.local", lang, index=index, name=gpu.name, free=gpu.free_bytes)
    return found if len(found) > 1 or machine.chosen_uuid in found else {}


def processes(gpu: Gpu, lang: str) -> list[dict[str, Any]]:
    """Who holds the GPU's memory."""
    unknown = t("unknown", lang)
    return [
        {
            "pid": process.pid,
            "name": process.name or unknown,
            "user": process.user or unknown,
            "held": _scaled(process.used_bytes, units.GIB),
        }
        for process in gpu.processes or ()
    ]
