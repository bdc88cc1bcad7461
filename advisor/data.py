"""Describe a data set by its real token lengths: DataDescription is light; `describe_data` runs in the worker."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """What the advisor knows of a data set before training. Lengths are tokens of uncut rows."""

    name: str
    path: str
    format: Literal["jsonl", "json", "csv", "txt"]
    columns: tuple[str, ...]
    text_column: str
    num_rows: int
    """Rows of the training split, exact."""
    num_eval_rows: int
    """Rows of the evaluation split (a file of its own, or split off)."""
    num_measured_rows: int
    """Rows whose tokens were counted; below num_rows + num_eval_rows the lengths are a sample's."""
    lengths: tuple[int, ...]
    """Token length of each measured row, sorted ascending, at most 20,000 quantile-preserving values."""
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
        """Expected length of the longest of `batch_size` random rows, after cutting: the padded length of a batch.

        Exact over the measured lengths: the expectation of the maximum of `batch_size` draws with replacement.
        """
        n = len(self.lengths)
        total, below = 0.0, 0.0
        for i, length in enumerate(self.lengths, 1):
            upto = (i / n) ** batch_size
            total += min(length, max_length) * (upto - below)
            below = upto
        return total

    def padding_share(self, batch_size: int, max_length: int) -> float:
        """Share of padded positions in random batches, 0..1."""
        padded = self.expected_batch_length(batch_size, max_length)
        return 1 - self.mean_tokens_cut(max_length) / padded if padded else 0.0
