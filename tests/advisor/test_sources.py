"""Which files hold the rows: formats, compressed files, globs, directories; never a traceback."""

import bz2
import gc
import gzip
import json
import lzma
import os
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from advisor import file_formats, row_sampling, sources
from advisor.errors import InputError
from advisor.locale import LANGUAGES, render
from advisor.rows import load_rows


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def jsonl(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def texts_of(loaded):
    column = loaded.text_column
    return sorted([*loaded.train[column], *loaded.evaluation[column]])


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        load_rows(path, **options)
    for lang in LANGUAGES:
        assert "\n" not in caught.value.sentence(lang)
    return str(caught.value)


def ids(loaded):
    return [finding.id for finding in loaded.findings]


def test_parquet_keeps_columns_and_types(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", text=["one", "two", None, ""], n=[1, 2, 3, 4])
    loaded = load_rows(path)
    assert texts_of(loaded) == ["one", "two"]
    assert loaded.format == "parquet"
    assert loaded.train.column_names == ["text", "n"]
    assert loaded.num_empty_rows == 2
    left = next(f for f in loaded.findings if f.id == "data.left_out")
    assert (left.params["file"], left.params["row"]) == ("a.parquet", 3)
    whole = path.read_bytes()
    write(path, whole[:-20])
    assert "a.parquet cannot be read as parquet" in refusal(path)
    write(path, b"")
    assert "is empty" in refusal(path)


def test_tsv_is_split_at_tabs_and_keeps_commas(tmp_path):
    path = write(tmp_path / "a.tsv", 'id\ttext\n1\t"one, ""quoted"""\n007\ttwo\n')
    loaded = load_rows(path)
    assert texts_of(loaded) == ['one, "quoted"', "two"]
    assert loaded.format == "tsv"
    sentence = refusal(write(tmp_path / "b.tsv", "id\ttext\n1\ta\n2\tb\tc\n"))
    assert "line 3: 3 fields where the header has 2" in sentence


def test_another_delimiter_is_said_and_not_trained_on(tmp_path):
    sentence = refusal(write(tmp_path / "a.csv", "id;text\n1;one\n2;two\n"))
    assert "one field that holds ;" in sentence
    assert "one field that holds tab" in refusal(write(tmp_path / "b.csv", "id\ttext\n1\tone\n"))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda raw: pa.compress(raw, codec="zstd", asbytes=True)),
    ],
)
def test_compressed_files_are_unpacked_once(tmp_path, suffix, pack):
    content = jsonl("one", "two, é")
    path = write(tmp_path / f"a.jsonl{suffix}", pack(content))
    assert texts_of(load_rows(path)) == ["one", "two, é"]
    assert load_rows(path).format == "jsonl"
    table = write(tmp_path / f"b.csv{suffix}", pack(b"text,n\none,1\ntwo,2\n"))
    assert texts_of(load_rows(table)) == ["one", "two"]
    cut = write(tmp_path / f"c.jsonl{suffix}", pack(content)[:-9])
    assert f"c.jsonl{suffix} cannot be unpacked" in refusal(cut)
    none = write(tmp_path / f"d.jsonl{suffix}", b"this is no archive")
    assert "cannot be unpacked" in refusal(none)
    broken = write(tmp_path / f"e.jsonl{suffix}", pack(jsonl("a") + b'{"text": \n'))
    assert f"{broken}, line 2: not valid JSON" in refusal(broken)  # the user's file, not our copy


def test_a_changed_compressed_file_is_unpacked_again(tmp_path):
    path = write(tmp_path / "a.txt.gz", gzip.compress(b"a\nb\n"))
    assert texts_of(load_rows(path)) == ["a", "b"]
    write(path, gzip.compress(b"c\nd\ne\n"))
    assert texts_of(load_rows(path)) == ["c", "d", "e"]


