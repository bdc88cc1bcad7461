"""The one reader of data files, for description and trainer. Reads disk, writes a cache.

The `datasets` library does the reading (its Arrow cache lies under `advisor.home.cache_dir()`);
where it fails, `advisor.row_faults` looks for the line at fault.
"""

import contextlib
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from advisor import columns, demo, labels, row_faults
from advisor.errors import InputError
from advisor.home import cache_dir
from advisor.labels import Labels
from advisor.tasks import Task, find_task

if TYPE_CHECKING:
    import datasets
    import numpy as np

Format = Literal["jsonl", "json", "csv", "txt"]

_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".txt": "txt"}
_SPLIT_SEED = 42
_MAX_SPLIT_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a training run, read and split; every row has text in `text_columns`."""

    train: "datasets.Dataset"
    evaluation: "datasets.Dataset"
    text_columns: tuple[str, ...]
    """One, or the two of a pair."""
    format: Format
    """Of the training file."""
    num_empty_rows: int
    """Rows of all files left out because they hold no text: empty, null or not text."""
    notes: tuple[str, ...] = ()
    labels: Labels | None = None
    """The classes of a task whose rows have one."""

    @property
    def text_column(self) -> str:
        """The first of them: the one of a task without pairs."""
        return self.text_columns[0]


def load_rows(
    path: str | Path,
    text_column: str | None = None,
    validation_path: str | Path | None = None,
    task: str = "causal-lm",
    *,
    label_column: str | None = None,
    validation_split_percentage: float = 5,
) -> Rows:
    """Read a local data file and its evaluation split.

    JSON Lines, a JSON array (of objects, or of texts), CSV with a header, or plain text with one
    text a line; blank lines and rows without text are left out, and a note counts them.

    Args:
        path: .jsonl, .json, .csv or .txt file, UTF-8; or "demo".
        text_column: where the text is, "one,two" for a pair; looked for under the task's usual
            names when left out.
        validation_path: a file to evaluate on; without it rows are held out: the same ones each
            time, at least 1 and at most 2,000.
        task: slug of `advisor.tasks`.
        label_column: where the class is, of a task whose rows have one; looked for likewise.
        validation_split_percentage: share of rows held out, in percent.

    Raises:
        InputError: a file that cannot be read (names the line), no such column, too few rows.
    """
    file = demo.resolve(str(path), "data")
    format_ = _format_of(file, "data")
    found = find_task(task)
    whole, notes = _read(file, format_, columns.csv_texts(found, text_column, label_column), found)
    texts = columns.find_text(whole, file, text_column, found, label_column)
    rows, kept, more = _with_text(whole, file, format_, texts, found)
    notes += more
    num_dropped, names, column = len(whole) - len(rows), None, None
    if found.has_labels:
        column = labels.find_column(whole, file, label_column, found, texts)
        names = labels.read(rows, file, column, kept)
    if validation_path is None:
        chosen = _held_out(len(rows), file, validation_split_percentage)
        train, evaluation = _select(rows, ~chosen), _select(rows, chosen)
        share = 100 * len(evaluation) / len(rows)
        held_out = (
            f"No validation file: {len(evaluation):,} of {len(rows):,} rows ({share:.2g} %) are "
            f"held out for evaluation, drawn with seed {_SPLIT_SEED}."
        )
        notes = (*notes, held_out)
        classes = None
        if names is not None and column is not None:
            parts: tuple[list[str], list[str]] = ([], [])
            for name, is_out in zip(names, chosen.tolist(), strict=True):
                parts[is_out].append(name)
            classes = labels.collect(column, file, *parts)
    else:
        other = Path(validation_path).expanduser()
        train, classes = rows, None
        if names is not None and column is not None:
            classes = labels.collect(column, file, names)
        evaluation, num_missing, more = _read_evaluation(other, texts, classes, found)
        num_dropped += num_missing
        notes += more
    return Rows(
        train=train,
        evaluation=evaluation,
        text_columns=texts,
        format=format_,
        num_empty_rows=num_dropped,
        notes=(*notes, *(classes.notes if classes else ())),
        labels=classes,
    )


def column_names(path: str | Path) -> tuple[str, ...]:
    """The columns of a data file by its header or first row; none where that cannot be read.

    Raises:
        InputError: no such file, or none of a known format.
    """
    file = demo.resolve(str(path), "data")
    format_ = _format_of(file, "data")
    try:
        if format_ == "txt":
            return ("text",)
        if format_ == "csv":
            return tuple(_csv_header(file))
        return tuple(next(_json_rows(file, format_), {}))
    except (csv.Error, ValueError, AttributeError):  # load_rows says what and where
        return ()


def _read_evaluation(
    file: Path, texts: tuple[str, ...], classes: Labels | None, task: Task
) -> tuple["datasets.Dataset", int, tuple[str, ...]]:
    """The rows of a file of their own, how many are left out, and notes."""
    format_ = _format_of(file, "validation")
    asked = (",".join(texts), classes.column if classes else None)
    whole, notes = _read(file, format_, columns.csv_texts(task, *asked), task)
    for column in texts:
        columns.require(whole, file, column)
    rows, kept, more = _with_text(whole, file, format_, texts, task)
    if classes is not None:
        labels.find_column(whole, file, classes.column, task, texts)
        names = labels.read(rows, file, classes.column, kept, field="validation")
        labels.check_evaluation(classes, file, names, kept)
    return rows, len(whole) - len(rows), notes + more


def _format_of(file: Path, field: str) -> Format:
    """Of the suffix; what JSON it is, its first character decides."""
    if not file.exists():
        raise InputError("rows.absent", path=file, field=field)
    if not file.is_file():
        raise InputError("rows.no_file", path=file, field=field)
    format_ = _SUFFIXES.get(file.suffix.lower())
    if format_ is None:
        raise InputError("rows.suffix", suffixes=tuple(_SUFFIXES), name=file.name, field=field)
    try:
        with file.open("rb") as stream:
            start = next((line for line in stream if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
    except OSError as error:
        raise InputError(
            "rows.cannot_open", path=file, reason=error.strerror, field=field
        ) from error
    if not start:
        raise InputError("rows.empty", path=file, field=field)
    if format_ in ("json", "jsonl"):
        start = start.lstrip(b"\xef\xbb\xbf \t\r\n")
        if start.startswith(b"["):
            return "json"
        if format_ == "json" and not _is_json(start):
            fault = row_faults.find_json_fault(file)
            if fault is not None:
                raise InputError("row_faults.fault", fault=fault, field=field)
            raise InputError("rows.one_object", path=file, field=field)
        return "jsonl"
    return format_


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _read(
    file: Path, format_: Format, names: tuple[str, ...], task: Task
) -> tuple["datasets.Dataset", tuple[str, ...]]:
    """All columns of the file; the text column alone where others change their type on the way."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    failures = (DatasetsError, pa.ArrowException, OSError, TypeError, ValueError)
    try:
        with _quiet():
            return _read_all_columns(file, format_, names), ()
    except failures as error:
        fault = row_faults.find_fault(file, format_)
        alone = not fault and not task.has_labels  # a class stands in a column beside the text
        column = _first_column(file, format_, names) if alone else None
        if column is None:
            raise row_faults.as_input_error(file, format_, fault, error) from error
        cause = row_faults.root_cause(error)
    try:
        with _quiet():
            texts = _read_one_column(file, format_, column)
    except failures as error:
        raise row_faults.as_input_error(file, format_, None, error) from error
    return texts, (f"Only column {column!r} of {file.name} is read; reading all failed: {cause}.",)


