"""Batches of causal language modelling."""

from types import SimpleNamespace

import datasets
import pytest
import torch
import transformers

from advisor import demo
from advisor.errors import InputError
from advisor.own_arguments import DataArguments
from trainer.tasks.causal_lm import Collator, collator, features


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


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        return transformers.AutoTokenizer.from_pretrained(demo.materialise().model)


def pack(texts, tokenizer, path, length=16):
    data = datasets.Dataset.from_dict({"text": texts})
    args = DataArguments(train_file="", max_seq_length=length, packing=True)
    rows = SimpleNamespace(text_columns=("text",))
    return features(data, rows=rows, tokenizer=tokenizer, model=None, args=args, cache=path)


def test_packed_blocks_are_full_and_hold_every_token_in_order(tokenizer, tmp_path):
    texts = [chr(97 + i % 26) * (1 + i % 40) for i in range(2500)]  # three calls of map
    stream = [t for text in texts for t in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    blocks = pack(texts, tokenizer, tmp_path / "a.arrow")
    assert len(blocks) == len(stream) // 16
    assert set(blocks["length"]) == set(blocks["whole_length"]) == {16}
    assert [t for ids in blocks["input_ids"] for t in ids] == stream[: len(blocks) * 16]
    again = pack(texts, tokenizer, tmp_path / "b.arrow")
    assert again["input_ids"][:] == blocks["input_ids"][:]


def test_a_packed_batch_has_no_mask_and_a_label_for_every_token(tokenizer, tmp_path):
    blocks = pack(["one", "two", "three"] * 10, tokenizer, tmp_path / "a.arrow", 8)
    batch = Collator(pad_token_id=tokenizer.pad_token_id)([blocks[i] for i in range(4)])
    assert batch["input_ids"].shape == (4, 8)
    assert batch["attention_mask"].min() == 1
    assert batch["labels"].equal(batch["input_ids"])


def test_texts_that_fill_no_block_are_one_shorter_row(tokenizer, tmp_path):
    assert pack(["abc"] * 3, tokenizer, tmp_path / "a.arrow", 64)["length"][:] == [12]


def test_packing_needs_an_end_of_text(tmp_path):
    with pytest.raises(InputError, match="end-of-text"):
        pack(["abc"], SimpleNamespace(eos_token_id=None), tmp_path / "a.arrow")


def test_a_flattened_batch_has_the_loss_of_the_padded_one(tokenizer):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=300,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    texts = rows([5, 6, 7, 2], [8, 2], [9, 10, 11, 12, 13, 2])
    flat = collator(tokenizer, DataArguments(train_file="", padding_free=True))(texts)
    assert flat["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5]]
    assert flat["labels"].tolist() == [[-100, 6, 7, 2, -100, 2, -100, 10, 11, 12, 13, 2]]
    assert "attention_mask" not in flat
    padded = collator(tokenizer, DataArguments(train_file=""))(texts)
    with torch.no_grad():
        loss = model(**flat).loss.item()
        assert loss == pytest.approx(model(**padded).loss.item(), abs=1e-5)
        del flat["position_ids"]  # the borders of the rows
        assert abs(model(**flat).loss.item() - loss) > 1e-4
