"""The fault and the security table, and a labelled data set that several rooms test with.

Tests that pass record a row of a table, the end of the session prints it; rows travel in
`user_properties`, which reach the reporting process from any worker.
"""

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pytest

TABLES = {
    "faults": ("fault", "what was done", "what is said", "lost"),
    "security": ("attack", "what was done", "what happens"),
}


@pytest.fixture(scope="session", autouse=True)
def nobodys_home(tmp_path_factory):
    """No test writes into the home of who runs it, whatever other fixtures undo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def table_row(record_property) -> Callable[..., None]:
    """Adds a row to a table of TABLES, if the test passes; cells in the order of its columns."""

    def add(table: str, *cells: str) -> None:
        assert len(cells) == len(TABLES[table])
        record_property(f"table:{table}", [" ".join(str(cell).split()) for cell in cells])

    return add


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-tables",
        type=Path,
        metavar="FILE",
        help="replace the fault and security tables between the marks of this Markdown file",
    )


def pytest_terminal_summary(terminalreporter) -> None:
    if "not full" in terminalreporter.config.getoption("markexpr"):
        return  # the tables would be a sample
    found = _rows(terminalreporter.stats.get("passed", []))
    for table, rows in found.items():
        terminalreporter.section(f"{table}: {len(rows)} rows")
        terminalreporter.write_line(markdown(table, rows))
    path = terminalreporter.config.getoption("--write-tables")
    if path is not None:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for table, rows in found.items():
            text = splice(text, table, markdown(table, rows))
        path.write_text(text, encoding="utf-8")


def _rows(reports) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for report in reports:
        for name, cells in report.user_properties:
            if name.startswith("table:"):
                rows = found.setdefault(name.removeprefix("table:"), [])
                if cells not in rows:  # the cases of one test may say the same
                    rows.append(list(cells))
    return {table: sorted(found[table]) for table in TABLES if table in found}


def markdown(table: str, rows: list[list[str]]) -> str:
    """A Markdown table."""
    columns = TABLES[table]
    lines = [columns, ["---"] * len(columns), *rows]
    escaped = ([cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def splice(text: str, table: str, new: str) -> str:
    """The text with the block of a table replaced; one without its marks gets them at the end."""
    start, end = f"<!-- {table}: start -->", f"<!-- {table}: end -->"
    if start not in text:
        text = f"{text.rstrip()}\n\n{start}\n{end}\n".lstrip()
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{new}\n{end}{after}"


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