def _read_all_columns(file: Path, format_: Format, names: tuple[str, ...]) -> "datasets.Dataset":
    import datasets

    options: dict[str, Any] = {"cache_dir": str(cache_dir() / "datasets")}
    if format_ == "txt":
        # the BOM some editors write is no text
        return datasets.Dataset.from_text(str(file), encoding="utf-8-sig", **options)
    if format_ == "csv":
        # "NA" and "None" are words, and 007 in a text column is a text
        options |= {"keep_default_na": False, "na_values": [""]}
        options["converters"] = {n: str for n in _csv_header(file) if n in names}
        return datasets.Dataset.from_csv(str(file), **options)
    # rows that look like the logs of a coding agent would be rewritten otherwise
    return datasets.Dataset.from_json(str(file), parse_agent_traces=False, **options)


def _first_column(file: Path, format_: Format, names: tuple[str, ...]) -> str | None:
    """The first of `names` that the file has, by its header or first object."""
    there = _csv_header(file) if format_ == "csv" else next(_json_rows(file, format_), ())
    return next((name for name in names if name in there), None)


def _read_one_column(file: Path, format_: Format, column: str) -> "datasets.Dataset":
    import datasets

    options: dict[str, Any] = {"cache_dir": str(cache_dir() / "datasets")}
    if format_ == "csv":
        return datasets.Dataset.from_csv(
            str(file), usecols=[column], converters={column: str}, **options
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
def _quiet() -> Iterator[None]:
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


def _csv_header(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream), [])


