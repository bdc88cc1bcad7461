"""The one reader of data, for description and trainer: rows, read, checked and split.

`advisor.sources` finds the files, `advisor.file_reading` reads them, `advisor.row_findings` looks
at what they hold. Touches disk; the Hub for its ids alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from advisor import row_findings
from advisor.errors import InputError
from advisor.file_formats import Format
from advisor.file_reading import Table, fault_of, read_column, read_table
from advisor.locale import Message, render
from advisor.row_findings import Texts
from advisor.sources import Source, find_sources
from advisor.tasks import find_task

if TYPE_CHECKING:
    import datasets
    import numpy as np

_SPLIT_SEED = 42
_MAX_SPLIT_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a training run, read and split; every row has text in `text_column`."""

    train: "datasets.Dataset"
    evaluation: "datasets.Dataset"
    text_column: str
    format: Format
    """Of the training files."""
    num_empty_rows: int
    """Rows of all files left out because they hold no text: empty, null or not text."""
    num_train_rows: int
    """Of the whole data, of which `train` may be a sample."""
    num_eval_rows: int
    is_counted: bool = True
    """False: the numbers of rows are estimates."""
    findings: tuple[Message, ...] = ()
    """What is to be said about the rows, in the order of reading."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The findings in English."""
        return tuple(render(finding) for finding in self.findings)


def load_rows(
    path: str | Path,
    text_column: str | None = None,
    validation_path: str | Path | None = None,
    task: str = "causal-lm",
    *,
    validation_split_percentage: float = 5,
    sample: bool = False,
) -> Rows:
    """Read data and its evaluation split.

    JSON Lines, a JSON array (of objects, or of texts), CSV or TSV with a header, plain text with
    one text a line, parquet; each also compressed. Blank lines and rows without text are left out,
    and a finding counts them.

    Args:
        path: a file, a glob, a directory of files or as `save_to_disk` writes it, an id of the Hub
            (owner/name[@revision][:config[:split]]), or "demo".
        text_column: where the text is; looked for under the task's usual names when left out.
        validation_path: what to evaluate on; without it, and without a validation split of the
            data's own, rows are held out: the same ones each time, at least 1 and at most 2,000.
        task: slug of `advisor.tasks`.
        validation_split_percentage: share of rows held out, in percent.
        sample: of large data, read a part: enough to describe them.

    Raises:
        InputError: data that cannot be read (names the line), no such column, too few rows.
    """
    other = None if validation_path is None else str(validation_path)
    source, other_source, found = find_sources(str(path), other, sample=sample)
    table = read_table(source, (text_column,) if text_column else find_task(task).text_columns)
    column = _find_text_column(table, text_column, task)
    texts, findings = _texts(table, column)
    if other_source is not None:
        other_table = read_table(other_source, (column,))
        _require_column(other_table, column)
        other_texts, more = _texts(other_table, column)
        train, evaluation = texts.there, other_texts.there
        both = texts.hashes[train], other_texts.hashes[evaluation]
        findings += (*more, *row_findings.overlap(*both))
        parts = _select(texts.table, train), _select(other_texts.table, evaluation)
        num_empty = int((~train).sum() + (~evaluation).sum())
    else:
        held_out = _held_out(int(texts.there.sum()), source, validation_split_percentage)
        train, evaluation = texts.there.copy(), texts.there.copy()
        train[texts.there], evaluation[texts.there] = ~held_out, held_out
        findings += tuple(row_findings.overlap(texts.hashes[train], texts.hashes[evaluation]))
        parts = _select(texts.table, train), _select(texts.table, evaluation)
        num_empty = int((~texts.there).sum())
    totals = _totals(source, other_source, texts.there, parts, validation_split_percentage)
    if other_source is None:
        findings += (_held_out_finding(*totals),)
    counted = source.is_counted and (other_source is None or other_source.is_counted)
    return Rows(
        train=parts[0],
        evaluation=parts[1],
        text_column=column,
        format=source.format,
        num_empty_rows=num_empty,
        num_train_rows=totals[0],
        num_eval_rows=totals[1],
        is_counted=counted,
        findings=(*findings, *found),
    )


