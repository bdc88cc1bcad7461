"""What the pages say: whole sentences from the catalogues of `app.locale`. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from advisor import units
from advisor.data import DataDescription
from advisor.hardware.machine import Machine
from advisor.locale import Message, render
from advisor.memory import CATEGORIES, MemoryEstimate
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.recommendation import Recommendation
from advisor.speed import TimeEstimate

PACKAGE = "app.locale"
DOT = " \u00b7 "
"""A middle dot between facts."""
TIMES = " \u00d7 "
"""A multiplication sign between counts."""


def t(message_id: str, lang: str, **params: Any) -> str:
    """The text `message_id` of the pages' own catalogue in `lang`."""
    return render(Message(id=message_id, params=params), lang, PACKAGE)


def escape(text: str) -> str:
    """Text that came from a file or a user, made safe for Markdown: shown letter for letter."""
    for char in "\\`*_[]<>$:#~|":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.split())


def upper_first(sentence: str) -> str:
    """The sentence with a capital letter in front: reasons are stored in lower case."""
    return sentence[:1].upper() + sentence[1:]


def full_stop(sentence: str, lang: str) -> str:
    """The sentence with its final stop."""
    stop = t("sentence.stop", lang)
    return sentence if sentence.endswith((stop, ".", "?", "!")) else sentence + stop


def machine_name(machine: Machine) -> str:
    """The machine's name for a reader, with a real multiplication sign."""
    return machine.name.replace(" x ", TIMES)


def device_name(machine: Machine, plan: TrainingPlan | None = None) -> str:
    """What trains: the GPU, with a count where there are several, or the machine by its name."""
    gpu = machine.accelerator()
    if gpu is None or (plan is not None and plan.use_cpu):
        return machine_name(machine)
    count = machine.num_devices() if plan is None else plan.devices
    return f"{count}{TIMES}{gpu.name}" if count > 1 else gpu.name


def headline(
    recommendation: Recommendation, lang: str, capacity: Mapping[str, int | None] | None = None
) -> str:
    """The one sentence of Plan: an answer about the machine, with numbers.

    Args:
        recommendation: the answer to the current question.
        lang: en or zh.
        capacity: method -> parameters of the largest model the machine trains, where that is known.
    """
    machine, plan, memory = recommendation.machine, recommendation.plan, recommendation.memory
    if capacity and capacity.get("full") and capacity.get("lora"):
        here = "this" if machine.source == "probe" else "that"
        return t(
            f"headline.capacity.{here}",
            lang,
            name=machine_name(machine),
            full=capacity["full"],
            lora=capacity["lora"],
        )
    who = t("machine.this", lang) if machine.source == "probe" else machine_name(machine)
    model = recommendation.model.name
    if plan is None or memory is None:
        if memory is not None and not any(c.ways_out for c in recommendation.conflicts):
            peak, free = memory.process_bytes, memory.capacity_bytes
            return t("headline.too_small", lang, who=who, model=model, peak=peak, free=free)
        return t("headline.conflict", lang, who=who, model=model)
    params = {
        "who": who,
        "model": model,
        "peak": memory.process_bytes,
        "free": memory.capacity_bytes,
        "time": recommendation.time.total_seconds if recommendation.time else None,
    }
    if memory.verdict == "does_not_fit":
        return t("headline.does_not_fit", lang, **params)
    if memory.verdict == "unknown":
        return t("headline.unknown", lang, **params)
    kind = "cpu" if plan.use_cpu or machine.accelerator() is None else "gpu"
    return t(f"headline.{kind}", lang, cores=machine.cpu.usable_cores, **params)


def machine_caption(machine: Machine, lang: str) -> str:
    """The facts under Plan's sentence: what was probed or read, and the versions that matter."""
    parts = [machine_name(machine)]
    gpu = machine.accelerator()
    if gpu is not None:
        parts.append(
            t("machine.of_total", lang, free=machine.capacity_bytes(), total=gpu.total_bytes)
        )
        if gpu.bf16_native is not None:
            parts.append(t("machine.bf16" if gpu.bf16_native else "machine.no_bf16", lang))
    if machine.source == "probe" and (gpu is None or gpu.memory_kind != "unified"):
        parts.append(  # a unified pool is the RAM: it is not said twice
            t("machine.ram", lang, free=machine.ram_free_bytes, total=machine.ram_total_bytes)
        )
    if machine.driver_version:
        parts.append(t("machine.driver", lang, version=machine.driver_version))
    if machine.torch is not None:
        parts.append(f"torch {machine.torch.version}")
    if machine.source == "catalogue":
        parts.append(t("machine.catalogue", lang))
    return DOT.join(parts)


def machine_facts(machine: Machine, lang: str) -> tuple[str, str]:
    """Two lines of the machine card."""
    gpu = machine.accelerator()
    if machine.source == "catalogue":
        total = gpu.total_bytes if gpu else None
        return t("machine.usable", lang, total=total), t("machine.catalogue.long", lang)
    if gpu is not None:
        first = t("machine.gpu_free", lang, free=gpu.free_bytes, used=gpu.used_bytes)
    elif machine.torch is not None and machine.torch.problem:
        first = machine.torch.problem
    else:
        first = t("machine.no_gpu", lang)
    second = t(
        "machine.host",
        lang,
        cores=machine.cpu.usable_cores,
        ram=machine.ram_free_bytes,
        disk=machine.disk_free_bytes,
    )
    return first, second


