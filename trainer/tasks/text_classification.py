"""Text classification: single texts and pairs to token ids, classes to numbers, accuracy."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.data import encode
from advisor.labels import namer
from advisor.own_arguments import DataArguments
from advisor.rows import Rows
from advisor.task_losses import class_loss, class_of

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import torch


def compute_loss(label_smoothing: float) -> Callable[..., Any]:
    """Trainer's compute_loss_func."""
    return functools.partial(class_loss, label_smoothing=label_smoothing)


def model_options(rows: Rows, tokenizer: Any, config: Any) -> dict[str, Any]:
    """The classes and the padding token, as the config keeps them; a head that does not fit is new.

    A checkpoint that has the same classes keeps its order of them, and its head with it.
    """
    assert rows.labels is not None
    names = rows.labels.names
    if set(names) == set(config.label2id):
        names = tuple(sorted(names, key=config.label2id.__getitem__))
    elif _are_ids(names, config):
        names = tuple(config.id2label[i] for i in range(len(names)))
    text = config.get_text_config()
    text.pad_token_id = tokenizer.pad_token_id
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    return {"config": config, "ignore_mismatched_sizes": True}


def _are_ids(names: tuple[str, ...], config: Any) -> bool:
    """Whether the rows hold the numbers of the checkpoint's own classes."""
    numbers = tuple(map(str, range(config.num_labels)))
    named = set(config.label2id) != {f"LABEL_{i}" for i in numbers}
    return names == numbers and named


def metrics(rows: Rows) -> Callable[[Any], dict[str, float]]:
    """Trainer's compute_metrics: accuracy, and for two classes the F1 of the second one."""
    assert rows.labels is not None
    num_classes = len(rows.labels.names)

    def compute(prediction: Any) -> dict[str, float]:
        answers, labels = prediction.predictions, prediction.label_ids
        found = {"accuracy": float((answers == labels).mean())}
        if num_classes == 2:
            found["f1"] = _f1(answers, labels)
        return found

    return compute


def _f1(answers: "np.ndarray", labels: "np.ndarray") -> float:
    """2 x right / (answered + there), of class 1; 0 where neither answers nor labels have it."""
    right = int(((answers == 1) & (labels == 1)).sum())
    total = int((answers == 1).sum() + (labels == 1).sum())
    return 2 * right / total if total else 0.0


def answers(logits: Any, labels: "torch.Tensor") -> "torch.Tensor":  # noqa: ARG001
    """Trainer's preprocess_logits_for_metrics: the classes alone are kept."""
    return class_of(logits)


def more_metrics(values: Mapping[str, Any]) -> dict[str, float]:  # noqa: ARG001
    """Nothing that follows from the others."""
    return {}


def features(
    part: "datasets.Dataset",
    *,
    rows: Rows,
    tokenizer: Any,
    model: Any,
    args: DataArguments,
    cache: Path,
) -> "datasets.Dataset":
    """Token ids of each row or pair, cut at max_seq_length from the longer text, and its class.

    Args:
        part: of the rows: to train on, or to evaluate on.
        rows: that it belongs to.
        tokenizer: of transformers.
        model: that is trained; its config numbers the classes.
        args: where rows are cut.
        cache: Arrow file to write; it is mapped, not read into memory.

    Returns:
        Columns input_ids, token_type_ids where the model tells the texts of a pair apart, label,
        length (after cutting) and whole_length (before).
    """
    import datasets

    assert rows.labels is not None
    column, limit = rows.labels.column, args.max_seq_length
    name = namer(part.features[column])
    ids = {each: i for i, each in enumerate(rows.labels.names)}
    numbers = {each: model.config.label2id.get(each, i) for each, i in ids.items()}
    types = (getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def convert(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [batch[each] for each in rows.text_columns]
        whole = [len(row) for row in encode(tokenizer, texts)["input_ids"]]
        cut = encode(tokenizer, texts, limit, types=types)
        labels = [numbers[name(value) or ""] for value in batch[column]]
        lengths = [len(row) for row in cut["input_ids"]]
        return {**cut, "label": labels, "length": lengths, "whole_length": whole}

    integer = datasets.Value("int32")
    lists = ("input_ids", "token_type_ids") if types else ("input_ids",)
    columns: dict[str, Any] = dict.fromkeys(lists, datasets.List(integer))
    columns |= dict.fromkeys(("label", "length", "whole_length"), integer)
    result: Any = part.map(
        convert,
        batched=True,
        remove_columns=part.column_names,
        features=datasets.Features(columns),
        load_from_cache_file=False,
        cache_file_name=str(cache),
    )
    return result


def collator(tokenizer: Any, args: DataArguments) -> Any:
    """Transformers' own: rows padded to the longest of their batch, with a mask."""
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=args.pad_to_multiple_of)
