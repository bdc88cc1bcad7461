"""Reads the files of a source into one table through `datasets`. Reads disk, writes a cache.

Where the library fails, `advisor.row_faults` looks for the line at fault. The library's Arrow cache
lies under `advisor.home.cache_dir()`.
"""

import contextlib
import csv
import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from advisor import row_faults
from advisor.errors import InputError, words
from advisor.file_formats import DELIMITERS, Format
from advisor.home import cache_dir
from advisor.locale import Message
from advisor.sources import Source

if TYPE_CHECKING:
    import datasets

_SHORT_ROWS_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows of a source, in the order of its files."""

    dataset: "datasets.Dataset"
    source: Source
    ends: tuple[int, ...]
    """Rows up to the end of each file."""
    findings: tuple[Message, ...] = ()

    def place(self, index: int) -> tuple[str, int]:
        """The file of a row and its number there, from 1; blank lines are no rows."""
        file, row = self._place(index)
        return self.source.short_name(file), row

    def row_in_words(self, index: int) -> Message:
        """The same for an error's sentence; of a sample, whose numbers are not known, the file."""
        file, row = self._place(index)
        name = self.source.names[file]
        if self.source.is_sample:
            return words("labels.sampled_row", path=name)
        return words("labels.row", path=name, row=row)

    def _place(self, index: int) -> tuple[int, int]:
        file = next(i for i, end in enumerate(self.ends) if index < end)
        return file, index - (self.ends[file - 1] if file else 0) + 1


