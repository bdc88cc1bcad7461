"""A part of large data files, as small files of the same format. Reads disk or the Hub.

Lines are drawn all over a local file: those that begin in windows at equal steps, so that a long
line is as likely as a short one. Of what can only be read from its start, the start is taken.
"""

import csv
import functools
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from advisor.errors import InputError
from advisor.file_formats import DELIMITERS, Format, reading, split_name, unpacking, write_once
from advisor.home import cache_dir

LARGE_BYTES = 96 * 2**20
"""Files of more, together, are described by a sample."""
_SAMPLE_BYTES = 8 * 2**20
_MAX_FILES = 16
_NUM_WINDOWS = 192
_COUNT_BYTES = 4 * 2**30
"""Lines of larger files are not counted but estimated."""
_LONGEST_BYTES = 16 * 2**20
"""A line that is longer is not looked at, but counted."""
_BLOCK_BYTES = 4 * 2**20
_NEWLINE = 10
_BATCH_ROWS = 512
_SCAN_ROWS = 4096
_SCAN_SECONDS = 20.0
"""Of looking for the longest rows of parquet files, all together."""
_SCAN_COLUMNS = 8
"""Of more columns of text, those with the most bytes are looked at."""


T = TypeVar("T")


class Item(Protocol):
    """A data file, on this disk or on the Hub."""

    @property
    def name(self) -> str:
        """As sentences call it."""
        ...

    @property
    def size(self) -> int:
        """In bytes, as stored."""
        ...

    @property
    def path(self) -> Path | None:
        """Where it is on this disk."""
        ...

    @property
    def stamp(self) -> str:
        """Another one when the content changes."""
        ...

    def open(self) -> BinaryIO:
        """The stored bytes; seekable."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of one file."""

    file: Path
    num_rows: int
    """Of the whole file."""
    is_counted: bool
    """False: num_rows is an estimate."""
    is_start: bool
    """The rows are the first ones, so that their numbers are the file's."""
    has_longest: bool = False
    """The longest row of the whole file is among them."""


