"""What is worth knowing about rows before the first step: repeats, overlaps, broken characters.

Messages of `advisor.locale`; a place is a file and a row number. Reads Arrow columns, no disk.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.file_reading import Table
from advisor.locale import Message

if TYPE_CHECKING:
    import numpy as np

INFORMATION = frozenset(
    {
        "data.held_out",
        "data.held_out_by_class",
        "data.validation_split",
        "data.test_split",
        "data.sampled_file",
        "data.sampled_some",
        "data.sampled_start",
        "data.sampled_rows",
        "data.no_tokenizer",
        "data.classes_sampled",
    }
)
"""Findings that say how something was done; all others say that something may be wrong."""


_PRIME = 1099511628211
"""Of FNV-1a's 64 bits: a pair's number is not that of the pair the other way round."""
SAMPLED = "_sampled"
"""Ends the id of a finding about sampled rows, whose numbers are not known."""


def is_warning(finding: Message) -> bool:
    """Whether a person should look at the data."""
    return finding.id not in INFORMATION


class Texts:
    """The texts of a table: which rows hold one in each column, and a hash of each row."""

    def __init__(self, table: Table, columns: tuple[str, ...]) -> None:
        """Read each column once.

        Raises:
            pyarrow.ArrowInvalid, UnicodeDecodeError: bytes that are not UTF-8.
        """
        import numpy as np

        self.table, self.columns = table, columns
        read = [_read_column(table, column) for column in columns]
        there, hashes, nul, replaced = zip(*read, strict=True)
        self.there = np.logical_and.reduce(there)
        self.hashes = functools.reduce(lambda one, other: one * _PRIME ^ other, hashes)
        self._nul, self._replaced = np.logical_or.reduce(nul), np.logical_or.reduce(replaced)

    def findings(self) -> Iterator[Message]:
        """What is to be said about these rows."""
        yield from self._counted("data.left_out", ~self.there)
        yield from self._counted("data.nul", self._nul & self.there)
        yield from self._counted("data.replaced", self._replaced & self.there)
        yield from self._duplicates()

    def row_in_words(self, number: int) -> Message:
        """For an error's sentence: the place of a row, counted among those with text."""
        return self.table.row_in_words(int(self.there.nonzero()[0][number]))

    def _counted(self, message_id: str, rows: "np.ndarray") -> Iterator[Message]:
        """One message: how many rows, and where the first is."""
        count = int(rows.sum())
        if count:
            params = {"count": count, "rows": len(rows), "columns": list(self.columns)}
            yield self._message(message_id, params, int(rows.argmax()))

    def _message(self, message_id: str, params: dict[str, Any], index: int) -> Message:
        """With file and row; a sample does not know the row."""
        file, row = self.table.place(index)
        if self.table.source.is_sample:
            params = {**params, "file": Path(self.table.source.name).name}
            return Message(id=f"{message_id}{SAMPLED}", params=params)
        return Message(id=message_id, params={**params, "file": file, "row": row})

    def _duplicates(self) -> Iterator[Message]:
        import numpy as np

        indices = np.flatnonzero(self.there)
        _, first, which = np.unique(self.hashes[indices], return_index=True, return_inverse=True)
        again = np.flatnonzero(first[which] != np.arange(len(indices)))
        if not len(again):
            return
        later, earlier = indices[again[0]], indices[first[which[again[0]]]]
        file, row = self.table.place(int(earlier))
        params = {"count": len(again), "rows": len(indices), "first_file": file, "first_row": row}
        yield self._message("data.duplicates", params, int(later))


def overlap(train: "np.ndarray", evaluation: "np.ndarray") -> Iterator[Message]:
    """Evaluation rows whose text is also trained on.

    Args:
        train: hashes of the training rows.
        evaluation: hashes of the evaluation rows.
    """
    import numpy as np

    count = int(np.isin(evaluation, train).sum())
    if count:
        yield Message(id="data.overlap", params={"count": count, "rows": len(evaluation)})


def _read_column(table: Table, column: str) -> tuple["np.ndarray", ...]:
    import numpy as np

    parts = [_read_chunk(chunk) for chunk in table.dataset.data.column(column).chunks]
    empty = (np.zeros(0, bool), np.zeros(0, np.uint64), np.zeros(0, bool), np.zeros(0, bool))
    return tuple(np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True))


def _read_chunk(chunk: Any) -> tuple["np.ndarray", "np.ndarray", "np.ndarray", "np.ndarray"]:
    """Of each row: whether it holds text, a hash, whether NUL or U+FFFD is in it."""
    import pandas as pd
    import pyarrow.compute as pc

    chunk.validate(full=True)  # pyarrow's JSON reader takes bytes that are not UTF-8

    def has(mark: str) -> "np.ndarray":
        found = pc.call_function("match_substring", [chunk], pc.MatchSubstringOptions(mark))
        return pc.fill_null(found, False).to_numpy(zero_copy_only=False)

    trimmed = pc.call_function("utf8_trim_whitespace", [chunk])
    num_bytes = pc.call_function("binary_length", [trimmed])
    there = pc.fill_null(num_bytes, 0).to_numpy(zero_copy_only=False) > 0
    texts = pc.fill_null(chunk, "").to_numpy(zero_copy_only=False)
    hashes = pd.util.hash_array(texts, categorize=False)
    return there, hashes, has("\0"), has("\ufffd")
