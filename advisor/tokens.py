"""Texts become tokens, for description and trainer alike. Reads the model's tokenizer from disk."""

import functools
from collections.abc import Sequence
from typing import Any

from advisor import hub
from advisor.errors import InputError
from advisor.model import ModelDescription

CHUNK_ROWS = 1000
"""Rows that are given to a tokenizer at once."""


def tokenise_texts(
    tokenizer: Any, texts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """Token ids of each text as a causal language model is trained on them.

    With the tokenizer's special tokens, and its end-of-text token where it does not add that
    itself; then cut, so that a text that was cut has no end.

    Args:
        tokenizer: of transformers.
        texts: one per row.
        max_length: tokens a row is cut at; None leaves rows whole.
    """
    end = tokenizer.eos_token_id
    rows: list[list[int]] = []
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk = list(texts[start : start + CHUNK_ROWS])
        for ids in tokenizer(chunk, return_attention_mask=False, verbose=False)["input_ids"]:
            if end is not None and (not ids or ids[-1] != end):
                ids.append(end)
            rows.append(ids[:max_length])
    return rows


def encode(
    tokenizer: Any,
    columns: Sequence[Sequence[str]],
    max_length: int | None = None,
    *,
    types: bool | None = False,
) -> dict[str, list[list[int]]]:
    """Each row as a model is asked about it: one text or a pair, with the special tokens.

    Args:
        tokenizer: of transformers.
        columns: the texts of all rows; a second column is the other half of each pair.
        max_length: tokens a row is cut at, from the longer text's end; None leaves rows whole.
        types: whether token_type_ids are wanted beside input_ids.
    """
    found: dict[str, list[list[int]]] = {}
    for start in range(0, len(columns[0]), CHUNK_ROWS):
        texts = [list(column[start : start + CHUNK_ROWS]) for column in columns]
        chunk = tokenizer(
            *texts,
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=types,
            verbose=False,
        )
        for name, rows in chunk.items():
            found.setdefault(name, []).extend(rows)
    return found


def load_tokenizer(model: ModelDescription) -> Any:
    """The tokenizer of a model.

    Raises:
        InputError: it cannot be loaded.
    """
    return _tokenizer_at(model.path, model.fingerprint)


@functools.lru_cache(maxsize=1)
def _tokenizer_at(path: str, _fingerprint: str) -> Any:
    """The one that was loaded last is kept as long as its files are the same."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            hub.model_directory(path), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        text = " ".join(str(error).split()).rstrip(".")
        text = text if len(text) <= 300 else f"{text[:297]}..."
        raise InputError(
            "data.tokenizer", path=path, kind=type(error).__name__, reason=text, field="model"
        ) from error