def test_a_directory_is_split_by_the_names_of_its_files(tmp_path):
    write(tmp_path / "train-0.jsonl", jsonl("a"))
    write(tmp_path / "train-1.jsonl", jsonl("b", "c"))
    write(tmp_path / "dev.jsonl", jsonl("d"))
    write(tmp_path / "test.jsonl", jsonl("e"))
    write(tmp_path / "README.md", "words")
    write(tmp_path / ".hidden.jsonl", "broken")
    loaded = load_rows(tmp_path)
    assert loaded.train["text"][:] == ["a", "b", "c"]
    assert loaded.evaluation["text"][:] == ["d"]
    few = "data.few_evaluation_rows"
    assert ids(loaded) == ["data.validation_split", "data.test_split", few]


def test_a_directory_of_folders_and_one_without_names(tmp_path):
    write(tmp_path / "a" / "train" / "0.csv", "text\na\n")
    write(tmp_path / "a" / "validation" / "0.csv", "text\nb\n")
    loaded = load_rows(tmp_path / "a")
    assert (loaded.train["text"][:], loaded.evaluation["text"][:]) == (["a"], ["b"])
    write(tmp_path / "b" / "x.txt", "a\nb\n")
    write(tmp_path / "b" / "y.txt", "c\n")
    loaded = load_rows(tmp_path / "b")
    assert texts_of(loaded) == ["a", "b", "c"]
    assert ids(loaded) == ["data.held_out", "data.few_evaluation_rows"]


def test_files_of_another_format_are_left_out_and_said(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, jsonl(name))
    write(tmp_path / "c.csv", "text\nc\n")
    loaded = load_rows(tmp_path)
    assert texts_of(loaded) == ["a.jsonl", "b.jsonl"]
    finding = next(f for f in loaded.findings if f.id == "data.files_left_out")
    assert (finding.params["count"], finding.params["first"]) == (1, "c.csv")


def test_directories_that_hold_nothing_to_train_on(tmp_path):
    assert "holds no data file" in refusal(tmp_path)
    write(tmp_path / "test.jsonl", jsonl("a", "b"))
    assert "holds no training rows" in refusal(tmp_path)


def test_a_saved_data_set(tmp_path):
    import datasets

    train = datasets.Dataset.from_dict({"text": ["a", "b", ""], "n": [1, 2, 3]})
    train.save_to_disk(tmp_path / "one")
    loaded = load_rows(tmp_path / "one")
    assert texts_of(loaded) == ["a", "b"]
    assert loaded.format == "arrow"
    evaluation = datasets.Dataset.from_dict({"text": ["c"], "n": [4]})
    both = datasets.DatasetDict({"train": train, "validation": evaluation})
    both.save_to_disk(tmp_path / "two")
    loaded = load_rows(tmp_path / "two")
    assert (loaded.train["text"][:], loaded.evaluation["text"][:]) == (["a", "b"], ["c"])
    (tmp_path / "one" / "state.json").write_text("{}", "utf-8")
    assert "cannot be read as arrow" in refusal(tmp_path / "one")


def test_a_glob_reads_all_that_match_in_order(tmp_path):
    for i, text in enumerate("ab"):
        write(tmp_path / f"part{i}.jsonl", jsonl(text))
    write(tmp_path / "other.txt", "c\n")
    assert texts_of(load_rows(tmp_path / "part*.jsonl")) == ["a", "b"]
    assert "No file matches" in refusal(tmp_path / "*.parquet")
    assert "several formats (jsonl, txt)" in refusal(tmp_path / "*")


def test_columns_that_differ_between_files(tmp_path):
    write(tmp_path / "0.jsonl", b'{"text": "a", "n": 1}\n')
    write(tmp_path / "1.jsonl", b'{"text": "b", "n": "x", "more": 1}\n')
    loaded = load_rows(tmp_path)
    assert texts_of(loaded) == ["a", "b"]
    finding = next(f for f in loaded.findings if f.id == "data.columns_left_out")
    assert finding.params["names"] == ["more", "n"]
    write(tmp_path / "2.jsonl", b'{"body": "c"}\n')
    sentence = refusal(tmp_path)
    assert "2.jsonl has the columns body" in sentence
    assert "0.jsonl" in sentence
    write(tmp_path / "2.jsonl", b'{"text": null}\n')
    assert texts_of(load_rows(tmp_path)) == ["a", "b"]