def model_facts(model: ModelDescription, lang: str) -> tuple[str, str]:
    """Two lines of the model card."""
    first = [t("model.parameters", lang, count=model.num_parameters)]
    if model.num_trainable_layers and model.hidden_size:
        first.append(
            t("model.layers", lang, layers=model.num_trainable_layers, hidden=model.hidden_size)
        )
    if model.vocab_size:
        first.append(t("model.vocabulary", lang, size=model.vocab_size))
    second = [
        t(
            "model.weights",
            lang,
            size=model.weights_bytes,
            dtype=model.checkpoint_dtype or t("unknown", lang),
        )
        if model.has_weights
        else t("model.no_weights", lang)
    ]
    if not model.has_tokenizer:
        second.append(t("model.no_tokenizer", lang))
    if model.max_position_embeddings:
        second.append(t("model.context", lang, tokens=model.max_position_embeddings))
    return DOT.join(first), DOT.join(second)


def data_facts(data: DataDescription, max_length: int | None, lang: str) -> tuple[str, str]:
    """Two lines of the data card; `max_length` is where rows are cut."""
    first = t(
        "data.lengths", lang, mean=data.mean_tokens, p99=data.p99_tokens, longest=data.max_tokens
    )
    second = []
    if max_length is not None:
        share = data.share_cut(max_length)
        key = "data.cut" if share else "data.uncut"
        second.append(t(key, lang, share=share, length=max_length))
    if not data.rows_are_counted:
        second.append(t("data.estimated_rows", lang, rows=data.num_rows))
    second.append(t("data.eval_rows", lang, rows=data.num_eval_rows))
    if data.labels:
        second.append(t("data.classes", lang, count=len(data.labels)))
    if data.length_source == "bytes":
        second.append(t("data.from_bytes", lang))
    elif data.num_measured_rows < data.num_rows + data.num_eval_rows:
        second.append(t("data.sampled", lang, rows=data.num_measured_rows))
    return first, DOT.join(second)


def class_counts(data: DataDescription, lang: str, most: int = 8) -> str:
    """The classes with their training rows, in the order of their ids."""
    pairs = zip(data.labels[:most], data.label_rows, strict=False)
    shown = [f"{name}: {units.format_count(rows)}" for name, rows in pairs]
    if len(data.labels) > most:
        shown.append(t("data.classes.more", lang, count=len(data.labels) - most))
    return DOT.join(shown)


def half_width(memory: MemoryEstimate) -> int | None:
    """Half the interval of the process' peak in bytes: the number after the plus-minus sign."""
    interval = memory.interval.get("process_bytes")
    return None if interval is None else round((interval[1] - interval[0]) / 2)


def category_list(memory: MemoryEstimate, lang: str) -> str:
    """The numbers of the memory bar as text, bottom to top."""
    return DOT.join(
        f"{t(f'category.{name}', lang).lower()} {units.format_bytes(memory.categories[name])}"
        for name in CATEGORIES
        if memory.categories.get(name)
    )


def verdict_sentence(
    plan: TrainingPlan, memory: MemoryEstimate, time: TimeEstimate | None, lang: str
) -> str:
    """The sentence after the verdict's word."""
    peak, free = memory.process_bytes, memory.capacity_bytes
    total = time.total_seconds if time else None
    if memory.verdict == "does_not_fit" and peak is not None and free is not None:
        return t("verdict.does_not_fit.text", lang, peak=peak, over=max(peak - free, 0))
    if memory.verdict == "tight":
        return t("verdict.tight.text", lang, peak=peak, half=half_width(memory), free=free)
    if memory.verdict == "unknown":
        return t("verdict.unknown.text", lang, peak=peak, free=free)
    if plan.max_steps > 0:
        return t("verdict.fits.steps", lang, peak=peak, free=free, time=total, steps=plan.max_steps)
    epochs = plan.num_train_epochs
    one = ".one" if epochs == 1 else ""
    return t(f"verdict.fits.epochs{one}", lang, peak=peak, free=free, time=total, epochs=epochs)


def verdict_detail(memory: MemoryEstimate, time: TimeEstimate | None, lang: str) -> str:
    """The grey line under the verdict: what is left, and what the number rests on."""
    parts = []
    if (
        memory.process_bytes is not None
        and memory.capacity_bytes is not None
        and memory.verdict in ("fits", "tight")
    ):
        spare = memory.capacity_bytes - memory.process_bytes
        key = "verdict.spare" if spare >= 0 else "verdict.returned"
        parts.append(t(key, lang, spare=spare))
    half = half_width(memory)
    parts.append(
        t("verdict.interval", lang, half=half)
        if half is not None
        else t("verdict.no_interval", lang)
    )
    if time is not None and time.total_seconds_interval is not None:
        low, high = time.total_seconds_interval
        parts.append(t("verdict.time_interval", lang, low=low, high=high))
    return (" " if lang == "en" else "").join(parts)


def contract(recommendation: Recommendation, lang: str) -> str:
    """What every what-if, retry and resume keeps."""
    plan, data = recommendation.plan, recommendation.data
    assert plan is not None
    params: dict[str, Any] = {
        "batch": plan.effective_batch_size(),
        "schedule": plan.lr_scheduler_type,
        "rate": plan.learning_rate,
    }
    if data is None:
        return t("contract.no_data", lang, **params)
    tokens = plan.tokens_per_update(data.rows_of(plan).mean_tokens_cut(plan.max_length))
    return t("contract", lang, tokens=tokens, **params)


def listing(items: Iterable[str], lang: str) -> str:
    """Names as a list in a sentence."""
    *first, last = items
    return t("sentence.comma", lang).join(first) + (t("sentence.and", lang) if first else "") + last
