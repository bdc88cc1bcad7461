"""The catalogue of accelerators: names to data sheets. Reads accelerators.csv, once.

A name without its vendor words is split into model words ("a100"; "rtx", "4060", "ti"), a memory
size ("80gb") and a form factor ("sxm", "pcie"). How a name is resolved:

1. The same letters and digits: that row.
2. The same model words, and the memory size and form factor where they are given.
3. The same again without "rtx", "gtx" and "rx", so that "4090" is enough.
4. The model words are some of a row's, so that "A6000" is enough.

The first of these that finds rows decides. Several rows are a match only when they are one model
with one memory size and differ in nothing but the form factor; the SXM board is taken then, as the
common one. "V100" (16 or 32 GB) is therefore refused, "A100 80GB" is not.
"""

import csv
import difflib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources

from advisor.errors import InputError, UnknownNameError
from advisor.hardware.machine import Gpu, Machine, MemoryKind, Vendor
from advisor.units import GIB

MAX_COUNT = 4096
"""Most accelerators a machine of the catalogue can have."""

_VENDORS = frozenset({"nvidia", "amd", "intel", "apple", "aws", "google"})
_SERIES = frozenset({"tesla", "geforce", "radeon", "instinct"})
_NOISE = frozenset({"graphics", "gpu", "edition", "generation", "hbm2", "hbm2e", "hbm3", "hbm3e"})
"""Words that tell no two rows apart, as the vendor words do."""

_VENDOR_NAMES: dict[str, Vendor] = {
    "NVIDIA": "nvidia",
    "AMD": "amd",
    "Intel": "intel",
    "Apple": "apple",
}

_BRANDS = frozenset({"rtx", "gtx", "rx"})

_DRIVER_NAMES = {
    "NVIDIA B300 SXM6 AC": "B300-288GB",
    "NVIDIA GH200 480GB": "GH200-96GB",  # the 480 GB are the processor's
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "RTX PRO 6000 Blackwell Max-Q",
}
"""Names of the NVIDIA driver that the rules above would not resolve."""

_DTYPE_COLUMNS = {
    "float32": "fp32_tflops",
    "tf32": "tf32_tflops",
    "float16": "fp16_tflops",
    "bfloat16": "bf16_tflops",
}

_MEMORY_TOLERANCE = 0.08
"""A probed GPU is a row's only if its memory is within this share of the row's usable memory. ECC
and driver reservations move it by up to 7 % (RTX 6000 Ada: 44.4 or 47.5 GiB), variants by more than
15 %."""


@dataclass(frozen=True, kw_only=True)
class _Words:
    """A name, taken apart."""

    letters: str
    """Letters and digits only, without vendor words."""
    model: frozenset[str]
    optional: frozenset[str] = frozenset()
    """Words in brackets: they may be given, but need not."""
    memory_gb: int | None = None
    form: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line of the catalogue."""

    gpu: Gpu
    words: _Words
    nominal_gb: int
    entry: "Entry"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An accelerator of the catalogue with where its figures were read."""

    gpu: Gpu
    maker: str
    """As the catalogue spells it, e.g. "NVIDIA"."""
    source: str
    """Of memory, bandwidth and 32-bit rate."""
    tensor_source: str
    """Of the 16-bit rates."""
    note: str


def entries() -> tuple[Entry, ...]:
    """All accelerators of the catalogue, in its order."""
    return tuple(row.entry for row in _rows())


def accelerator_names() -> tuple[str, ...]:
    """Names of all accelerators in the catalogue, in its order."""
    return tuple(row.gpu.name for row in _rows())


def find_accelerator(name: str) -> Gpu:
    """The data sheet of an accelerator.

    Args:
        name: as sold or as the driver spells it; vendor words, case, spaces and hyphens do not
            matter.

    Raises:
        UnknownNameError: no row, or several that differ in more than the form factor; carries the
            five nearest names, best first.
    """
    rows = _matching(name)
    row = _only(rows)
    if row is not None:
        return row.gpu
    nearest = _nearest(name, rows)
    if rows:
        raise UnknownNameError("catalogue.ambiguous", name=name, nearest=nearest, field="machine")
    raise UnknownNameError("catalogue.unknown", name=name, nearest=nearest, field="machine")


