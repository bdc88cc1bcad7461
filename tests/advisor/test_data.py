"""One reader for all formats, exact token lengths, and the line at fault in a broken file."""

import json
import random
import socket

import numpy as np
import pytest

from advisor import data as data_module
from advisor import demo, file_reading, records
from advisor.data import DataDescription, describe_data, load_rows, tokenise_texts
from advisor.errors import InputError
from advisor.model import describe_model


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def model():
    return describe_model("demo", "causal-lm")


@pytest.fixture(scope="module")
def bare_model(model):
    return describe_model(f"{model.path}/config.json", "causal-lm")


@pytest.fixture(scope="module")
def tokenizer(model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.path, local_files_only=True)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(path, texts):
    return write(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))


def texts_of(loaded):
    """All texts, whichever side of the split they are on."""
    column = loaded.text_column
    return sorted([*loaded.train[column], *loaded.evaluation[column]])


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        load_rows(path, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "format_"),
    [
        ("a.jsonl", '{"text": "one, \\u00e9"}\n\n{"text": "two"}\n', "jsonl"),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "one, \xc3\xa9"}\r\n{"text": "two"}', "jsonl"),
        ("a.json", '\n[{"text": "one, é"},\n {"text": "two"}]', "json"),
        ("a.json", '["one, é", "two"]', "json"),
        ("a.json", '{"text": "one, é"}\n{"text": "two"}\n', "jsonl"),
        ("a.csv", 'id,text\n1,"one, é"\n2,two\n', "csv"),
        ("a.TXT", "one, é\r\n\r\ntwo\r\n", "txt"),
        ("a.txt", b"\xef\xbb\xbfone, \xc3\xa9\ntwo", "txt"),
    ],
)
def test_every_format_gives_the_same_texts(tmp_path, name, content, format_):
    loaded = load_rows(write(tmp_path / name, content))
    assert texts_of(loaded) == ["one, é", "two"]
    assert loaded.format == format_
    assert loaded.text_column == "text"


def test_a_changed_file_is_read_again(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["a", "b"])
    assert texts_of(load_rows(path)) == ["a", "b"]
    write_rows(path, ["c", "d", "e"])
    assert texts_of(load_rows(path)) == ["c", "d", "e"]


def test_words_and_numbers_of_a_csv_stay_text(tmp_path):
    path = write(tmp_path / "a.csv", "text,n\nNA,1\nNone,2\n007,3\n")
    assert texts_of(load_rows(path)) == ["007", "NA", "None"]


def test_rows_without_text_are_counted_and_left_out(tmp_path):
    values = ["a", "", " \n", None, 3, ["x"], {"y": 1}, " b ", "4"]
    lines = [json.dumps({"text": value, "k": 1}) for value in values] + ['{"k": 1}']
    loaded = load_rows(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert texts_of(loaded) == [" b ", "4", "a"]
    assert loaded.num_empty_rows == 7
    assert "'text' of a.jsonl mixes types" in loaded.notes[0]
    assert "7 of 10 rows" in loaded.notes[1]
    array = write(tmp_path / "a.json", json.dumps([{"text": value} for value in values]))
    assert texts_of(load_rows(array)) == [" b ", "4", "a"]


def test_other_columns_are_kept(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
    assert load_rows(path).train.column_names == ["text", "label"]


@pytest.mark.parametrize("drift", [{"text": "z", "new": 1}, {"text": "z", "n": "word"}])
def test_a_column_that_changes_late_costs_only_that_column(tmp_path, drift):
    long = [json.dumps({"text": f"{i} " + "x" * 1000, "n": 1}) for i in range(11_000)]
    path = write(tmp_path / "a.jsonl", "\n".join([*long, json.dumps(drift)]))
    loaded = load_rows(path)
    assert len(loaded.train) + len(loaded.evaluation) == 11_001
    assert "Only column 'text'" in loaded.notes[0]
    assert "z" in texts_of(loaded)


# pandas leaves its reader to the garbage collector when the schema fails half way
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_csv_column_that_changes_late_costs_only_that_column(tmp_path):
    path = write(tmp_path / "a.csv", "text,n\n" + "a,1\n" * 25_000 + "b,word\n")
    loaded = load_rows(path)
    assert "Only column 'text'" in loaded.notes[0]
    assert len(loaded.train) + len(loaded.evaluation) == 25_001


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b\n', ["line 2", "not valid JSON"]),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "\xff"}\n', ["line 3", "0xff", "UTF-8"]),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', ["line 2", "JSON object", '["b"]']),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', ["line 2", "\\ud800"]),
        ("a.json", '[{"text": "a"},\n {"text": "b"]', ["line 2", "not valid JSON"]),
        ("a.json", '[{"text": "a"}, 5]', ["item 2", "JSON object", "got 5"]),
        ("a.json", '{"data": [{"text": "a"}],\n "x": 1}', ["one JSON object", "array"]),
        ("a.csv", "text,n\na,1\nb,2,3\n", ["line 3", "3 fields", "header has 2"]),
        ("a.csv", b"text,n\na,1\n\xe9,2\n", ["line 3", "0xe9", "UTF-8"]),
        ("a.csv", 'text,n\na,1\n"b,2\nc,3\n', ["line 3", "not valid CSV"]),
        ("a.csv", "text,n\n", ["a header and no rows"]),
        ("a.txt", b"a\n\xff\n", ["line 2", "0xff", "UTF-8"]),
        ("a.txt", "one\ntwo".encode("utf-16"), ["UTF-16", "byte order mark", "UTF-8"]),
        ("a.txt", " \n\n", ["is empty"]),
        ("a.jsonl", "", ["is empty"]),
        ("a.parquet", "x", ["no parquet file", "PAR1"]),
        ("a.xlsx", "x", [".jsonl, .ndjson, .json, .csv, .tsv, .txt, .parquet", "'a.xlsx'"]),
        ("a.txt", "alone", ["one row", "at least 2"]),
        ("a.jsonl", '{"text": null}\n{"text": null}\n', ["None of its columns", "text (null)"]),
        ("a.jsonl", '{"text": ""}\n{"text": " "}\n', ["no row with text", "'text'"]),
        ("a.jsonl", '{"x": "a", "y": "b"}\n{"x": "c", "y": "d"}\n', ["Choose", "x, y"]),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path, name, content, parts):
    path = write(tmp_path / name, content)
    sentence = refusal(path)
    assert name in sentence
    assert [part for part in parts if part not in sentence] == []


