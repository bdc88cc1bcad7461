"""The one reader of data, for description and trainer: rows, read, checked and split.

`advisor.sources` finds the files, `advisor.file_reading` reads them, `advisor.columns` and
`advisor.labels` find what their columns are for, `advisor.row_findings` looks at what they hold.
Touches disk; the Hub for its ids alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from advisor import columns, file_reading, labels, row_findings
from advisor.errors import InputError
from advisor.file_formats import Format
from advisor.file_reading import Table, fault_of, read_column, read_table
from advisor.labels import Labels
from advisor.locale import Message, render
from advisor.row_findings import Texts
from advisor.sources import Source, find_sources
from advisor.tasks import Task, find_task

if TYPE_CHECKING:
    import datasets
    import numpy as np

_SPLIT_SEED = 42
SPLIT_PERCENTAGE = 5
"""Share of the rows held out unless asked otherwise; of few rows, more."""
_MIN_SPLIT_ROWS, _MAX_SPLIT_ROWS = 20, 2000
_MIN_ROWS_SHARE = 5
"""The least number of rows is at most one in so many: the others are needed to learn from."""
_FEW_EVALUATION_ROWS = 50
"""Below this, one row is more than two percent of an evaluation: it is said."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a training run, read and split; every row has text in `text_columns`."""

    train: "datasets.Dataset"
    evaluation: "datasets.Dataset"
    text_columns: tuple[str, ...]
    """One, or the two of a pair."""
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
    labels: Labels | None = None
    """The classes of a task whose rows have one; of a sample, its own, counted up to the whole."""

    @property
    def text_column(self) -> str:
        """The first of them: the one of a task without pairs."""
        return self.text_columns[0]

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
    label_column: str | None = None,
    validation_split_percentage: float = SPLIT_PERCENTAGE,
    sample: bool = False,
) -> Rows:
    """Read data and its evaluation split.

    JSON Lines, a JSON array (of objects, or of texts), CSV or TSV with a header, plain text with
    one text a line, parquet; each also compressed. Blank lines and rows without text are left out,
    and a finding counts them.

    Args:
        path: a file, a glob, a directory of files or as `save_to_disk` writes it, an id of the Hub
            (owner/name[@revision][:config[:split]]), or "demo".
        text_column: where the text is, "one,two" for a pair; looked for under the task's usual
            names when left out.
        validation_path: what to evaluate on; without it, and without a validation split of the
            data's own, rows are held out: the same ones each time, at most 2,000; where rows have
            a class, each class by its share.
        task: slug of `advisor.tasks`.
        label_column: where the class is, of a task whose rows have one; looked for likewise.
        validation_split_percentage: share of rows held out, in percent. At the default it is at
            least 20 rows, or a fifth of the data where that is fewer.
        sample: of large data, read a part: enough to describe them.

    Raises:
        InputError: data that cannot be read (names the line), no such column, too few rows.
    """
    other = None if validation_path is None else str(validation_path)
    source, other_source, noticed = find_sources(str(path), other, sample=sample)
    kind = find_task(task)
    part = _read(source, kind, text_column, label_column)
    train, evaluation = part.texts, part.texts
    findings, num_empty = part.findings, int((~train.there).sum())
    if other_source is not None:
        asked = ",".join(part.texts.columns), part.label_column
        rest = _read(other_source, kind, *asked, field="validation")
        evaluation, masks = rest.texts, (train.there, rest.texts.there)
        findings += rest.findings
        num_empty += int((~evaluation.there).sum())
        classes = _classes(part, rest)
    else:
        number = int(train.there.sum())
        held_out = _held_out(number, source, validation_split_percentage, part.names)
        masks = train.there.copy(), train.there.copy()
        masks[0][train.there], masks[1][train.there] = ~held_out, held_out
        classes = _classes(part, held_out)
    findings += tuple(row_findings.overlap(train.hashes[masks[0]], evaluation.hashes[masks[1]]))
    parts = _select(train.table, masks[0]), _select(evaluation.table, masks[1])
    totals = _totals(source, other_source, train.there, parts, validation_split_percentage)
    if other_source is None:
        findings += (_held_out_finding(*totals, by_class=classes is not None),)
    if totals[1] < _FEW_EVALUATION_ROWS:
        noticed += (_few_rows_finding(totals[1], with_classes=classes is not None),)
    if classes is not None:
        findings += classes.findings
        if source.is_sample:
            classes = classes.counted_up_to(totals[0])
    return Rows(
        train=parts[0],
        evaluation=parts[1],
        text_columns=train.columns,
        format=source.format,
        num_empty_rows=num_empty,
        num_train_rows=totals[0],
        num_eval_rows=totals[1],
        is_counted=source.is_counted and (other_source is None or other_source.is_counted),
        findings=(*findings, *noticed),
        labels=classes,
    )


