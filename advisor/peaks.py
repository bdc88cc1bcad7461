"""From a traced step to the memory it takes on a device: peaks, context, interval, verdict."""

import dataclasses
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from advisor import data_parallel
from advisor.calibration import NOTHING, Learned
from advisor.errors import note, words
from advisor.hardware.machine import Gpu
from advisor.locale import Message
from advisor.memory import MemoryEstimate
from advisor.plan import TrainingPlan
from advisor.simulate import replay
from advisor.simulate.allocator import OutOfMemoryError
from advisor.simulate.buckets import buckets_of
from advisor.simulate.profile import CONVOLUTIONS, Profile
from advisor.units import MIB

CPU_ROUNDING = 64
"""Bytes a CPU tensor is aligned to (c10/core/alignment.h)."""
GLIBC = sys.platform == "linux"
"""Whether malloc is the one heap.py models; elsewhere the live bytes stand for what is resident."""

# CUDA context of a process outside the caching allocator, bytes: (middle, half width, where from).
_CONTEXTS = {
    (7, 5): (int(140.875 * MIB), MIB, words("peaks.context_t4")),
    (8, 0): (480 * MIB, 120 * MIB, words("peaks.context_a100")),
}
_UNKNOWN_CONTEXT = (480 * MIB, 340 * MIB, words("peaks.context_unknown"))
MEASURED_CARD = (7, 5)
"""Compute capability whose runs, without autocast, make up the table of allocated and reserved."""
# Shares around the point, from the error table: (below, above) by (quantised, measured card).
_ALLOCATED_ERROR = {True: 0.003, False: 0.01}
_RESERVED_ERROR = {
    (False, True): (0.006, 0.006),
    (False, False): (0.02, 0.02),
    (True, True): (0.019, 0.0605),
    (True, False): (0.03, 0.08),
}
"""Quantised: below the lower of two ways to load, as read and the middle of three, and above the
middle, which is told. On the T4 they hold all but one of the 43 nf4 rows (t4_lora_qlora,
public_runs); that one is 13 % below. All shares were chosen on the rows they are counted on: how
many of these they hold says nothing of other runs."""
_CONVOLUTIONS_ERROR = 0.05
"""Least share where cuDNN chooses workspaces."""
_CPU_ERROR = (0.08, 0.12)
"""Peak RSS: runs measured here were 0.1 % over to 11 % under the point; see README."""