def machine_from_name(name: str) -> Machine:
    """A machine of the catalogue.

    Args:
        name: an accelerator, with a suffix for several: "Tesla T4", "Tesla T4 x 2", "2 x Tesla T4".

    Raises:
        UnknownNameError: see `find_accelerator`.
        InputError: a count below 1 or above 4096.
    """
    text, count = name.strip(), 1
    if match := re.fullmatch(r"(.+?)\s+[xX\u00d7]\s*(\d{1,9})", text):
        text, count = match[1], int(match[2])
    elif match := re.fullmatch(r"(\d{1,9})\s*[xX\u00d7]\s+(.+)", text):
        text, count = match[2], int(match[1])
    if not 1 <= count <= MAX_COUNT:
        raise InputError(
            "catalogue.count", most=MAX_COUNT, name=name, accelerator=text, field="machine"
        )
    gpus = (find_accelerator(text),) * count
    return Machine(name=headline(gpus), source="catalogue", gpus=gpus)


def headline(gpus: tuple[Gpu, ...]) -> str:
    """GPUs as one line: "Tesla T4", "2 x Tesla T4", "NVIDIA L4 + 2 x Tesla T4"."""
    names = [gpu.name for gpu in gpus]
    counts = {name: names.count(name) for name in names}
    return " + ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())


def data_sheet(name: str, total_bytes: int | None) -> Gpu | None:
    """The row of a GPU that the driver named, or None where that cannot be told.

    Args:
        name: as the driver spells it.
        total_bytes: memory the driver reports; tells variants of one name apart (RTX 3080: 10 or
            12 GB).
    """
    rows = [
        row
        for row in _matching(name, complete=True)
        if total_bytes is None or _memory_agrees(row, total_bytes)
    ]
    row = _only(rows)
    return row.gpu if row else None


@functools.cache
def _rows() -> tuple[_Row, ...]:
    text = (resources.files("advisor.hardware") / "accelerators.csv").read_text(encoding="utf-8")
    lines = csv.DictReader(text.splitlines())
    return tuple(_parse(line) for line in lines if line["class"] != "cpu")


def _parse(line: dict[str, str]) -> _Row:
    capability = None
    if line["compute_capability"]:
        major, minor = line["compute_capability"].split(".")
        capability = (int(major), int(minor))
    gpu = Gpu(
        name=line["name"],
        compute_capability=capability,
        total_bytes=int(float(line["usable_gib"]) * GIB),
        bandwidth_bytes_per_second=float(line["bandwidth_gbs"]) * 1e9,
        peak_flops={
            dtype: float(line[column]) * 1e12
            for dtype, column in _DTYPE_COLUMNS.items()
            if line[column]
        },
        bf16_native=line["bf16_native"] == "yes" and (capability is None or capability >= (8, 0)),
        vendor=_VENDOR_NAMES.get(line["vendor"]),
        memory_kind=_memory_kind(line),
    )
    entry = Entry(
        gpu=gpu,
        maker=line["vendor"],
        source=line["base_source"],
        tensor_source=line["tensor_source"],
        note=line["notes"],
    )
    nominal = round(float(line["memory_gib"]))
    return _Row(gpu=gpu, words=_take_apart(gpu.name), nominal_gb=nominal, entry=entry)


def _memory_kind(line: dict[str, str]) -> MemoryKind:
    """GB10 and MI300A have one pool with the processor, as Apple's chips and APUs do."""
    if line["class"] in ("apple", "apu"):
        return "unified"
    return "unified" if line["name"].startswith(("GB10", "MI300A")) else "dedicated"


def _split(text: str) -> list[str]:
    ignored = _VENDORS | _SERIES | _NOISE
    text = text.lower().replace("max-q", "maxq").replace("laptop gpu", "mobile")
    text = re.sub(r"(?<![a-z0-9.])(\d+)\s*g(?:i?b)?\b", r"\1gb", text)
    text = re.sub(r"\b(rtx|gtx|rx)(?=\d)", r"\1 ", text)
    return [word for word in re.findall(r"[a-z0-9.+]+", text) if word not in ignored]


