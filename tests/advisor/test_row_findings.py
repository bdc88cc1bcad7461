"""What is said about rows before the first step, with file and row; in both languages."""

import json

import pytest

from advisor import records, row_findings
from advisor.data import DataDescription, describe_data
from advisor.errors import InputError
from advisor.locale import LANGUAGES, catalogue, render
from advisor.model import describe_model
from advisor.rows import load_rows


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def write_rows(path, *texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    return path


def finding(loaded, message_id):
    found = [f for f in loaded.findings if f.id == message_id]
    assert len(found) == 1, [f.id for f in loaded.findings]
    for lang in LANGUAGES:
        assert render(found[0], lang)
    return found[0].params


def test_repeats_are_counted_with_the_first_place(tmp_path):
    write_rows(tmp_path / "a.jsonl", "x", "y", "x ")
    write_rows(tmp_path / "b.jsonl", "z", "", "y", "y")
    params = finding(load_rows(tmp_path), "data.duplicates")
    assert (params["count"], params["rows"]) == (2, 6)  # "x " is another text, "" is none
    assert (params["file"], params["row"]) == ("b.jsonl", 3)
    assert (params["first_file"], params["first_row"]) == ("a.jsonl", 2)


def test_no_repeat_no_finding(tmp_path):
    loaded = load_rows(write_rows(tmp_path / "a.jsonl", *map(str, range(1000))))
    assert [f.id for f in loaded.findings] == ["data.held_out"]
    assert not any(map(row_findings.is_warning, loaded.findings))


def test_rows_that_are_trained_and_evaluated_on(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", "a", "b", "c")
    other = write_rows(tmp_path / "dev.jsonl", "c", "d", "a")
    params = finding(load_rows(train, validation_path=other), "data.overlap")
    assert params == {"count": 2, "rows": 3}
    same = load_rows(write_rows(tmp_path / "same.jsonl", *["a"] * 40))
    assert finding(same, "data.overlap")["count"] == 8  # held out of the same text


def test_empty_rows_name_the_first(tmp_path):
    loaded = load_rows(write_rows(tmp_path / "a.jsonl", "a", "b", "", None, " "))
    params = finding(loaded, "data.left_out")
    assert (params["count"], params["rows"], params["row"]) == (3, 5, 3)
    assert loaded.num_empty_rows == 3


def test_broken_characters(tmp_path):
    loaded = load_rows(write_rows(tmp_path / "a.jsonl", "a", "b\0", "Gr\ufffd\ufffde", "c\0"))
    assert finding(loaded, "data.nul")["count"] == 2
    assert finding(loaded, "data.nul")["row"] == 2
    assert finding(loaded, "data.replaced")["row"] == 3


def test_short_rows_of_a_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,a,b\n"x\ny",1,2\nz,1\n\nw\nv,1,2\n', "utf-8")
    params = finding(load_rows(path), "data.ragged")
    assert (params["count"], params["rows"], params["line"]) == (2, 4, 4)


def test_every_finding_has_words_and_the_list_of_mere_information_is_of_them():
    known = catalogue("advisor.locale", "en")
    assert set(known) >= row_findings.INFORMATION
    for name in ("left_out", "nul", "replaced", "duplicates"):
        assert f"data.{name}{row_findings.SAMPLED}" in known


def test_the_description_carries_them_and_reads_back(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", "a", "b", "b", "c")
    found = describe_data(path, model=describe_model("demo", "causal-lm"), task="causal-lm")
    assert {"data.duplicates", "data.held_out"} <= {f.id for f in found.findings}
    assert any("row 3 of a.jsonl repeats row 2 of a.jsonl" in note for note in found.notes)
    text = json.dumps(records.encode(found), allow_nan=False)
    assert records.decode(DataDescription, json.loads(text)) == found


def test_the_byte_that_is_no_utf8_is_named_with_its_offset(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"line 2: the byte 0xff at offset 27 is not UTF-8"):
        load_rows(path)
    assert path.read_bytes()[27] == 0xFF