def test_columns_are_found_or_named(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"id": 1, "body": "a"}\n{"id": 2, "body": "b"}\n')
    assert load_rows(path).text_column == "body"
    sentence = refusal(path, text_column="text")
    assert "no column 'text'" in sentence
    assert "id, body" in sentence
    assert "holds no text" in refusal(path, text_column="id")
    usual = write(
        tmp_path / "b.jsonl", '{"id": "1", "content": "a"}\n{"id": "2", "content": "b"}\n'
    )
    assert load_rows(usual).text_column == "content"
    assert load_rows(usual, text_column="id").text_column == "id"


def test_missing_files_and_folders_are_refused(tmp_path):
    assert "There is no data file" in refusal(tmp_path / "none.jsonl")
    assert "holds no data file" in refusal(tmp_path)


def test_the_split_is_the_same_each_time_and_said(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [f"row {i}" for i in range(200)])
    first, second = load_rows(path), load_rows(path)
    assert first.evaluation["text"][:] == second.evaluation["text"][:]
    assert (len(first.train), len(first.evaluation)) == (180, 20)
    assert not set(first.train["text"]) & set(first.evaluation["text"])
    assert texts_of(first) == sorted(f"row {i}" for i in range(200))
    assert "20 of 200 rows (10 %)" in first.notes[0]
    assert len(load_rows(path, validation_split_percentage=20).evaluation) == 40
    assert len(load_rows(path, validation_split_percentage=1).evaluation) == 2  # as asked
    assert "between 0 and 100" in refusal(path, validation_split_percentage=0)


@pytest.mark.parametrize(
    ("rows", "held", "is_few"),
    [(2, 1, True), (50, 10, True), (100, 20, True), (400, 20, True), (1000, 50, False)],
)
def test_of_few_rows_a_larger_share_is_held_out(tmp_path, rows, held, is_few):
    path = write_rows(tmp_path / "a.jsonl", [f"row {i}" for i in range(rows)])
    loaded = load_rows(path)
    assert len(loaded.evaluation) == held
    found = [f for f in loaded.findings if f.id == "data.few_evaluation_rows"]
    assert bool(found) == is_few
    assert not found or found[0].params == {"rows": held}


def test_the_split_has_an_upper_bound_and_a_lower_one(tmp_path):
    many = write(tmp_path / "many.txt", "".join(f"{i}\n" for i in range(50_000)))
    assert len(load_rows(many).evaluation) == 2000
    assert "2,000 of 50,000 rows (4 %)" in load_rows(many).notes[0]
    two = load_rows(write(tmp_path / "two.txt", "a\nb\n"))
    assert (len(two.train), len(two.evaluation)) == (1, 1)


def test_a_validation_file_is_used_whole(tmp_path, model):
    train = write(tmp_path / "t.jsonl", '{"body": "a"}\n')
    other = write(tmp_path / "v.csv", "body\nb\nc\n\n")
    loaded = load_rows(train, validation_path=other)
    assert loaded.train["body"][:] == ["a"]
    assert loaded.evaluation["body"][:] == ["b", "c"]
    assert [finding.id for finding in loaded.findings] == ["data.few_evaluation_rows"]
    wrong = write(tmp_path / "w.csv", "text\nb\n")
    assert "no column 'body'" in refusal(train, validation_path=wrong)
    found = describe_data(train, model=model, task="causal-lm", validation_path=other)
    assert found.lengths == (2, 2, 2)
    assert found.validation_path == str(other)


