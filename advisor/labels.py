"""The classes of labelled rows: which column, which names, in which order; read or refused."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from advisor.errors import InputError
from advisor.locale import Message
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
    findings: tuple[Message, ...] = ()

    def counted_up_to(self, num_rows: int) -> "Labels":
        """The same of so many training rows, of which the counted ones are a sample."""
        share = num_rows / max(sum(self.counts), 1)
        return replace(self, counts=tuple(round(count * share) for count in self.counts))


def find_column(
    dataset: "datasets.Dataset", path: str, asked: str | None, task: Task, texts: Sequence[str]
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
                path=path,
                column=asked,
                names=others,
                field="label_column",
            )
        return asked
    found = next((name for name in task.label_columns if name in others), None)
    if found is not None:
        return found
    if not others:
        raise InputError("labels.none", path=path, texts=tuple(texts), field="label_column")
    raise InputError(
        "labels.which_column",
        path=path,
        names=others,
        usual=task.label_columns,
        field="label_column",
    )


def name_of(value: Any) -> str | None:
    """A label as the name of its class, whole numbers without decimals; None: it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
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
    path: str,
    column: str,
    indices: Sequence[int],
    where: Callable[[int], Message],
    *,
    field: str = "data",
) -> list[str]:
    """The name of each row's class.

    Args:
        dataset: rows that have text.
        path: where they were read.
        column: of the labels.
        indices: of these rows among all that were read.
        where: the place of such an index in words.
        field: what an error is beside.

    Raises:
        InputError: an empty label (names the row), numbers with decimals, or what is no label.
    """
    names: list[str] = []
    name = namer(dataset.features[column])
    for index, value in zip(indices, _values(dataset, column), strict=True):
        if isinstance(value, (list, dict)):
            place = where(index)
            raise InputError("labels.several", where=place, column=column, field="label_column")
        found = name(value)
        if found is None:
            raise InputError("labels.empty", where=where(index), column=column, field=field)
        names.append(found)
    decimal = next((i for i, each in enumerate(names) if _has_decimals(each)), None)
    if decimal is not None and all(map(_is_number, set(names))):
        raise InputError(
            "labels.regression",
            path=path,
            column=column,
            where=where(indices[decimal]),
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
    if all(re.fullmatch(r"-?[0-9]+", name) for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def collect(
    column: str,
    path: str,
    train: Sequence[str],
    held_out: Sequence[str] = (),
    *,
    is_sample: bool = False,
) -> Labels:
    """The classes of training rows and of rows held out of the same data.

    A sample that shows one class says nothing about the others: then no class is known.

    Raises:
        InputError: one class alone, or more than `MAX_CLASSES`.
    """
    names = order((*train, *held_out))
    if len(names) == 1 and is_sample:
        params = {"count": len(train) + len(held_out), "column": column, "name": names[0]}
        finding = Message(id="data.one_class_sampled", params=params)
        return Labels(column=column, names=(), counts=(), findings=(finding,))
    if len(names) == 1:
        raise InputError(
            "labels.one_class", path=path, column=column, name=names[0], field="label_column"
        )
    if len(names) > MAX_CLASSES:
        raise InputError(
            "labels.too_many",
            path=path,
            column=column,
            count=len(names),
            most=MAX_CLASSES,
            field="label_column",
        )
    seen = Counter(train)
    counts = tuple(seen[name] for name in names)
    findings = _findings(names, counts, is_sample=is_sample)
    return Labels(column=column, names=names, counts=counts, findings=tuple(findings))


def _findings(
    names: tuple[str, ...], counts: tuple[int, ...], *, is_sample: bool
) -> Iterator[Message]:
    if is_sample:
        yield Message(id="data.classes_sampled", params={"rows": sum(counts)})
    largest = max(range(len(names)), key=counts.__getitem__)
    share = counts[largest] / max(sum(counts), 1)
    if share >= _UNBALANCED:
        params = {"share": share, "name": names[largest]}
        yield Message(
            id="data.unbalanced_sampled" if is_sample else "data.unbalanced", params=params
        )
    unseen = [name for name, count in zip(names, counts, strict=True) if not count]
    if unseen and not is_sample:  # rows that were not read may show them
        params = {"count": len(unseen), "classes": len(names), "names": unseen[:5]}
        yield Message(id="data.unseen_classes", params=params)


def check_evaluation(labels: Labels, names: Sequence[str], where: Callable[[int], Message]) -> None:
    """Refuse evaluation rows with a class that no training row has.

    Args:
        labels: of the training rows.
        names: the class of each evaluation row.
        where: the place of such a row in words.

    Raises:
        InputError: names the class and its first row.
    """
    for number, name in enumerate(names):
        if name not in labels.names:
            raise InputError(
                "labels.only_in_validation",
                where=where(number),
                column=labels.column,
                name=name,
                names=labels.names,
                field="validation",
            )