def column_names(place: str | Path) -> tuple[str, ...]:
    """The columns of data by their first file's header or row; none where that cannot be read.

    Raises:
        InputError: nothing there, or no data of a known format.
    """
    source, _, _ = find_sources(str(place), None, sample=True)
    return file_reading.column_names(source)


@dataclass(frozen=True)
class _Part:
    """What one source holds."""

    texts: Texts
    label_column: str | None
    names: tuple[str, ...]
    """The class of each row with text, of a task with classes."""
    findings: tuple[Message, ...]


def _read(
    source: Source,
    task: Task,
    text_column: str | None,
    label_column: str | None,
    *,
    field: str = "data",
) -> _Part:
    import numpy as np

    names = columns.csv_texts(task, text_column, label_column)
    table = read_table(source, names, text_is_enough=not task.has_labels)
    found = columns.find_text(table.dataset, source.name, text_column, task, label_column)
    texts, findings = _texts(table, found, task)
    if not task.has_labels:
        return _Part(texts, None, (), findings)
    column = labels.find_column(table.dataset, source.name, label_column, task, found)
    indices = np.flatnonzero(texts.there).tolist()
    rows = _select(table, texts.there)
    classes = labels.read(rows, source.name, column, indices, table.row_in_words, field=field)
    return _Part(texts, column, tuple(classes), findings)


def _texts(table: Table, names: tuple[str, ...], task: Task) -> tuple[Texts, tuple[Message, ...]]:
    """The columns' texts, and what is to be said about them.

    Raises:
        InputError: bytes that are no text, or no row with text.
    """
    import datasets
    import pyarrow as pa

    source, findings = table.source, table.findings
    for column in names:
        if not isinstance(table.dataset.features[column], datasets.Json):
            continue
        if task.has_labels:  # the class stands beside it
            raise InputError(
                "rows.mixed_column", path=source.name, column=column, field="text_column"
            )
        # datasets keeps such a column as JSON and turns the text "4" into a number
        params = {"column": column, "file": Path(source.name).name}
        findings += (Message(id="data.mixed_column", params=params),)
        table = read_column(table, column)
    try:
        texts = Texts(table, names)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise fault_of(source, error) from error
    if not texts.there.any():
        raise InputError("rows.no_row", path=source.name, column=names[0], field="text_column")
    return texts, (*findings, *texts.findings())


def _select(table: Table, mask: "np.ndarray") -> "datasets.Dataset":
    import numpy as np

    if mask.all():
        return table.dataset
    return cast("datasets.Dataset", table.dataset.select(np.flatnonzero(mask)))


