"""Batches of causal language modelling."""

from trainer.tasks.causal_lm import Collator


def rows(*lists):
    return [{"input_ids": ids, "length": len(ids)} for ids in lists]


def test_padding_alone_has_no_label_even_where_its_token_ends_a_row():
    batch = Collator(pad_token_id=9)(rows([1, 2, 9], [3, 9]))
    assert batch["input_ids"].tolist() == [[1, 2, 9], [3, 9, 9]]
    assert batch["labels"].tolist() == [[1, 2, 9], [3, 9, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_length_is_the_longest_row_rounded_up():
    batch = Collator(pad_token_id=0, pad_to_multiple_of=8)(rows([1] * 9, [1]))
    assert batch["input_ids"].shape == (2, 16)
    assert int(batch["attention_mask"].sum()) == 10


def test_without_rounding_nothing_is_added():
    assert Collator(pad_token_id=0)(rows([1] * 9, [1] * 9))["attention_mask"].min() == 1
