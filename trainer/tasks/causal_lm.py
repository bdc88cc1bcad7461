"""Causal language modelling: rows to token ids, batches with padding that no loss is taken of."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.data import tokenise_texts
from advisor.errors import InputError
from advisor.own_arguments import DataArguments
from advisor.rows import Rows

if TYPE_CHECKING:
    import datasets
    import torch
    from transformers import DataCollatorWithFlattening

LABEL_OF_PADDING = -100
"""What the loss of transformers leaves out."""

compute_loss = None
"""The model's own: it counts the items of the update."""


def model_options(rows: Rows, tokenizer: Any, config: Any) -> dict[str, Any]:  # noqa: ARG001
    """What the data says about the model: nothing."""
    return {}


def metrics(rows: Rows) -> None:
    """None: the evaluation loss is the metric."""


def more_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Of an evaluation's: perplexity, the exponential of the loss."""
    if "eval_loss" not in values:
        return {}
    try:
        return {"eval_perplexity": math.exp(values["eval_loss"])}
    except OverflowError:
        return {"eval_perplexity": math.inf}


def features(
    part: "datasets.Dataset",
    *,
    rows: Rows,
    tokenizer: Any,
    model: Any,  # noqa: ARG001
    args: DataArguments,
    cache: Path,
) -> "datasets.Dataset":
    """Token ids of each row, cut at max_seq_length, on disk; or of all texts, packed.

    Args:
        part: of the rows: to train on, or to evaluate on.
        rows: that it belongs to.
        tokenizer: of transformers.
        model: that is trained.
        args: where rows are cut, and whether they are packed (see `_Packer`).
        cache: Arrow file to write; it is mapped, not read into memory.

    Returns:
        Columns input_ids, length (after cutting) and whole_length (before).

    Raises:
        InputError: texts are to be packed and the tokenizer has no end-of-text token.
    """
    (text_column,), max_length = rows.text_columns, args.max_seq_length
    if args.packing and tokenizer.eos_token_id is None:
        raise InputError("train.packing", field="packing")

    def convert(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        whole = tokenise_texts(tokenizer, batch[text_column])
        cut = [ids[:max_length] for ids in whole]
        return {
            "input_ids": cut,
            "length": [len(ids) for ids in cut],
            "whole_length": [len(ids) for ids in whole],
        }

    if not args.packing:
        return _mapped(part, convert, cache)
    packer = _Packer(tokenizer, text_column, max_length)
    blocks = _mapped(part, packer, cache)
    return blocks if len(blocks) else packer.rest()


def _columns() -> "datasets.Features":
    import datasets

    integer = datasets.Value("int32")
    return datasets.Features(
        {"input_ids": datasets.List(integer), "length": integer, "whole_length": integer}
    )


def _mapped(
    rows: "datasets.Dataset", convert: Callable[..., dict[str, list[Any]]], cache: Path
) -> "datasets.Dataset":
    result: Any = rows.map(
        convert,
        batched=True,
        remove_columns=rows.column_names,
        features=_columns(),
        load_from_cache_file=False,
        cache_file_name=str(cache),
    )
    return result


class _Packer:
    """Whole texts, each with its end, as one stream that is cut into blocks of equal length.

    In the order of the file, so that a resumed run makes the same blocks; as run_clm.py does, less
    what does not fill the last block. The loss is taken of every token: the first of a text is
    predicted from the end of the text before it in the block, which attention sees.
    """

    def __init__(self, tokenizer: Any, text_column: str, block_length: int) -> None:
        self._tokenizer = tokenizer
        self._text_column = text_column
        self._block_length = block_length
        self._left: list[int] = []

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The blocks that these texts fill, after what the texts before them left."""
        for ids in tokenise_texts(self._tokenizer, batch[self._text_column]):
            self._left += ids
        size = self._block_length
        end = len(self._left) // size * size
        blocks = [self._left[i : i + size] for i in range(0, end, size)]
        self._left = self._left[end:]
        return _as_columns(blocks)

    def rest(self) -> "datasets.Dataset":
        """What was left: the one row of texts that do not fill a block."""
        import datasets

        return datasets.Dataset.from_dict(_as_columns([self._left]), features=_columns())


def _as_columns(blocks: list[list[int]]) -> dict[str, list[Any]]:
    lengths = [len(ids) for ids in blocks]
    return {"input_ids": blocks, "length": lengths, "whole_length": lengths}


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Pads the rows of a batch to its longest; labels are the ids, and -100 on padding alone.

    Padding is told by position, not by id: where the end-of-text token also pads, the real one at
    the end of a row is still learned.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> "dict[str, torch.Tensor]":
        """A batch: input_ids, attention_mask and labels, each (batch, length) int64."""
        import torch

        lengths = [len(row["input_ids"]) for row in rows]
        width, unit = max(lengths), self.pad_to_multiple_of or 1
        shape = (len(rows), -(-width // unit) * unit)
        input_ids = torch.full(shape, self.pad_token_id, dtype=torch.int64)
        labels = torch.full(shape, LABEL_OF_PADDING, dtype=torch.int64)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            ids = torch.as_tensor(row["input_ids"], dtype=torch.int64)
            input_ids[i, :length] = labels[i, :length] = ids
            attention_mask[i, :length] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def collator(tokenizer: Any, args: DataArguments) -> "Collator | DataCollatorWithFlattening":
    """The collator for a tokenizer that has a padding token.

    Without padding, transformers' own: rows in one, position_ids that start anew with each, and
    -100 for its first token, which nothing in its row predicts.
    """
    if args.padding_free:
        from transformers import DataCollatorWithFlattening

        return DataCollatorWithFlattening()
    return Collator(pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=args.pad_to_multiple_of)