def test_tokens_are_bytes_and_an_end_with_the_demo_tokenizer(tokenizer):
    texts = ["abc", "", "é€", "x<eos>"]
    assert tokenise_texts(tokenizer, texts) == [
        [97, 98, 99, 257],
        [257],
        [0xC3, 0xA9, 0xE2, 0x82, 0xAC, 257],
        [120, 257],  # an end that is there is not doubled
    ]
    assert tokenise_texts(tokenizer, texts, 2) == [[97, 98], [257], [0xC3, 0xA9], [120, 257]]
    assert len(tokenise_texts(tokenizer, ["a"] * 2500)) == 2500


def test_special_tokens_of_the_tokenizer_are_kept_and_no_warning_is_given(tokenizer, caplog):
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = type(tokenizer._tokenizer).from_str(tokenizer._tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<pad> $A <eos>", special_tokens=[("<pad>", 256), ("<eos>", 257)]
    )
    framed = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    framed.model_max_length = 2
    assert tokenise_texts(framed, ["abc"]) == [[256, 97, 98, 99, 257]]
    assert caplog.text == ""


def test_a_tokenizer_without_an_end_adds_none(tokenizer):
    from transformers import PreTrainedTokenizerFast

    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, pad_token="<pad>")
    assert tokenise_texts(endless, ["a", ""]) == [[97], []]


def test_lengths_are_those_counted_by_hand(tmp_path, model):
    texts = ["a" * n for n in (5, 1, 30, 2, 2)] + ["é" * 10, " "]
    found = describe_data(write_rows(tmp_path / "a.jsonl", texts), model=model, task="causal-lm")
    assert found.lengths == (2, 3, 3, 6, 21, 31)
    assert found.length_source == "tokenizer"
    assert found.num_measured_rows == found.num_rows + found.num_eval_rows == 6
    assert found.num_empty_rows == 1
    assert found.mean_tokens == pytest.approx(66 / 6)
    assert (found.p50_tokens, found.p95_tokens, found.p99_tokens, found.max_tokens) == (
        3,
        31,
        31,
        31,
    )
    assert found.format == "jsonl"
    assert found.columns == ("text",)
    text = json.dumps(records.encode(found), allow_nan=False)
    assert records.decode(DataDescription, json.loads(text)) == found