def _texts(table: Table, column: str) -> tuple[Texts, tuple[Message, ...]]:
    """The column's texts, and what is to be said about them.

    Raises:
        InputError: bytes that are no text, or no row with text.
    """
    import datasets
    import pyarrow as pa

    findings = table.findings
    if isinstance(table.dataset.features[column], datasets.Json):
        # datasets keeps such a column as JSON and turns the text "4" into a number
        params = {"column": column, "file": Path(table.source.name).name}
        findings += (Message(id="data.mixed_column", params=params),)
        table = read_column(table, column)
    try:
        texts = Texts(table, column)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise fault_of(table.source, error) from error
    if not texts.there.any():
        raise InputError("rows.no_row", path=table.source.name, column=column, field="text_column")
    return texts, (*findings, *texts.findings())


def _select(table: Table, mask: "np.ndarray") -> "datasets.Dataset":
    import numpy as np

    if mask.all():
        return table.dataset
    return cast("datasets.Dataset", table.dataset.select(np.flatnonzero(mask)))


# --- the text column -------------------------------------------------------------------------


def _is_text(feature: Any) -> bool:
    """Whether a column can hold text; Json is a column of mixed types."""
    import datasets

    return isinstance(feature, datasets.Json) or (
        isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
    )


def _find_text_column(table: Table, text_column: str | None, task: str) -> str:
    if text_column is not None:
        _require_column(table, text_column)
        return text_column
    name, dataset = table.source.name, table.dataset
    texts = [name for name, feature in dataset.features.items() if _is_text(feature)]
    for usual in find_task(task).text_columns:
        if usual in texts:
            return usual
    if len(texts) == 1:
        return texts[0]
    if texts:
        raise InputError("rows.which_column", path=name, names=texts, field="text_column")
    columns = _columns_in_words(dataset)
    raise InputError("rows.no_text_column", path=name, columns=columns, field="text_column")


def _require_column(table: Table, column: str) -> None:
    dataset = table.dataset
    if column not in dataset.features:
        raise InputError(
            "rows.no_column",
            path=table.source.name,
            column=column,
            names=tuple(dataset.column_names),
            field="text_column",
        )
    if not _is_text(dataset.features[column]):
        raise InputError(
            "rows.column_no_text",
            path=table.source.name,
            column=column,
            columns=_columns_in_words(dataset),
            field="text_column",
        )


def _columns_in_words(dataset: "datasets.Dataset") -> str:
    """Column names with their types: "id (int64), tags (list)"."""
    kinds = {
        name: getattr(feature, "dtype", type(feature).__name__)
        for name, feature in dataset.features.items()
    }
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


# --- the split -------------------------------------------------------------------------------


def _num_held_out(num_rows: int, percentage: float) -> int:
    return min(max(round(num_rows * percentage / 100), 1), _MAX_SPLIT_ROWS, num_rows - 1)


def _held_out(num_rows: int, source: Source, percentage: float) -> "np.ndarray":
    """Which rows are held out for evaluation; the others train, in the files' order."""
    import numpy as np

    if not 0 < percentage < 100:
        raise InputError("rows.percentage", got=percentage, field="validation_split_percentage")
    if num_rows < 2:
        raise InputError("rows.one_row", path=source.name, field="data")
    number = _num_held_out(num_rows, percentage)
    chosen = np.random.default_rng(_SPLIT_SEED).choice(num_rows, number, replace=False)
    held_out = np.zeros(num_rows, dtype=bool)
    held_out[chosen] = True
    return held_out


def _totals(
    source: Source,
    other: Source | None,
    there: "np.ndarray",
    parts: tuple["datasets.Dataset", "datasets.Dataset"],
    percentage: float,
) -> tuple[int, int]:
    """Training and evaluation rows of the whole data, of which `parts` may be a sample."""
    train, evaluation = len(parts[0]), len(parts[1])
    if source.num_rows is not None:
        # rows without text are as frequent in the whole as in the sample
        whole = max(round(source.num_rows * float(there.mean())), train + evaluation)
        if other is None:
            evaluation = _num_held_out(whole, percentage)
            return whole - evaluation, evaluation
        train = whole
    if other is not None and other.num_rows is not None:
        evaluation = other.num_rows
    return train, evaluation


def _held_out_finding(num_train_rows: int, num_eval_rows: int) -> Message:
    rows = num_train_rows + num_eval_rows
    percent = float(f"{100 * num_eval_rows / rows:.2g}")
    params = {"held": num_eval_rows, "rows": rows, "percent": percent, "seed": _SPLIT_SEED}
    return Message(id="data.held_out", params=params)