def chosen(items: Sequence[T]) -> list[T]:
    """The files a sample is drawn from: all of a few, else some at equal steps."""
    if len(items) <= _MAX_FILES:
        return list(items)
    return [items[i * len(items) // _MAX_FILES] for i in range(_MAX_FILES)]


def draw(item: Item, format_: Format, budget: int, field: str) -> Part:
    """About `budget` bytes of the rows of a file.

    Args:
        item: the file.
        format_: of its rows.
        budget: in bytes.
        field: of errors.

    Raises:
        InputError: it cannot be read, or holds no end of a row for very long.
    """
    _, packed = split_name(item.name)
    key = hashlib.sha256(f"{item.stamp} {format_} {budget}".encode()).hexdigest()[:24]
    target = cache_dir() / "samples" / f"{key}.{format_}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(item.name, field):
        if format_ == "parquet":
            return _of_parquet(item, target, budget, field)
        if format_ in ("jsonl", "txt") and not packed and item.path is not None:
            return _of_lines(item, target, budget, field)
        return _of_start(item, target, format_, packed, budget, field)


def budget_for(num_files: int) -> int:
    """Bytes that are read of each of so many files."""
    return _SAMPLE_BYTES // max(num_files, 1)


def _of_lines(item: Item, target: Path, budget: int, field: str) -> Part:
    with item.open() as stream:
        lines = list(_windows(stream, item.size, budget))
        if not lines:
            raise InputError("row_sampling.no_row", path=item.name, field=field)
        is_counted = item.size <= _COUNT_BYTES
        if is_counted:
            num_rows, longest = _scan_lines(stream)
            if longest not in lines:
                lines.append(longest)  # the peak of memory is the longest row's
        else:
            num_rows = _estimate(lines, item.size)
        write_once(target, iter(lines))
    return Part(
        file=target,
        num_rows=num_rows,
        is_counted=is_counted,
        is_start=False,
        has_longest=is_counted,
    )


def _windows(stream: BinaryIO, size: int, budget: int) -> Iterator[bytes]:
    """The whole lines that begin in windows at equal steps."""
    width = max(budget // _NUM_WINDOWS, 1)
    left = 2 * budget  # of long lines, fewer are enough
    for i in range(_NUM_WINDOWS):
        start = i * (size - width) // _NUM_WINDOWS
        stream.seek(max(start - 1, 0))
        if start and not _rest_of_line(stream, budget):
            continue
        while stream.tell() < start + width and left > 0:
            line = stream.readline(budget)
            if not line.endswith(b"\n") and len(line) >= budget:
                break  # of a line that long, no part is taken
            left -= len(line)
            if line.strip():
                yield line if line.endswith(b"\n") else line + b"\n"
            if not line:
                break


def _rest_of_line(stream: BinaryIO, limit: int) -> bool:
    """Go to the next line; False where this one is longer than `limit`."""
    rest = stream.readline(limit)
    return rest.endswith(b"\n")


def _scan_lines(stream: BinaryIO) -> tuple[int, bytes]:
    """How many lines there are, and the longest, where it is no longer than `_LONGEST_BYTES`."""
    import numpy as np

    stream.seek(0)
    count = offset = begin = best_begin = best_size = 0
    while block := stream.read(_BLOCK_BYTES):
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _NEWLINE) + offset
        if len(ends):
            sizes = np.diff(ends, prepend=begin - 1)
            sizes[sizes > _LONGEST_BYTES] = 0
            at = int(sizes.argmax())
            if sizes[at] > best_size:
                best_size = int(sizes[at])
                best_begin = int(ends[at]) + 1 - best_size
            begin = int(ends[-1]) + 1
            count += len(ends)
        offset += len(block)
    stream.seek(best_begin)
    return count + (begin < offset), stream.read(best_size)


def _estimate(lines: Sequence[bytes], size: int) -> int:
    return max(round(size / (sum(map(len, lines)) / len(lines))), 1)


def _of_start(
    item: Item, target: Path, format_: Format, packed: str, budget: int, field: str
) -> Part:
    with item.open() as raw, unpacking(raw, packed) as stream:
        head = stream.read(budget)
        is_whole = not stream.read(1)
        share = 1.0 if is_whole else min(raw.tell() / max(item.size, 1), 1.0)
        if packed == "" and not is_whole:
            share = budget / item.size
    cut = len(head) if is_whole else _END_OF_ROWS.get(format_, _end_of_lines)(head)
    kept = head[:cut]
    if format_ == "json" and not is_whole:
        kept = b"[" + kept.lstrip(b"\xef\xbb\xbf \t\r\n").removeprefix(b"[") + b"]"
    num_rows = _COUNTS.get(format_, _count_of_lines)(kept)
    if not num_rows and is_whole:
        raise InputError("rows.empty", path=item.name, field=field)
    if not num_rows:
        raise InputError("row_sampling.no_row", path=item.name, field=field)
    write_once(target, iter([kept]))
    whole = num_rows if is_whole else round(num_rows * (len(head) / max(cut, 1)) / share)
    return Part(file=target, num_rows=max(whole, num_rows), is_counted=is_whole, is_start=True)


def _end_of_lines(head: bytes) -> int:
    return head.rfind(b"\n") + 1


def _end_of_records(head: bytes) -> int:
    """After the last line end that is outside quotes."""
    end = head.rfind(b"\n") + 1
    while end and head.count(b'"', 0, end) % 2:
        end = head.rfind(b"\n", 0, end - 1) + 1
    return end


def _end_of_items(head: bytes) -> int:
    """After the last complete item of a JSON array."""
    text = head.decode("utf-8-sig", errors="ignore")
    decoder, start = json.JSONDecoder(), text.find("[") + 1
    end = start
    try:
        while True:
            while text[start : start + 1] in tuple(", \t\r\n"):
                start += 1
            if start >= len(text):
                break
            _, start = decoder.raw_decode(text, start)
            if not text[start : start + 1]:
                break  # a number may go on
            end = start
    except (ValueError, RecursionError):
        pass
    mark = len(head) - len(head.removeprefix(b"\xef\xbb\xbf"))
    return mark + len(text[:end].encode())


def _count_of_lines(content: bytes) -> int:
    return sum(1 for line in content.split(b"\n") if line.strip())


def _count_of_items(content: bytes) -> int:
    try:
        return len(json.loads(content.decode("utf-8-sig")))
    except (ValueError, TypeError, RecursionError):
        return 1  # the reader says what is wrong


def _counter(delimiter: str) -> Callable[[bytes], int]:
    def count(content: bytes) -> int:
        limit = csv.field_size_limit(sys.maxsize)
        try:
            text = io.StringIO(content.decode("utf-8", errors="replace"), newline="")
            return max(sum(1 for row in csv.reader(text, delimiter=delimiter) if row) - 1, 0)
        except csv.Error:
            return 1  # the reader says what is wrong
        finally:
            csv.field_size_limit(limit)

    return count


_END_OF_ROWS: dict[str, Callable[[bytes], int]] = {
    "csv": _end_of_records,
    "tsv": _end_of_records,
    "json": _end_of_items,
}
_COUNTS: dict[str, Callable[[bytes], int]] = {
    "json": _count_of_items,
    **{name: _counter(delimiter) for name, delimiter in DELIMITERS.items()},
}


def _of_parquet(item: Item, target: Path, budget: int, field: str) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with item.open() as stream, pq.ParquetFile(stream) as file:
            groups = file.num_row_groups
            taken = [i * groups // _MAX_FILES for i in range(min(groups, _MAX_FILES))]
            if groups <= _MAX_FILES:
                taken = list(range(groups))
            with pq.ParquetWriter(target, file.schema_arrow) as out:
                each = budget // max(len(taken), 1)
                copied = {group: _copy_rows(file, group, each, out) for group in taken}
                longest, is_all = (), False
                if item.path is not None:  # on the Hub it would mean to fetch all the text
                    seconds = _SCAN_SECONDS * budget / _SAMPLE_BYTES
                    longest, is_all = _longest_rows(item.path, item.stamp, seconds)
                for group, at in longest:
                    if at >= copied.get(group, 0):
                        out.write_batch(_row_at(file, group, at))
            num_rows = file.metadata.num_rows
    except pa.ArrowException as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            "row_sampling.parquet", path=item.name, reason=reason, field=field
        ) from error
    return Part(file=target, num_rows=num_rows, is_counted=True, is_start=False, has_longest=is_all)


def _copy_rows(file: Any, group: int, budget: int, out: Any) -> int:
    """Write the first rows of a row group, until they take `budget` bytes; how many these are."""
    count = 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
        out.write_batch(batch)
        count += batch.num_rows
        budget -= batch.nbytes
        if budget <= 0:
            break
    return count


def _row_at(file: Any, group: int, at: int) -> Any:
    """One row of a row group, as a batch."""
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
        if at < batch.num_rows:
            return batch.slice(at, 1)
        at -= batch.num_rows
    raise AssertionError("the row group was read to this row before")


@functools.lru_cache(maxsize=64)
def _longest_rows(
    path: Path, _stamp: str, seconds: float
) -> tuple[tuple[tuple[int, int], ...], bool]:
    """Where the longest text of each column is, and the longest row: (row group, row) of each.

    And whether all texts were looked at. Lengths are bytes of UTF-8; rows of more than
    `_LONGEST_BYTES` are passed over.
    """
    import numpy as np
    import pyarrow.parquet as pq

    end = time.monotonic() + seconds
    best: dict[int, tuple[int, int, int]] = {}
    with pq.ParquetFile(path) as file:
        names, is_all = _text_columns(file)
        for group in range(file.num_row_groups if names else 0):
            start = 0
            for batch in file.iter_batches(_SCAN_ROWS, row_groups=[group], columns=names):
                if time.monotonic() > end:
                    return _places(best), False
                sizes = np.stack([_byte_lengths(column) for column in batch.columns])
                sizes = np.vstack([sizes, sizes.sum(axis=0)])
                sizes[:, sizes[-1] > _LONGEST_BYTES] = 0
                for i, at in enumerate(sizes.argmax(axis=1).tolist()):
                    if sizes[i, at] > best.get(i, (0,))[0]:
                        best[i] = (int(sizes[i, at]), group, start + at)
                start += batch.num_rows
    return _places(best), is_all


def _places(best: dict[int, tuple[int, int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted({(group, at) for _, group, at in best.values()}))


def _text_columns(file: Any) -> tuple[list[str], bool]:
    """Columns of text, of many those with the most bytes; and whether these are all."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind)

    names = [field.name for field in file.schema_arrow if is_text(field.type)]
    sizes = dict.fromkeys(names, 0)
    groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
    for chunk in (group.column(i) for group in groups for i in range(group.num_columns)):
        if chunk.path_in_schema in sizes:
            sizes[chunk.path_in_schema] += chunk.total_compressed_size
    return sorted(names, key=lambda name: -sizes[name])[:_SCAN_COLUMNS], len(names) <= _SCAN_COLUMNS


def _byte_lengths(column: Any) -> Any:
    """UTF-8 bytes of each text, 0 where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    lengths = pc.call_function("binary_length", [column])
    return lengths.fill_null(0).to_numpy(zero_copy_only=False)