def _with_text(
    dataset: "datasets.Dataset", file: Path, format_: Format, texts: tuple[str, ...], task: Task
) -> tuple["datasets.Dataset", list[int], tuple[str, ...]]:
    """The rows with a text that is not blank in each of `texts`, their numbers, and notes."""
    import datasets
    import numpy as np
    import pyarrow as pa

    notes: tuple[str, ...] = ()
    for column in texts:
        if not isinstance(dataset.features[column], datasets.Json):
            continue
        if task.has_labels:  # the class stands beside it
            raise InputError("rows.mixed_column", path=file, column=column, field="text_column")
        # datasets keeps such a column as JSON and turns the text "4" into a number
        notes = (f"Column {column!r} of {file.name} mixes types, so it alone is read.",)
        with _quiet():
            dataset = _read_one_column(file, format_, column)
    keep = np.ones(len(dataset), dtype=bool)
    for column in texts:
        try:
            keep &= _text_mask(dataset, column)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            fault = row_faults.find_fault(file, format_)
            raise row_faults.as_input_error(file, format_, fault, error) from error
    num_dropped = int((~keep).sum())
    if num_dropped == len(dataset):
        raise InputError("rows.no_row", path=file, column=texts[0], field="text_column")
    numbers = (np.flatnonzero(keep) + 1).tolist()
    if not num_dropped:
        return dataset, numbers, notes
    which = " or ".join(map(repr, texts))
    left_out = (
        f"{num_dropped:,} of {len(dataset):,} rows of {file.name} "
        f"{'is' if num_dropped == 1 else 'are'} left out: "
        f"column {which} is empty, null or not text."
    )
    return _select(dataset, keep), numbers, (*notes, left_out)


def _select(dataset: "datasets.Dataset", mask: "np.ndarray") -> "datasets.Dataset":
    import numpy as np

    return cast("datasets.Dataset", dataset.select(np.flatnonzero(mask)))


def _text_mask(dataset: "datasets.Dataset", column: str) -> "np.ndarray":
    import numpy as np
    import pyarrow.compute as pc

    masks = [np.zeros(0, dtype=bool)]
    for chunk in dataset.data.column(column).chunks:
        chunk.validate(full=True)  # pyarrow's JSON reader takes bytes that are not UTF-8
        trimmed = pc.call_function("utf8_trim_whitespace", [chunk])
        num_bytes = pc.call_function("binary_length", [trimmed])
        masks.append(pc.fill_null(num_bytes, 0).to_numpy(zero_copy_only=False) > 0)
    return np.concatenate(masks)


def _held_out(num_rows: int, file: Path, percentage: float) -> "np.ndarray":
    """Which rows are held out for evaluation; the others train, in the file's order."""
    import numpy as np

    if not 0 < percentage < 100:
        raise InputError("rows.percentage", got=percentage, field="validation_split_percentage")
    if num_rows < 2:
        raise InputError("rows.one_row", path=file, field="data")
    number = min(max(round(num_rows * percentage / 100), 1), _MAX_SPLIT_ROWS, num_rows - 1)
    chosen = np.random.default_rng(_SPLIT_SEED).choice(num_rows, number, replace=False)
    held_out = np.zeros(num_rows, dtype=bool)
    held_out[chosen] = True
    return held_out
