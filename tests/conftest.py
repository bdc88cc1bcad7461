"""A tokenizer of whole words and labelled rows, for tests of classification."""

import csv
import random

import pytest

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "poor", "dull")
NEUTRAL = ("the", "film", "song", "story", "very", "quite", "rather", "long", "short", "about")
WORDS = (*GOOD, *BAD, *NEUTRAL)


@pytest.fixture(scope="session")
def save_tokenizer():
    """(folder) -> the tokenizer's files in it: [CLS] text [SEP], and a pair with another [SEP]."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    def save(folder):
        ids = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
        words = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        names = ("pad_token", "unk_token", "cls_token", "sep_token")
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, **dict(zip(names, SPECIAL, strict=True))
        ).save_pretrained(folder)

    return save


@pytest.fixture(scope="session")
def reviews(tmp_path_factory, save_tokenizer):
    """A folder with `reviews.csv`, 100 rows of text and label, and `bert`, without a head."""
    import torch
    import transformers

    root = tmp_path_factory.mktemp("reviews")
    draw = random.Random(0)
    rows = []
    for i in range(100):
        words = draw.choices(NEUTRAL, k=draw.randint(3, 20))
        words.insert(draw.randrange(len(words)), draw.choice(GOOD if i % 2 else BAD))
        rows.append((" ".join(words), "positive" if i % 2 else "negative"))
    with (root / "reviews.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    torch.manual_seed(0)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=64,
        )
    ).save_pretrained(root / "bert")
    save_tokenizer(root / "bert")
    return root