def _classes(part: _Part, evaluation: "_Part | np.ndarray") -> Labels | None:
    """The classes of the training rows, where the task has any.

    Args:
        part: training rows.
        evaluation: rows of their own, or which of the training rows are held out.

    Raises:
        InputError: too few or too many classes, or one that only rows of their own have.
    """
    if part.label_column is None:
        return None
    column, source = part.label_column, part.texts.table.source
    is_sample = source.is_sample
    if not isinstance(evaluation, _Part):
        train, held_out = [], []
        for name, is_out in zip(part.names, evaluation.tolist(), strict=True):
            (held_out if is_out else train).append(name)
        return labels.collect(column, source.name, train, held_out, is_sample=is_sample)
    if is_sample:  # the rows that were not read may show the others
        more = evaluation.names
        return labels.collect(column, source.name, part.names, more, is_sample=True)
    found = labels.collect(column, source.name, part.names)
    labels.check_evaluation(found, evaluation.names, evaluation.texts.row_in_words)
    return found


# --- the split -------------------------------------------------------------------------------


def _num_held_out(num_rows: int, percentage: float) -> int:
    number = max(round(num_rows * percentage / 100), 1)
    if percentage == SPLIT_PERCENTAGE:
        number = max(number, min(_MIN_SPLIT_ROWS, num_rows // _MIN_ROWS_SHARE))
    return min(number, _MAX_SPLIT_ROWS, num_rows - 1)


def _held_out(
    num_rows: int, source: Source, percentage: float, names: Sequence[str] = ()
) -> "np.ndarray":
    """Which rows are held out for evaluation; the others train, in the files' order.

    Args:
        num_rows: with text.
        source: of them.
        percentage: share held out.
        names: the class of each row; each class is held out by its share and keeps a row to learn
            from, where there are rows enough for that.
    """
    import numpy as np

    if not 0 < percentage < 100:
        raise InputError("rows.percentage", got=percentage, field="validation_split_percentage")
    if num_rows < 2:
        raise InputError("rows.one_row", path=source.name, field="data")
    number = _num_held_out(num_rows, percentage)
    draw = np.random.default_rng(_SPLIT_SEED)
    held_out = np.zeros(num_rows, dtype=bool)
    shares = _shares(Counter(names), number)
    if not shares:
        held_out[draw.choice(num_rows, number, replace=False)] = True
        return held_out
    ids = {name: i for i, name in enumerate(shares)}
    classes = np.fromiter((ids[name] for name in names), dtype=np.int64, count=num_rows)
    for name, share in shares.items():
        if share:
            rows = np.flatnonzero(classes == ids[name])
            held_out[draw.choice(rows, share, replace=False)] = True
    return held_out


def _shares(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """How many rows of each class make up `number`; none where some class would lose all."""
    rows = sum(counts.values())
    if rows - len(counts) < number:
        return {}
    exact = {name: number * counts[name] / rows for name in labels.order(counts)}
    shares = {name: min(int(part), counts[name] - 1) for name, part in exact.items()}
    while (left := number - sum(shares.values())) > 0:
        open_ = [name for name, share in shares.items() if share < counts[name] - 1]
        open_.sort(key=lambda name: shares[name] - exact[name])
        for name in open_[:left]:
            shares[name] += 1
    return shares


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
        whole = max(round(source.num_rows * float(there.mean())), int(there.sum()))
        if other is None:
            evaluation = _num_held_out(whole, percentage)
            return whole - evaluation, evaluation
        train = whole
    if other is not None and other.num_rows is not None:
        evaluation = other.num_rows
    return train, evaluation


def _few_rows_finding(num_eval_rows: int, *, with_classes: bool) -> Message:
    if not with_classes:
        return Message(id="data.few_evaluation_rows", params={"rows": num_eval_rows})
    percent = float(f"{100 / num_eval_rows:.2g}")
    params = {"rows": num_eval_rows, "percent": percent}
    return Message(id="data.few_evaluation_rows_of_classes", params=params)


def _held_out_finding(num_train_rows: int, num_eval_rows: int, *, by_class: bool) -> Message:
    rows = num_train_rows + num_eval_rows
    percent = float(f"{100 * num_eval_rows / rows:.2g}")
    params = {"held": num_eval_rows, "rows": rows, "percent": percent, "seed": _SPLIT_SEED}
    return Message(id="data.held_out_by_class" if by_class else "data.held_out", params=params)
