"""Classes and pairs from every kind of source: parquet, directories, packed files, samples."""

import gzip
import json
import random

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advisor import records, row_sampling
from advisor.data import DataDescription, describe_data
from advisor.errors import InputError
from advisor.infer import infer_task
from advisor.locale import LANGUAGES, render
from advisor.model import describe_model
from advisor.rows import column_names, load_rows

TASK = "text-classification"


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def load(path, **more):
    return load_rows(path, task=TASK, **more)


def refusal(path, **more):
    with pytest.raises(InputError) as raised:
        load(path, **more)
    assert "{" not in raised.value.sentence("zh")
    return raised.value


def finding(loaded, message_id):
    (found,) = [f for f in loaded.findings if f.id == message_id]
    assert all(render(found, lang) for lang in LANGUAGES)
    return found.params


def ids(loaded):
    return [f.id for f in loaded.findings]


def pairs(count):
    return [
        {"premise": f"first {i}", "hypothesis": f"second {i}", "n": i, "label": i % 3}
        for i in range(count)
    ]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_pairs_and_named_classes_of_parquet(tmp_path):
    rows = pairs(60)
    rows[7] |= {"hypothesis": rows[6]["hypothesis"]}  # a text again, but no pair again
    rows[9] |= {"premise": rows[8]["hypothesis"], "hypothesis": rows[8]["premise"]}
    rows[20] |= {"premise": rows[4]["premise"], "hypothesis": rows[4]["hypothesis"]}
    rows[30] |= {"premise": None}
    rows[31] |= {"hypothesis": "\ufffd"}
    made = datasets.Dataset.from_list(rows)
    names = ["yes", "maybe", "no"]
    path = tmp_path / "pairs.parquet"
    made.cast_column("label", datasets.ClassLabel(names=names)).to_parquet(str(path))
    loaded = load(path)
    assert loaded.text_columns == ("premise", "hypothesis")
    assert (loaded.labels.column, set(loaded.labels.names)) == ("label", set(names))
    assert sum(loaded.labels.counts) == len(loaded.train) == loaded.num_train_rows == 48
    repeat = finding(loaded, "data.duplicates")
    assert (repeat["count"], repeat["row"], repeat["first_row"]) == (1, 21, 5)
    assert finding(loaded, "data.left_out")["row"] == 31
    assert finding(loaded, "data.left_out")["columns"] == ["premise", "hypothesis"]
    assert finding(loaded, "data.replaced")["row"] == 32
    assert column_names(path) == ("premise", "hypothesis", "n", "label")


@pytest.mark.parametrize("form", ["parquet", "tsv.gz", "saved"])
def test_a_directory_with_splits_is_classified(tmp_path, form):
    parts = {"train": pairs(30), "validation": [*pairs(2), *pairs(40)[38:]]}
    if form == "saved":
        made = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
        datasets.DatasetDict(made).save_to_disk(str(tmp_path / "data"))
    for name, rows in parts.items():
        if form == "parquet":
            (tmp_path / "data").mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"{name}.parquet")
        elif form == "tsv.gz":
            (tmp_path / "data").mkdir(exist_ok=True)
            lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
            packed = gzip.compress("\n".join(lines).encode())
            (tmp_path / "data" / f"{name}.tsv.gz").write_bytes(packed)
    loaded = load(tmp_path / "data")
    assert loaded.text_columns == ("premise", "hypothesis")
    assert loaded.labels.names == ("0", "1", "2")
    assert loaded.labels.counts == (10, 10, 10)
    assert (len(loaded.train), len(loaded.evaluation)) == (30, 4)
    assert finding(loaded, "data.overlap") == {"count": 2, "rows": 4}
    assert "data.validation_split" in ids(loaded)
    assert column_names(tmp_path / "data") == ("premise", "hypothesis", "n", "label")
    encoder = tmp_path / "config.json"
    encoder.write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}), "utf-8")
    assert infer_task(str(encoder), str(tmp_path / "data")) == TASK