def _take_apart(name: str) -> _Words:
    outside = re.sub(r"\(.*?\)", " ", name)
    inside = " ".join(re.findall(r"\((.*?)\)", name))
    model, memory_gb, form = set(), None, None
    for word in _split(outside):
        if re.fullmatch(r"\d+gb", word):
            memory_gb = int(word[:-2])
        elif re.fullmatch(r"sxm\d?", word):
            form = "sxm"
        elif word in ("pcie", "pci"):
            form = "pcie"
        else:
            model.add(word)
    letters = re.sub(r"[^a-z0-9+]", "", "".join(_split(name)))
    letters = re.sub("|".join(("nvidia", *sorted(_SERIES))), "", letters)  # "TeslaT4"
    return _Words(
        letters=letters,
        model=frozenset(model),
        optional=frozenset(_split(inside)),
        memory_gb=memory_gb,
        form=form,
    )


def _matching(name: str, *, complete: bool = False) -> list[_Row]:
    """Rows of the first rule that finds any; a `complete` name (the driver's) has rule 2 alone."""
    asked = _take_apart(_DRIVER_NAMES.get(name, name))
    if not asked.letters:
        return []
    same_letters = [row for row in _rows() if row.words.letters == asked.letters]
    if same_letters and not complete:
        return same_letters
    rows = [row for row in _rows() if _qualifies(row, asked)]
    specific = len(asked.model) > 1 or any(c.isdigit() for word in asked.model for c in word)
    rules: list[Callable[[_Row], bool]] = [
        lambda row: asked.model - row.words.optional == row.words.model,
        lambda row: asked.model - _BRANDS == row.words.model - _BRANDS,
        lambda row: specific and asked.model <= row.words.model | row.words.optional,
    ]
    for rule in rules[:1] if complete else rules:
        if asked.model - _BRANDS and (found := [row for row in rows if rule(row)]):
            return found
    return []


def _qualifies(row: _Row, asked: _Words) -> bool:
    """Whether memory size and form factor are the row's, or not said by one of the two."""
    return asked.memory_gb in (None, row.nominal_gb) and (
        None in (asked.form, row.words.form) or asked.form == row.words.form
    )


def _memory_agrees(row: _Row, total_bytes: int) -> bool:
    usable_bytes = row.gpu.total_bytes
    assert usable_bytes is not None
    return abs(total_bytes - usable_bytes) <= _MEMORY_TOLERANCE * usable_bytes


def _only(rows: list[_Row]) -> _Row | None:
    """The one row meant, or None."""
    if len({(row.words.model, row.nominal_gb) for row in rows}) != 1:
        return None
    if len(rows) == 1:
        return rows[0]
    sxm = [row for row in rows if row.words.form == "sxm"]
    return sxm[0] if len(sxm) == 1 else None


def _nearest(name: str, candidates: list[_Row], count: int = 5) -> tuple[str, ...]:
    """The nearest names, those that match in part first."""

    def without_memory(text: str) -> str:
        return " ".join(word for word in _split(text) if not re.fullmatch(r"\d+gb", word))

    asked = without_memory(name)

    def closeness(row: _Row) -> float:
        return difflib.SequenceMatcher(None, asked, without_memory(row.gpu.name)).ratio()

    first = sorted(candidates, key=closeness, reverse=True)
    rest = sorted((r for r in _rows() if r not in first), key=closeness, reverse=True)
    return tuple(row.gpu.name for row in (first + rest)[:count])


def with_data_sheet(gpu: Gpu) -> Gpu:
    """A probed GPU with bandwidth and peak FLOP/s of its data sheet, where the catalogue has it.

    A MIG instance has no data sheet of its own and stays without.
    """
    native = None if gpu.compute_capability is None else gpu.compute_capability >= (8, 0)
    is_slice = gpu.uuid is not None and gpu.uuid.startswith("MIG-")
    # A unified pool is as large as the buyer chose: its size tells no variants apart.
    size = None if gpu.memory_kind == "unified" else gpu.total_bytes
    sheet = None if is_slice else data_sheet(gpu.name, size)
    if sheet is None:
        return replace(gpu, bf16_native=native)
    return replace(
        gpu,
        bandwidth_bytes_per_second=sheet.bandwidth_bytes_per_second,
        peak_flops=sheet.peak_flops,
        bf16_native=sheet.bf16_native if native is None else native,
    )