def failures() -> tuple[type[Exception], ...]:
    """What `datasets` and Arrow raise about a file that they cannot read."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    return (
        DatasetsError,
        pa.ArrowException,
        OSError,
        TypeError,
        ValueError,
        KeyError,
        RecursionError,
        OverflowError,
        # datasets takes some contents for archives
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        StopIteration,  # a JSON file without a row
    )


def read_table(source: Source, names: Sequence[str], *, text_is_enough: bool = True) -> Table:
    """All columns of all files; the text column alone where others change their type on the way.

    Args:
        source: what to read.
        names: names a text column may have, most likely first.
        text_is_enough: False: no column may be left out where one cannot be read.

    Raises:
        InputError: a file that cannot be read (names the line), or files without a common column.
    """
    parts, findings = [], []
    for i in range(len(source.files)):
        dataset, more = _read_file(source, i, tuple(names), text_is_enough=text_is_enough)
        parts.append(dataset)
        findings += more
    ends = tuple(accumulate(len(part) for part in parts))
    dataset, more = _joined(source, parts)
    return Table(dataset=dataset, source=source, ends=ends, findings=(*findings, *more))


def read_column(table: Table, column: str) -> Table:
    """The same rows with `column` alone, as text; what is no text is null."""
    import datasets

    source = table.source
    with quiet():
        parts = [_read_one_column(file, source.format, column) for file in source.files]
        dataset = cast("datasets.Dataset", datasets.concatenate_datasets(parts))
    return Table(dataset=dataset, source=source, ends=table.ends, findings=table.findings)


def column_names(source: Source) -> tuple[str, ...]:
    """The columns of its first file; none where they cannot be read."""
    file, format_ = source.files[0], source.format
    if format_ == "txt":
        return ("text",)
    try:
        if format_ in DELIMITERS:
            return tuple(csv_header(file, format_))
        if format_ in ("parquet", "arrow"):
            return tuple(_read_all_columns(file, format_, ()).column_names)
        return tuple(next(_json_rows(file, format_), {}))
    except failures():  # whoever reads the rows says what and where
        return ()


def fault_of(source: Source, error: BaseException) -> InputError:
    """The error for a source that cannot be read: the first line at fault, else the reader's words.

    Args:
        source: what was read.
        error: what the reader raised.
    """
    for i in range(len(source.files)):
        fault = _find_fault(source, i)
        if fault is not None:
            return row_faults.as_input_error(source.names[i], source.format, fault, error)
    return row_faults.as_input_error(source.name, source.format, None, error)


def _find_fault(source: Source, i: int) -> Message | None:
    origin = source.origins[i]
    if source.format == "arrow" or origin is None:
        return None
    return row_faults.find_fault(origin, source.format, source.names[i])


def _read_file(
    source: Source, i: int, names: tuple[str, ...], *, text_is_enough: bool
) -> tuple["datasets.Dataset", list[Message]]:
    file, format_, called = source.files[i], source.format, source.names[i]
    if format_ in DELIMITERS:
        _check_delimiter(file, format_, called)
    try:
        with quiet():
            return _read_all_columns(file, format_, names), _short_rows(source, i)
    except failures() as error:
        fault = _find_fault(source, i)
        alone = not fault and text_is_enough
        column = _first_column(file, format_, names) if alone else None
        if column is None:
            raise row_faults.as_input_error(called, format_, fault, error) from error
        cause = row_faults.root_cause(error)
    try:
        with quiet():
            texts = _read_one_column(file, format_, column)
    except failures() as error:
        raise row_faults.as_input_error(called, format_, None, error) from error
    params = {"column": column, "file": Path(called).name, "reason": cause}
    return texts, [Message(id="data.only_column", params=params)]


def _short_rows(source: Source, i: int) -> list[Message]:
    """Rows with fewer fields than the header, of a file that is not large: what lacks is empty."""
    file, format_ = source.files[i], source.format
    if format_ not in DELIMITERS or file.stat().st_size > _SHORT_ROWS_BYTES or source.is_sample:
        return []
    found = row_faults.short_rows(file, DELIMITERS[format_])
    if found is None:
        return []
    count, rows, line = found
    params = {"count": count, "rows": rows, "line": line, "file": source.short_name(i)}
    return [Message(id="data.ragged", params=params)]


def _check_delimiter(file: Path, format_: Format, called: str) -> None:
    """Refuse a header in one piece that holds another delimiter: its rows would be one text."""
    header = csv_header(file, format_)
    if len(header) != 1:
        return
    other = next((mark for mark in ";\t,|" if mark in header[0]), None)
    if other is not None and len(header[0]) < 1000:
        names = {"\t": "tab", ";": ";", ",": ",", "|": "|"}
        raise InputError(
            "file_reading.delimiter",
            path=called,
            wanted=names[DELIMITERS[format_]],
            got=names[other],
            field="data",
        )


def _joined(
    source: Source, parts: list["datasets.Dataset"]
) -> tuple["datasets.Dataset", list[Message]]:
    """The parts as one; columns that not all have, or not of one type, are left out and said."""
    import datasets

    if len(parts) == 1:
        return parts[0], []
    features = _common_features(parts)
    for part, called in zip(parts, source.names, strict=True):
        if not features and not set(part.column_names) & set(parts[0].column_names):
            raise InputError(
                "file_reading.other_columns",
                path=called,
                names=tuple(part.column_names),
                first=source.names[0],
                wanted=tuple(parts[0].column_names),
                field="data",
            )
    if not features:
        raise InputError("file_reading.no_common_column", path=source.name, field="data")
    left = sorted({n for part in parts for n in part.column_names} - set(features))
    same = [_with_features(part, features) for part in parts]
    findings = []
    if left:
        params = {"name": source.name, "names": left}
        findings.append(Message(id="data.columns_left_out", params=params))
    return cast("datasets.Dataset", datasets.concatenate_datasets(same)), findings


def _common_features(parts: list["datasets.Dataset"]) -> "datasets.Features":
    """The columns that all parts have with one type; a column of nulls alone has any."""
    import datasets

    nothing = datasets.Value("null")
    result = {}
    for name in parts[0].column_names:
        kinds = [part.features.get(name) for part in parts]
        real = [kind for kind in kinds if kind != nothing]
        if None not in kinds and all(kind == real[0] for kind in real):
            result[name] = real[0] if real else nothing
    return datasets.Features(result)


def _with_features(part: "datasets.Dataset", features: "datasets.Features") -> "datasets.Dataset":
    chosen = cast("datasets.Dataset", part.select_columns(list(features)))
    return chosen if chosen.features == features else chosen.cast(features)


def _read_all_columns(file: Path, format_: Format, names: tuple[str, ...]) -> "datasets.Dataset":
    import datasets

    options: dict[str, Any] = {"cache_dir": str(cache_dir() / "datasets")}
    if format_ == "arrow":
        loaded = datasets.load_from_disk(str(file))
        assert isinstance(loaded, datasets.Dataset)
        return loaded.with_format(None)
    if format_ == "parquet":
        return datasets.Dataset.from_parquet(str(file), **options)
    if format_ == "txt":
        # the BOM some editors write is no text
        return datasets.Dataset.from_text(str(file), encoding="utf-8-sig", **options)
    if format_ in DELIMITERS:
        # "NA" and "None" are words, and 007 in a text column is a text
        options |= {"keep_default_na": False, "na_values": [""], "sep": DELIMITERS[format_]}
        header = csv_header(file, format_)
        options["converters"] = {n: str for n in header if n in names or len(header) == 1}
        return datasets.Dataset.from_csv(str(file), **options)
    # rows that look like the logs of a coding agent would be rewritten otherwise
    return datasets.Dataset.from_json(str(file), parse_agent_traces=False, **options)


def _first_column(file: Path, format_: Format, names: tuple[str, ...]) -> str | None:
    """The first of `names` that the file has, by its header or first object."""
    if format_ in ("parquet", "arrow", "txt"):
        return None
    there = (
        csv_header(file, format_)
        if format_ in DELIMITERS
        else next(_json_rows(file, format_), cast("dict[str, Any]", {}))
    )
    return next((name for name in names if name in there), None)


def _read_one_column(file: Path, format_: Format, column: str) -> "datasets.Dataset":
    import datasets

    options: dict[str, Any] = {"cache_dir": str(cache_dir() / "datasets")}
    if format_ in DELIMITERS:
        return datasets.Dataset.from_csv(
            str(file),
            usecols=[column],
            converters={column: str},
            sep=DELIMITERS[format_],
            **options,
        )
    dataset = datasets.Dataset.from_generator(
        _column_of,
        features=datasets.Features({column: datasets.Value("string")}),
        # the time makes a changed file another entry of the cache
        gen_kwargs={
            "file": file,
            "format_": format_,
            "column": column,
            "modified": file.stat().st_mtime_ns,
        },
        **options,
    )
    return cast("datasets.Dataset", dataset)


def _column_of(
    file: Path,
    format_: Format,
    column: str,
    modified: int,  # noqa: ARG001
) -> Iterator[dict[str, str | None]]:
    for row in _json_rows(file, format_):
        value = row.get(column)
        yield {column: value if isinstance(value, str) else None}


def _json_rows(file: Path, format_: Format) -> Iterator[dict[str, Any]]:
    """The objects of a well-formed file; what is no object in an array counts as an empty one."""
    with file.open(encoding="utf-8-sig") as stream:
        rows = (
            json.load(stream) if format_ == "json" else map(json.loads, filter(str.strip, stream))
        )
        for row in rows:
            yield row if isinstance(row, dict) else {}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines of datasets: what goes wrong is in the InputError."""
    import datasets
    from datasets.utils import logging

    verbosity, had_bars = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def csv_header(file: Path, format_: Format) -> list[str]:
    """The names in the first line; none where it is not to be read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream, delimiter=DELIMITERS[format_]), [])
    except (csv.Error, UnicodeDecodeError):
        return []  # the reader says what and where
