"""Which columns of a file hold the text: named by the user, or found under a task's usual names."""

from typing import TYPE_CHECKING, Any

from advisor.errors import InputError
from advisor.tasks import Task

if TYPE_CHECKING:
    import datasets


def csv_texts(task: Task, text_column: str | None, label_column: str | None) -> tuple[str, ...]:
    """Columns of a CSV that are text whatever they hold, most likely first."""
    if not task.has_labels:
        return (text_column,) if text_column else task.text_columns
    asked = [] if text_column is None else [text_column, *text_column.split(",")]
    pairs = [name for pair in task.text_pairs for name in pair]
    classes = (label_column,) if label_column else task.label_columns
    return tuple(dict.fromkeys((*asked, *task.text_columns, *pairs, *classes)))


def _is_text(feature: Any) -> bool:
    """Whether a column can hold text; Json is a column of mixed types."""
    import datasets

    return isinstance(feature, datasets.Json) or (
        isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
    )


def find_text(
    dataset: "datasets.Dataset",
    file: str,
    text_column: str | None,
    task: Task,
    label_column: str | None = None,
) -> tuple[str, ...]:
    """One, or two where the task takes pairs and the file has a pair or it is asked for."""
    if text_column is not None:
        columns: tuple[str, ...] = (text_column,)
        if task.text_pairs and text_column not in dataset.features:
            columns = tuple(name.strip() for name in text_column.split(","))
        for column in columns:
            require(dataset, file, column)
        if len(columns) > 2 or len(set(columns)) < len(columns):
            raise InputError("rows.pair", path=file, got=text_column, field="text_column")
        return columns
    texts = [name for name, feature in dataset.features.items() if _is_text(feature)]
    for pair in task.text_pairs:
        if set(pair) <= set(texts):
            return pair
    for name in task.text_columns:
        if name in texts:
            return (name,)
    texts = [name for name in texts if name not in (*task.label_columns, label_column)]
    if len(texts) == 1:
        return (texts[0],)
    if texts:
        raise InputError("rows.which_column", path=file, names=texts, field="text_column")
    columns_there = _columns_in_words(dataset)
    raise InputError("rows.no_text_column", path=file, columns=columns_there, field="text_column")


def require(dataset: "datasets.Dataset", file: str, column: str) -> None:
    """Refuse a column that is not there or holds no text."""
    if column not in dataset.features:
        raise InputError(
            "rows.no_column",
            path=file,
            column=column,
            names=tuple(dataset.column_names),
            field="text_column",
        )
    if not _is_text(dataset.features[column]):
        raise InputError(
            "rows.column_no_text",
            path=file,
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