def test_faulty_labels_are_refused_with_their_file_and_row(tmp_path):
    write_lines(tmp_path / "train-0.jsonl", pairs(6))
    write_lines(tmp_path / "train-1.jsonl", [*pairs(2), {**pairs(1)[0], "label": None}])
    error = refusal(tmp_path)
    assert f"Row 3 of {tmp_path}/train-1.jsonl has no label" in str(error)
    write_lines(tmp_path / "train-1.jsonl", pairs(2))
    write_lines(tmp_path / "dev.jsonl", [*pairs(2), {**pairs(1)[0], "label": 7}])
    error = refusal(tmp_path)
    assert f"Row 3 of {tmp_path}/dev.jsonl has the label '7'" in str(error)
    assert error.field == "validation"


def test_a_class_column_that_changes_late_is_not_left_out_in_silence(tmp_path):
    rows = [{"text": f"{i} " + "x" * 1000, "label": 1} for i in range(11_000)]
    path = write_lines(tmp_path / "a.jsonl", [*rows, {"text": "z", "label": "word"}])
    assert len(load_rows(path).train) > 10_000
    with pytest.raises(InputError, match=r"a\.jsonl"):
        load(path)


def test_a_description_counts_the_pairs_whole_and_reads_back(tmp_path):
    pq.write_table(pa.Table.from_pylist(pairs(12)), tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist(pairs(3)), tmp_path / "test.parquet")
    found = describe_data(tmp_path, model=describe_model("demo", "causal-lm"), task=TASK)
    assert found.text_column == "premise,hypothesis"
    assert (found.label_column, found.labels) == ("label", ("0", "1", "2"))
    assert sum(found.label_rows) == found.num_rows == 10
    assert set(found.lengths) == {len("first 0second 0"), len("first 10second 10")}
    assert {"data.test_split", "data.held_out_by_class"} <= {f.id for f in found.findings}
    text = json.dumps(records.encode(found), allow_nan=False)
    assert records.decode(DataDescription, json.loads(text)) == found


# --- samples -----------------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(row_sampling, "LARGE_BYTES", 50_000)
    monkeypatch.setattr(row_sampling, "_SAMPLE_BYTES", 20_000)


def labelled(count, label_of):
    draw = random.Random(0)
    return [
        {"text": f"{i} " + "x" * draw.randrange(60), "label": label_of(i)} for i in range(count)
    ]


@pytest.mark.usefixtures("small_limits")
def test_classes_of_a_sample_are_counted_up_and_said(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl", labelled(4000, lambda i: "often" if i % 4 else "seldom")
    )
    loaded = load(path, sample=True)
    assert len(loaded.train) < 1000
    assert loaded.labels.names == ("often", "seldom")
    assert sum(loaded.labels.counts) == pytest.approx(loaded.num_train_rows, abs=1)
    assert loaded.labels.counts[0] == pytest.approx(2850, rel=0.15)
    assert finding(loaded, "data.classes_sampled")["rows"] == len(loaded.train)
    whole = load(path)
    assert whole.labels.counts[0] == pytest.approx(2850, rel=0.05)
    assert "data.classes_sampled" not in ids(whole)


@pytest.mark.usefixtures("small_limits")
def test_a_sample_with_one_class_knows_none_and_the_whole_decides(tmp_path):
    rows = labelled(4000, lambda i: "first" if i < 3000 else "second")
    content = "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(content.encode(), 0))
    loaded = load(path, sample=True)
    assert (loaded.labels.names, loaded.labels.counts) == ((), ())
    assert finding(loaded, "data.one_class_sampled")["name"] == "first"
    assert load(path).labels.names == ("first", "second")


@pytest.mark.usefixtures("small_limits")
def test_a_sample_refuses_no_class_for_being_unseen_and_names_no_row(tmp_path):
    rows = labelled(4000, lambda i: "ab"[i % 2])
    rows[5] |= {"label": "rare"}  # of the whole, but hardly of the sample
    train = write_lines(tmp_path / "train.jsonl", rows)
    other = write_lines(tmp_path / "dev.jsonl", [{"text": "x", "label": "rare"}])
    loaded = load(train, validation_path=other, sample=True)
    assert loaded.labels.names == ("a", "b", "rare")
    assert "data.unseen_classes" not in ids(loaded)
    for row in rows[1::2]:
        row["label"] = None
    error = refusal(write_lines(tmp_path / "holes.jsonl", rows), sample=True)
    assert str(error).startswith(f"A row of {tmp_path}/holes.jsonl has no label")