def test_quantiles_are_exact(model):
    ordered = list(range(1, 101))
    assert [data_module._quantile(ordered, q) for q in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert data_module._quantile([7], 0.99) == 7


def test_random_batches_are_the_same_each_time_and_longer_the_more_rows(model):
    described = describe_data("demo", model=model, task="causal-lm")
    alone, four = (described.batch_lengths(size, 600, 400) for size in (1, 4))
    assert alone == described.batch_lengths(1, 600, 400)
    assert set(alone) <= {min(n, 600) for n in described.lengths}
    assert len(set(alone)) > 50
    for found, size in ((alone, 1), (four, 4)):
        expected = described.expected_batch_length(size, 600)
        assert abs(sum(found) / 400 - expected) < 0.1 * expected


def test_grouped_batches_fall_from_the_longest_and_hold_rows_of_a_length(model):
    described = describe_data("demo", model=model, task="causal-lm")
    grouped = described.batch_lengths(8, 10_000, 12, grouped=True)
    assert grouped == sorted(grouped, reverse=True)
    assert len(set(grouped)) > 8
    assert sum(grouped) < 0.8 * sum(described.batch_lengths(8, 10_000, 12))


def test_without_a_tokenizer_lengths_are_bytes_and_marked(tmp_path, bare_model):
    path = write_rows(tmp_path / "a.jsonl", ["a" * 8, "a" * 9, "é" * 6])
    found = describe_data(path, model=bare_model, task="causal-lm")
    assert found.lengths == (2, 3, 3)
    assert found.length_source == "bytes"
    assert any("no tokenizer" in note for note in found.notes)


def test_a_large_file_is_sampled_all_over_and_says_so(tmp_path, model, monkeypatch):
    monkeypatch.setattr(data_module, "_SAMPLE_ROWS", 500)
    head, tail = ["a" * 10] * 2000, ["b" * 20] * 2000  # a head would see only tens
    path = write_rows(tmp_path / "a.jsonl", [*head, "c" * 999, *tail])
    found = describe_data(path, model=model, task="causal-lm")
    assert found.num_measured_rows == 500
    assert 0.4 < sum(n == 21 for n in found.lengths) / 500 < 0.6
    assert any("sampled 500 of 4,001 rows" in note for note in found.notes)
    assert found.max_tokens == found.lengths[-1] == 1000  # the longest is found outside the sample
    assert found.mean_tokens < 22
    again = describe_data(path, model=model, task="causal-lm")
    assert again.lengths == found.lengths


def test_a_sample_is_bounded_in_bytes_too(tmp_path, model, monkeypatch):
    monkeypatch.setattr(data_module, "_SAMPLE_BYTES", 10_000)
    path = write_rows(tmp_path / "a.jsonl", ["a" * 1000] * 50)
    found = describe_data(path, model=model, task="causal-lm")
    assert found.num_measured_rows == 10
    assert any("sampled 10 of 50 rows" in note for note in found.notes)


def test_reduction_keeps_ends_and_quantiles(monkeypatch):
    rng = random.Random(0)
    ordered = sorted(int(rng.lognormvariate(5, 1)) for _ in range(100_000))
    kept = data_module._reduce(ordered)
    assert len(kept) == 20_000
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (ordered[0], ordered[-1])
    for share in (10, 50, 90, 99):
        assert np.percentile(kept, share) == pytest.approx(np.percentile(ordered, share), rel=0.01)
    assert data_module._reduce([3, 4]) == [3, 4]


def test_the_demo_is_measured_whole(model):
    found = describe_data("demo", model=model, task="causal-lm")
    assert found.name == "demo"
    assert found.num_rows + found.num_eval_rows == found.num_measured_rows == demo._NUM_ROWS
    assert found.lengths[0] >= 65
    assert found.max_tokens <= 1001
    assert len(found.preview) == 5
    assert all(0 < len(text) <= 300 for text in found.preview)


def test_the_fingerprint_follows_file_column_and_validation_file(tmp_path, bare_model):
    path = write(tmp_path / "a.csv", "x,y\na,b\nc,d\n")

    def fingerprint(column, **more):
        return describe_data(
            path, model=bare_model, task="causal-lm", text_column=column, **more
        ).fingerprint

    x, y = fingerprint("x"), fingerprint("y")
    assert fingerprint("x") == x
    with_file = fingerprint("x", validation_path=write(tmp_path / "b.csv", "x\nq\n"))
    write(path, "x,y\na,b\nc,d\ne,f\n")
    assert len({x, y, with_file, fingerprint("x")}) == 4


def test_a_broken_tokenizer_is_refused_by_name(tmp_path, model):
    (tmp_path / "config.json").write_text(json.dumps(model.config), "utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    broken = describe_model(str(tmp_path), "causal-lm")
    assert broken.has_tokenizer
    with pytest.raises(InputError, match=r"tokenizer in .* cannot be loaded") as caught:
        describe_data("demo", model=broken, task="causal-lm")
    assert "\n" not in str(caught.value)


def test_code_of_a_tokenizer_is_never_run(tmp_path, model):
    (tmp_path / "config.json").write_text(json.dumps(model.config), "utf-8")
    settings = {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "EvilTok"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Tok: pass\n", "utf-8")
    with pytest.raises(InputError, match="cannot be loaded"):
        describe_data("demo", model=describe_model(str(tmp_path), "causal-lm"), task="causal-lm")
    assert not marker.exists()


def test_nothing_reaches_for_the_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = describe_model("demo", "causal-lm")
    path = write_rows(tmp_path / "a.jsonl", ["never read", "before"])
    assert describe_data(path, model=found, task="causal-lm").num_measured_rows == 2


def test_the_progress_bars_of_datasets_come_back(tmp_path):
    import datasets

    before = datasets.are_progress_bars_disabled()
    load_rows(write_rows(tmp_path / "a.jsonl", ["a", "b"]))
    with file_reading.quiet():
        assert datasets.are_progress_bars_disabled()
    assert datasets.are_progress_bars_disabled() == before


def test_packed_rows_are_full_blocks_of_all_tokens(tmp_path, model):
    texts = ["a" * n for n in range(10, 200)]
    path = write_rows(tmp_path / "rows.jsonl", texts)
    other = write_rows(tmp_path / "other.jsonl", texts)
    data = describe_data(path, model=model, task="causal-lm", validation_path=other)
    packed = data.packed(64)
    assert packed.num_rows == packed.num_eval_rows == sum(n + 1 for n in range(10, 200)) // 64
    assert (packed.max_tokens, packed.padding_share(8, 64)) == (64, 0.0)
    assert packed.expected_batch_length(8, 64) == 64
    assert packed.share_cut(64) == 0.0


def test_less_than_a_block_is_one_shorter_row(tmp_path, model):
    path = write_rows(tmp_path / "rows.jsonl", ["abc"] * 4)
    packed = describe_data(path, model=model, task="causal-lm").packed(1024)
    assert (packed.num_rows, packed.num_eval_rows, packed.max_tokens) == (1, 1, 12)