def test_a_fault_in_the_second_file_is_named_there(tmp_path):
    write(tmp_path / "0.txt", "a\n")
    write(tmp_path / "1.txt", b"b\n\xe4\n")
    sentence = refusal(tmp_path)
    assert f"{tmp_path / '1.txt'}, line 2: the byte 0xe4 at offset 2" in sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl("a", "b"))
    path.chmod(0)
    assert "cannot be opened: Permission denied" in refusal(path)


def test_an_unreadable_file_is_one_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", jsonl("a", "b"))

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(file_formats.Path, "open", refuse)
    assert refusal(path) == f"{path} cannot be opened: Permission denied; check its permissions."


def test_names_of_splits_are_words_not_parts_of_words():
    known = {"train.csv": "train", "my-dev_1.csv": "validation", "Test 2.csv": "test"}
    for name, split in known.items():
        assert sources._split_of(name) == split
    for name in ("trainer.csv", "developers.csv", "contest.csv", "rows.csv"):
        assert sources._split_of(name) is None


def test_stamps_follow_every_file(tmp_path):
    path = write(tmp_path / "d" / "a.txt", "a\nb\n")
    before = [sources.stamp(str(p)) for p in (path, path.parent, path.parent / "*.txt")]
    write(path, "a\nbc\n")
    after = [sources.stamp(str(p)) for p in (path, path.parent, path.parent / "*.txt")]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert sources.stamp("nobody/nothing") == ()


NAMES = [f"f{suffix}" for suffix in file_formats.SUFFIXES] + ["f.jsonl.gz", "f.csv.xz", "f.txt.zst"]
PIECES = st.sampled_from(
    [
        b'{"text": "a"}',
        b'{"text": 1}',
        b'{"text": null, "x": {"y": [1]}}',
        b'["text"]',
        b"[",
        b"]",
        b"{",
        b"text,n",
        b"text\tn",
        b"a,b,c",
        b'"',
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b'{"text": "\\ud800"}',
        b"1" * 5000,
        b"[" * 3000,
        b"NaN",
        b"PAR1",
        b"PK\x03\x04",
        "é".encode("latin-1"),
        b",",
        b" ",
    ]
)
CONTENT = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join))


def loaded_or_refused(path, **options):
    try:
        return load_rows(path, **options)
    except InputError as error:
        return error


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(NAMES), content=CONTENT, packed=st.booleans())
@example(name="f.json", content=b"[" * 100_000, packed=False)
@example(name="f.jsonl", content=b'{"text":' + b"[" * 100_000 + b"\n", packed=False)
def test_any_content_is_an_answer_or_one_sentence(tmp_path, name, content, packed):
    if packed and name.endswith(".gz"):
        content = gzip.compress(content)
    path = write(tmp_path / name, content)
    for large_bytes in (10**9, -1):  # read whole, and as if it were large
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(row_sampling, "LARGE_BYTES", large_bytes)
            answer = loaded_or_refused(path, sample=True)
        if isinstance(answer, InputError):
            assert all(answer.sentence(lang) for lang in LANGUAGES)
            continue
        assert len(answer.train) >= 1
        assert len(answer.evaluation) >= 1
        assert all(text.strip() for text in answer.train[answer.text_column])
        assert all(render(f, lang) for f in answer.findings for lang in LANGUAGES)
    gc.collect()  # pandas leaves a reader open whose file it cannot read


def test_a_zip_is_refused_by_its_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jsonl", "x")
    assert "must end in" in refusal(tmp_path / "a.zip")
