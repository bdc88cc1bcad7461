"""The classes of labelled rows: which column, which names, in which order; read or refused."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from advisor.errors import InputError
from advisor.tasks import Task

if TYPE_CHECKING:
    import datasets

MAX_CLASSES = 1000
"""More different labels than this are taken for something else than classes."""
_WHOLE = re.compile(r"[+-]?\d+\.0*")
_UNBALANCED = 0.8
"""Share of the rows in one class from which on it is said."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the label column holds."""

    column: str
    names: tuple[str, ...]
    """The classes in the order of their ids."""
    counts: tuple[int, ...]
    """Training rows of each."""
    notes: tuple[str, ...] = ()


def find_column(
    dataset: "datasets.Dataset", file: Path, asked: str | None, task: Task, texts: Sequence[str]
) -> str:
    """The column with the classes.

    Raises:
        InputError: no such column, or none under a usual name.
    """
    others = tuple(name for name in dataset.column_names if name not in texts)
    if asked is not None:
        if asked not in others:
            raise InputError(
                "labels.no_column",
                path=file,
                column=asked,
                names=others,
                field="label_column",
            )
        return asked
    found = next((name for name in task.label_columns if name in others), None)
    if found is not None:
        return found
    if not others:
        raise InputError("labels.none", path=file, texts=tuple(texts), field="label_column")
    raise InputError(
        "labels.which_column",
        path=file,
        names=others,
        usual=task.label_columns,
        field="label_column",
    )


def name_of(value: Any) -> str | None:
    """A label as the name of its class, whole numbers without decimals; None: it is empty."""
    if value is None:
        return None
    text = str(value).strip()
    if _WHOLE.fullmatch(text):
        text = str(int(float(text)))
    return text or None


def namer(feature: Any) -> Callable[[Any], str | None]:
    """`name_of` for the values of a column; a column that has names for its numbers gives these."""
    named: list[str] | None = getattr(feature, "names", None)
    if named is None:
        return name_of

    def name(value: Any) -> str | None:
        return None if value is None or value < 0 else named[value]

    return name


def read(
    dataset: "datasets.Dataset",
    file: Path,
    column: str,
    numbers: Sequence[int],
    *,
    field: str = "data",
) -> list[str]:
    """The name of each row's class.

    Args:
        dataset: rows that have text.
        file: where they were read.
        column: of the labels.
        numbers: of the rows in the file, from 1 on.
        field: what an error is beside.

    Raises:
        InputError: an empty label (names the row), numbers with decimals, or what is no label.
    """
    names: list[str] = []
    name = namer(dataset.features[column])
    for number, value in zip(numbers, _values(dataset, column), strict=True):
        if isinstance(value, (list, dict)):
            raise InputError(
                "labels.several", path=file, column=column, row=number, field="label_column"
            )
        found = name(value)
        if found is None:
            raise InputError("labels.empty", path=file, column=column, row=number, field=field)
        names.append(found)
    decimal = next((i for i, each in enumerate(names) if _has_decimals(each)), None)
    if decimal is not None and all(map(_is_number, set(names))):
        raise InputError(
            "labels.regression",
            path=file,
            column=column,
            row=numbers[decimal],
            got=names[decimal],
            field="label_column",
        )
    return names


def _values(dataset: "datasets.Dataset", column: str) -> Iterable[Any]:
    part = cast("datasets.Dataset", dataset.select_columns([column]))
    for batch in cast("Iterable[dict[str, Any]]", part.iter(batch_size=10_000)):
        yield from batch[column]


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _has_decimals(name: str) -> bool:
    return _is_number(name) and not name.lstrip("+-").isdigit()


def order(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in a stable order: whole numbers by value, else by letter."""
    different = set(names)
    if all(name.lstrip("-").isdigit() for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def collect(column: str, file: Path, train: Sequence[str], held_out: Sequence[str] = ()) -> Labels:
    """The classes of training rows and of rows held out of the same file.

    Raises:
        InputError: one class alone, or more than `MAX_CLASSES`.
    """
    names = order((*train, *held_out))
    if len(names) == 1:
        raise InputError(
            "labels.one_class", path=file, column=column, name=names[0], field="label_column"
        )
    if len(names) > MAX_CLASSES:
        raise InputError(
            "labels.too_many",
            path=file,
            column=column,
            count=len(names),
            most=MAX_CLASSES,
            field="label_column",
        )
    seen = Counter(train)
    counts = tuple(seen[name] for name in names)
    notes = []
    largest = max(range(len(names)), key=counts.__getitem__)
    share = counts[largest] / max(len(train), 1)
    if share >= _UNBALANCED:
        notes.append(
            f"The classes are unbalanced: {share:.0%} of the training rows are {names[largest]!r}; "
            f"a model that always answers it has an accuracy of about {share:.2f}."
        )
    unseen = [name for name, count in zip(names, counts, strict=True) if not count]
    if unseen:
        some = ", ".join(map(repr, unseen[:5]))
        notes.append(
            f"{len(unseen)} of {len(names)} classes are in the rows held out for evaluation alone "
            f"({some}): no training row shows them."
        )
    return Labels(column=column, names=names, counts=counts, notes=tuple(notes))


def check_evaluation(
    labels: Labels, file: Path, names: Sequence[str], numbers: Sequence[int]
) -> None:
    """Refuse an evaluation file with a class that no training row has.

    Raises:
        InputError: names the class and its first row.
    """
    for number, name in zip(numbers, names, strict=True):
        if name not in labels.names:
            raise InputError(
                "labels.only_in_validation",
                path=file,
                column=labels.column,
                row=number,
                name=name,
                names=labels.names,
                field="validation",
            )
