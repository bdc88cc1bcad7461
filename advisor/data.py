"""Describe a data set by its real token lengths: DataDescription is light, the rest the worker's.

Reads the data and the model's tokenizer. Rows are read by `advisor.rows` and made tokens by
`advisor.tokens`, the trainer's too, so that what is counted here is what is trained there.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from advisor import demo, hub, sources
from advisor.file_formats import Format
from advisor.locale import Message, render
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.rows import Rows, load_rows
from advisor.tasks import Task, find_task
from advisor.tokens import CHUNK_ROWS, encode, load_tokenizer, tokenise_texts

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import pyarrow as pa

__all__ = ["DataDescription", "Rows", "describe_data", "encode", "load_rows", "tokenise_texts"]


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """What the advisor knows of a data set before training. Lengths are tokens of uncut rows."""

    name: str
    path: str
    format: Format
    columns: tuple[str, ...]
    text_column: str
    """One, or "one,two" where a row is a pair of texts."""
    num_rows: int
    """Rows of the training split; exact where `rows_are_counted`."""
    num_eval_rows: int
    """Rows of the evaluation split (a file of its own, or split off)."""
    num_measured_rows: int
    """Rows whose tokens were counted; below num_rows + num_eval_rows the lengths are a sample's."""
    lengths: tuple[int, ...]
    """Token lengths of the measured rows, ascending: at most 20,000, their quantiles preserved."""
    length_source: Literal["tokenizer", "bytes"]
    """bytes: the model has no tokenizer; one token per four bytes of UTF-8 was assumed."""
    mean_tokens: float
    p50_tokens: int
    p95_tokens: int
    p99_tokens: int
    max_tokens: int
    """Longest measured row."""
    num_empty_rows: int = 0
    preview: tuple[str, ...] = ()
    """First rows' text, each cut at 300 characters."""
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    """The findings in English."""
    findings: tuple[Message, ...] = ()
    """What to know about the rows before the first step: see `advisor.row_findings`."""
    rows_are_counted: bool = True
    """False: large data, of which the numbers of rows are estimates."""
    validation_path: str | None = None
    """Where the evaluation rows come from; None: the data's own split, or split off."""
    label_column: str | None = None
    """Where the classes are, of a task whose rows have one."""
    labels: tuple[str, ...] = ()
    """The classes in the order of their ids; empty where a sample shows one alone."""
    label_rows: tuple[int, ...] = ()
    """Training rows of each; of large data an estimate."""
    ends_texts: bool | None = None
    """Whether the tokenizer has an end-of-text token; None: the model has no tokenizer."""

    def longest_batch_tokens(self, max_length: int) -> int:
        """Length of the longest row after cutting at `max_length`: sizes the peak."""
        return min(self.max_tokens, max_length)

    def share_cut(self, max_length: int) -> float:
        """Share of rows that lose text when cut at `max_length`, 0..1."""
        return sum(n > max_length for n in self.lengths) / max(len(self.lengths), 1)

    def mean_tokens_cut(self, max_length: int) -> float:
        """Mean tokens of a row after cutting."""
        return sum(min(n, max_length) for n in self.lengths) / max(len(self.lengths), 1)

    def expected_batch_length(self, batch_size: int, max_length: int) -> float:
        """Expected padded length of a batch: of the longest of `batch_size` random rows, cut.

        Exact over the measured lengths: the expectation of the maximum of `batch_size` draws with
        replacement.
        """
        n = len(self.lengths)
        total, below = 0.0, 0.0
        for i, length in enumerate(self.lengths, 1):
            upto = (i / n) ** batch_size
            total += min(length, max_length) * (upto - below)
            below = upto
        return total

    def batch_lengths(
        self, batch_size: int, max_length: int, num_batches: int, *, grouped: bool = False
    ) -> list[int]:
        """Tokens of the longest row, cut, in each of so many batches; always the same.

        Random batches; `grouped`: spread over a mega-batch as LengthGroupedSampler sorts it, which
        starts with the longest row (transformers 5.23, `get_length_grouped_indices`).
        """
        draw = random.Random(_SAMPLE_SEED)  # noqa: S311
        most = max(min(self.num_rows // (4 * batch_size), _MEGA_BATCHES), 1)
        num_drawn = most if grouped else num_batches
        rows = draw.choices(self.lengths, k=batch_size * num_drawn)
        if grouped:
            rows.sort(reverse=True)
        longest = [max(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
        every = len(longest) / num_batches
        return [min(longest[int(i * every)], max_length) for i in range(num_batches)]

    def padding_share(self, batch_size: int, max_length: int) -> float:
        """Share of padded positions in random batches, 0..1."""
        padded = self.expected_batch_length(batch_size, max_length)
        return 1 - self.mean_tokens_cut(max_length) / padded if padded else 0.0

    def rows_of(self, plan: TrainingPlan) -> "DataDescription":
        """The rows that a plan's batches take: blocks where it packs, else these."""
        return self.packed(plan.max_length) if plan.packing else self

    def packed(self, block_length: int) -> "DataDescription":
        """As full rows of `block_length` tokens; what is left at the end of a split is left out.

        A split of less than one block is one shorter row. The numbers of rows follow from the mean
        over both splits: they may be off by a few.
        """

        def count(num_rows: int) -> int:
            return max(round(num_rows * self.mean_tokens) // block_length, min(num_rows, 1))

        length = min(block_length, round(self.num_rows * self.mean_tokens))
        return dataclasses.replace(
            self,
            num_rows=count(self.num_rows),
            num_eval_rows=count(self.num_eval_rows),
            lengths=(length,),
            mean_tokens=float(length),
            p50_tokens=length,
            p95_tokens=length,
            p99_tokens=length,
            max_tokens=length,
        )


_SAMPLE_ROWS = 20_000
_SAMPLE_BYTES = 40_000_000
_SAMPLE_SEED = 42
_MEGA_BATCHES = 50
"""Batches that LengthGroupedSampler sorts together, at most: a quarter of the rows."""
_NUM_LONGEST = 3
"""Longest rows by bytes that are counted beside a sample: the longest by tokens is among them."""
_MAX_LENGTHS = 20_000
_BYTES_PER_TOKEN = 4
_PREVIEW_ROWS = 5
_PREVIEW_CHARACTERS = 300


def describe_data(
    path: str | Path,
    *,
    model: ModelDescription,
    task: str,
    text_column: str | None = None,
    validation_path: str | Path | None = None,
    label_column: str | None = None,
) -> DataDescription:
    """Describe a data set by the token lengths the model's tokenizer gives its rows.

    Args:
        path: the data (see `load_rows`), or "demo". Of large data, a sample is read.
        model: whose tokenizer counts; without one, a token per four bytes is assumed.
        task: slug of `advisor.tasks`.
        text_column: where the text is; inferred when left out.
        validation_path: the evaluation rows, if they are elsewhere.
        label_column: where the class is; inferred when left out.

    Raises:
        InputError: the data or the tokenizer cannot be read.
    """
    rows = load_rows(
        path, text_column, validation_path, task, label_column=label_column, sample=True
    )
    labels = rows.labels
    place = str(path) if hub.is_data_id(str(path)) else str(demo.resolve(str(path), "data"))
    other = None if validation_path is None else str(validation_path)
    if other is not None and not hub.is_data_id(other):
        other = str(Path(other).expanduser())
    lengths, longest, measuring = _measure(rows, model, find_task(task))
    findings = (*rows.findings, *measuring)
    ordered = sorted(lengths)
    longest = max(longest, ordered[-1])
    kept = _reduce([*ordered, longest] if longest > ordered[-1] else ordered)
    return DataDescription(
        name=_name(place),
        path=place,
        format=rows.format,
        columns=tuple(rows.train.column_names),
        text_column=",".join(rows.text_columns),
        num_rows=rows.num_train_rows,
        num_eval_rows=rows.num_eval_rows,
        num_measured_rows=len(ordered),
        lengths=tuple(kept),
        length_source="tokenizer" if model.has_tokenizer else "bytes",
        mean_tokens=sum(ordered) / len(ordered),
        p50_tokens=_quantile(ordered, 0.50),
        p95_tokens=_quantile(ordered, 0.95),
        p99_tokens=_quantile(ordered, 0.99),
        max_tokens=longest,
        num_empty_rows=rows.num_empty_rows,
        ends_texts=_ends_texts(model),
        preview=_preview(rows),
        fingerprint=_fingerprint(place, other, rows),
        notes=tuple(render(finding) for finding in findings),
        findings=findings,
        rows_are_counted=rows.is_counted,
        validation_path=other,
        label_column=labels.column if labels else None,
        labels=labels.names if labels else (),
        label_rows=labels.counts if labels else (),
    )


def _name(place: str) -> str:
    if demo.is_demo(Path(place)):
        return demo.NAME
    return place if hub.is_data_id(place) else Path(place).name


def _preview(rows: Rows) -> tuple[str, ...]:
    first = rows.train[: min(_PREVIEW_ROWS, len(rows.train))]
    texts = zip(*(first[column] for column in rows.text_columns), strict=True)
    return tuple("\n".join(text[:_PREVIEW_CHARACTERS] for text in row) for row in texts)


def _ends_texts(model: ModelDescription) -> bool | None:
    return load_tokenizer(model).eos_token_id is not None if model.has_tokenizer else None


def _measure(
    rows: Rows, model: ModelDescription, task: Task
) -> tuple[list[int], int, tuple[Message, ...]]:
    """Token lengths of all rows or of a sample, the longest row's, and what to say about them."""
    import numpy as np

    parts = (rows.train, rows.evaluation)
    num_bytes = np.concatenate([_byte_lengths(part, rows.text_columns) for part in parts])
    if not model.has_tokenizer:
        lengths = (-(-num_bytes // _BYTES_PER_TOKEN)).tolist()
        params = {"bytes": _BYTES_PER_TOKEN}
        return lengths, max(lengths), (Message(id="data.no_tokenizer", params=params),)
    tokenizer = load_tokenizer(model)
    sample = _draw_sample(num_bytes)
    count = _Counter(tokenizer, parts, rows.text_columns, task)
    lengths = count(sample)
    if len(sample) == len(num_bytes):
        return lengths, max(lengths), ()
    longest = np.argsort(num_bytes, kind="stable")[-_NUM_LONGEST:]
    most = max(count(longest))
    params = {
        "sampled": len(sample),
        "rows": len(num_bytes),
        "seed": _SAMPLE_SEED,
        "longest": _NUM_LONGEST,
    }
    return lengths, most, (Message(id="data.sampled_rows", params=params),)


def _byte_lengths(dataset: "datasets.Dataset", columns: tuple[str, ...]) -> "np.ndarray":
    """UTF-8 bytes of each row's texts, read in Arrow without making Python strings."""
    import numpy as np
    import pyarrow.compute as pc

    def count(table: "pa.Table", column: str) -> "np.ndarray":
        return pc.call_function("binary_length", [table[column]]).to_numpy()

    texts = cast("datasets.Dataset", dataset.select_columns(list(columns))).with_format("arrow")
    tables = cast("Iterator[pa.Table]", texts.iter(batch_size=10_000))
    lengths = [np.sum([count(t, column) for column in columns], axis=0) for t in tables]
    return np.concatenate(lengths).astype("int64")


def _draw_sample(num_bytes: "np.ndarray") -> "np.ndarray":
    """Indices of the rows to count: all of them, or a random sample of bounded rows and bytes."""
    import numpy as np

    total = len(num_bytes)
    if total <= _SAMPLE_ROWS and num_bytes.sum() <= _SAMPLE_BYTES:
        return np.arange(total)
    order = np.random.default_rng(_SAMPLE_SEED).permutation(total)[:_SAMPLE_ROWS]
    affordable = int(np.searchsorted(np.cumsum(num_bytes[order]), _SAMPLE_BYTES, side="right"))
    return np.sort(order[: max(affordable, 1)])


@dataclass(frozen=True)
class _Counter:
    """Counts the tokens of the rows at `indices`, counted through `parts` one after the other."""

    tokenizer: Any
    parts: Sequence["datasets.Dataset"]
    columns: tuple[str, ...]
    task: Task

    def __call__(self, indices: "np.ndarray") -> list[int]:
        lengths: list[int] = []
        offset = 0
        for part in self.parts:
            here = indices[(indices >= offset) & (indices < offset + len(part))] - offset
            for start in range(0, len(here), CHUNK_ROWS):
                chunk = part[here[start : start + CHUNK_ROWS]]
                lengths += map(len, self._tokenise([chunk[name] for name in self.columns]))
            offset += len(part)
        return lengths

    def _tokenise(self, texts: list[list[str]]) -> list[list[int]]:
        if self.task.ends_texts:
            return tokenise_texts(self.tokenizer, texts[0])
        return encode(self.tokenizer, texts)["input_ids"]


def _quantile(ordered: Sequence[int], share: float) -> int:
    """Smallest length that at least `share` of the rows do not exceed."""
    return ordered[max(-(-round(share * 100) * len(ordered) // 100) - 1, 0)]


def _reduce(ordered: Sequence[int]) -> list[int]:
    """At most _MAX_LENGTHS of the sorted lengths at equal steps, first and last among them."""
    last = len(ordered) - 1
    if last < _MAX_LENGTHS:
        return list(ordered)
    return [ordered[round(i * last / (_MAX_LENGTHS - 1))] for i in range(_MAX_LENGTHS)]


def _fingerprint(place: str, other: str | None, rows: Rows) -> str:
    places = [place] if other is None else [place, other]
    stamps = [(p, *sources.stamp(p)) for p in places]
    column = ",".join(rows.text_columns)
    columns = [column] if rows.labels is None else [column, rows.labels.column]
    return hashlib.sha256(json.dumps([stamps, *columns]).encode()).hexdigest()