UNIFIED = note("peaks.unified")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A traced step and the numbers it is asked for."""

    profile: Profile
    batch: int
    length: int
    """Tokens of every row."""
    depth: int
    assumptions: tuple[str, ...] = ()
    plan: TrainingPlan
    evaluation: replay.Evaluation | None = None
    lengths: Sequence[int] = ()
    """Tokens of each row in the steps that follow the steady one."""
    learned: Learned = NOTHING
    expandable: bool = False
    """The allocator runs with expandable_segments:True."""
    saves: bool = False
    """The model is written, after the last step at the latest."""


def context_of(gpu: Gpu, learned: Learned = NOTHING) -> tuple[int, int, Message]:
    """CUDA context of a process on this card: bytes, half width, where it was measured."""
    if learned.contexts:
        middle = int(statistics.median(learned.contexts))
        width = max(max(learned.contexts) - middle, middle - min(learned.contexts), MIB)
        return middle, width, words("peaks.context_learned", count=len(learned.contexts))
    return _CONTEXTS.get(gpu.compute_capability or (0, 0), _UNKNOWN_CONTEXT)


def on_gpu(asked: Asked, gpu: Gpu) -> MemoryEstimate:
    """The step replayed through the caching allocator within what the card has free."""
    capacity = gpu.free_bytes if gpu.free_bytes is not None else gpu.total_bytes
    context, spread, source = context_of(gpu, asked.learned)
    outside, outside_spread = data_parallel.communicator_bytes(asked.plan)
    around_torch, spread_around = context + outside, spread + outside_spread
    room = None if capacity is None else max(capacity - around_torch, 0)
    peaks, lower = _replayed(asked, room)
    is_measured = gpu.compute_capability == MEASURED_CARD and not asked.plan.fp16
    least = _least_error(asked.profile)
    alone = _RESERVED_ERROR[asked.plan.quantization is not None, is_measured]
    shares = data_parallel.reserved_error(asked.plan, alone)
    low, high = (max(share, least) for share in shares)
    told = max(round(peaks.reserved * asked.learned.memory()), peaks.allocated)
    factor = told / peaks.reserved
    misses = asked.learned.memory_misses() or (1.0,)
    low, high = 1 - min(*misses, 1.0) * (1 - low), max(*misses, 1.0) * (1 + high) - 1
    reserved = (math.floor(lower * factor * (1 - low)), math.ceil(told * (1 + high)))
    categories = dict(peaks.categories)
    categories["context"] = around_torch
    categories["fragmentation"] = told - peaks.allocated
    found = MemoryEstimate(
        allocated_bytes=peaks.allocated,
        reserved_bytes=told,
        process_bytes=told + around_torch,
        interval={
            "allocated_bytes": around(peaks.allocated, max(_ALLOCATED_ERROR[is_measured], least)),
            "reserved_bytes": reserved,
            "process_bytes": (
                reserved[0] + around_torch - spread_around,
                reserved[1] + around_torch + spread_around,
            ),
        },
        capacity_bytes=capacity,
        correction=factor,
        occasions={
            name: round(value * factor) + around_torch for name, value in peaks.occasions.items()
        },
        phases=peaks.phases,
        categories=categories,
        assumptions=(
            *asked.assumptions,
            *_said_of(peaks, asked, is_measured),
            *_said_of_runs(
                note("peaks.reserve_learned", count=len(asked.learned.peaks)), asked.learned
            ),
            *([UNIFIED] if gpu.memory_kind == "unified" else []),
            note("peaks.context", mib=context / MIB, source=source),
        ),
    ).judged()
    if found.verdict == "does_not_fit" and capacity is not None:
        least_room = math.floor((capacity - around_torch - spread_around) / (factor * (1 + high)))
        if _survives(asked, least_room):
            said = note("peaks.returned_in_time")
            found = dataclasses.replace(
                found, verdict="tight", assumptions=(*found.assumptions, said)
            )
    return _after_failures(found, asked.learned)


def _said_of(peaks: replay.Peaks, asked: Asked, is_measured: bool) -> list[str]:
    said: list[str] = []
    if peaks.num_retries:
        said.append(note("peaks.retries"))
    if asked.plan.quantization is not None:
        said.append(note("peaks.loading"))
        if asked.plan.quantization.load_in_8bit:
            said.append(note("peaks.int8"))
        if asked.plan.lora is not None and asked.plan.lora.use_dora:
            said.append(note("peaks.dora"))
    if asked.expandable and not asked.plan.is_sharded():
        said.append(note("peaks.expandable"))
    if not is_measured:
        unmeasured = note("peaks.fp16_unmeasured") if asked.plan.fp16 else note("peaks.unmeasured")
        said.append(unmeasured)
    return said


def _replay(
    asked: Asked, room: int | None, loading: replay.Loading | None, *, whole_run: bool = True
) -> replay.Peaks:
    """Load and two steps; the whole run: other lengths, an evaluation and a save as well."""
    return replay.on_cuda(
        asked.profile,
        asked.batch,
        asked.length,
        asked.depth,
        room,
        loading,
        asked.evaluation if whole_run else None,
        lengths=asked.lengths if whole_run else (),
        buckets=buckets_of(asked.plan),
        expandable=asked.expandable,
        saves=asked.saves and whole_run,
    )


def _loadings(plan: TrainingPlan) -> tuple[replay.Loading | None, ...]:
    if plan.quantization is None:
        return (None,)
    return replay.LOADINGS[4 if plan.quantization.load_in_4bit else 8]


def _replayed(asked: Asked, room: int | None) -> tuple[replay.Peaks, int]:
    """The peaks within `room` bytes, without the limit where that is too little.

    And the fewest reserved bytes that the ways to load make likely.
    """

    def run(loading: replay.Loading | None) -> replay.Peaks:
        try:
            return _replay(asked, room, loading)
        except OutOfMemoryError:
            peaks = _replay(asked, None, loading, whole_run=False)
        if room is None or peaks.reserved > room:
            return peaks
        return _replay(asked, None, loading)

    as_read, *others = map(run, _loadings(asked.plan))
    if not others:
        return as_read, as_read.reserved
    middle = sorted((as_read, *others), key=lambda peaks: peaks.reserved)[1]
    told = max(middle.reserved, as_read.allocated)
    found = dataclasses.replace(
        as_read, reserved=told, occasions=middle.occasions, num_retries=middle.num_retries
    )
    return found, min(told, as_read.reserved)


def _survives(asked: Asked, room: int) -> bool:
    """Whether the whole run passes within `room` bytes, however often the cache is returned."""
    try:
        for loading in _loadings(asked.plan):
            _replay(asked, max(room, 0), loading)
    except OutOfMemoryError:
        return False
    return True


def on_cpu(asked: Asked, baseline: int, free_bytes: int | None) -> MemoryEstimate:
    """Peak RSS: the process without a model, and what malloc keeps of the step's tensors.

    Args:
        asked: the step.
        baseline: bytes of a training process whose model weighs nothing, measured.
        free_bytes: of host memory.
    """
    shape = (asked.profile, asked.batch, asked.length, asked.depth)
    buckets = buckets_of(asked.plan)
    peaks = replay.live(*shape, CPU_ROUNDING, asked.evaluation, buckets, saves=asked.saves)
    factor, offset = asked.learned.memory(), round(asked.learned.offset())
    said: list[str] = [note("peaks.baseline", size=baseline)]
    said += _said_of_runs(
        note("peaks.malloc_learned", count=len(asked.learned.peaks)), asked.learned
    )
    baseline += offset

    def kept(evaluation: replay.Evaluation | None, live: int, *, saves: bool = False) -> int:
        if GLIBC:
            live = replay.resident(*shape, evaluation, buckets, saves=saves)
        return round(live * factor)

    steady = kept(None, peaks.allocated)
    occasions = {name: baseline + value for name, value in peaks.occasions.items()}
    if asked.evaluation is not None:
        occasions["evaluation"] = baseline + kept(asked.evaluation, peaks.occasions["evaluation"])
    if "save" in occasions:
        occasions["save"] = baseline + kept(asked.evaluation, peaks.occasions["save"], saves=True)
    low, high = 1 - _CPU_ERROR[0], 1 + _CPU_ERROR[1]
    if misses := asked.learned.memory_misses():
        low, high = spread(misses, 0.04, _CPU_ERROR)
    interval = (math.floor((baseline + steady) * low), math.ceil((baseline + steady) * high))
    categories = dict(peaks.categories)
    categories["context"] = baseline
    categories["fragmentation"] = steady - peaks.allocated
    found = MemoryEstimate(
        allocated_bytes=peaks.allocated,
        reserved_bytes=None,
        process_bytes=baseline + steady,
        interval={
            "allocated_bytes": around(peaks.allocated, max(0.01, _least_error(asked.profile))),
            "process_bytes": interval,
        },
        capacity_bytes=free_bytes,
        correction=factor,
        correction_bytes=offset,
        occasions=occasions,
        phases=peaks.phases,
        categories=categories,
        assumptions=(*asked.assumptions, *said),
    ).judged()
    return _after_failures(found, asked.learned)


def _least_error(profile: Profile) -> float:
    return _CONVOLUTIONS_ERROR if CONVOLUTIONS in profile.notes else 0.0


def spread(misses: Sequence[float], least: float, most: tuple[float, float]) -> tuple[float, float]:
    """Low and high factor around what runs taught: as far as they went, and a margin beyond.

    One run says little: the margin is `most` or three times `least` then, whichever is less, and
    shrinks towards `least` with each further run.

    Args:
        misses: measured over predicted of each run.
        least: share that many runs leave on either side.
        most: shares below and above without any run.
    """
    margin = least * (1 + 2 / len(misses))
    return min(misses) * (1 - min(margin, most[0])), max(misses) * (1 + min(margin, most[1]))


def _said_of_runs(said: str, learned: Learned) -> list[str]:
    return [said] if learned.peaks else []


def around(value: int, share: float) -> tuple[int, int]:
    """`value` less and more a share of itself."""
    return math.floor(value * (1 - share)), math.ceil(value * (1 + share))


def _after_failures(found: MemoryEstimate, learned: Learned) -> MemoryEstimate:
    """What was said to fit and did not is tight at best."""
    if not learned.num_out_of_memory:
        return found
    said = note("peaks.out_of_memory", count=learned.num_out_of_memory)
    verdict = "tight" if found.verdict == "fits" else found.verdict
    return dataclasses.replace(found, verdict=verdict, assumptions=(*found.assumptions, said))
