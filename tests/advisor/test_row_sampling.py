"""A part of large data: drawn all over, counted or estimated, faults in the original."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advisor import row_sampling
from advisor.errors import InputError
from advisor.rows import load_rows
from advisor.sources import LocalFile


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(row_sampling, "LARGE_BYTES", 50_000)
    monkeypatch.setattr(row_sampling, "_SAMPLE_BYTES", 20_000)


def lines(count, seed=0):
    """Of which the first half is short."""
    draw = random.Random(seed)
    rows = [f"{i} " + "x" * draw.randrange(10, 60) for i in range(count // 2)]
    rows += [f"{i} " + "y" * draw.randrange(100, 300) for i in range(count // 2, count)]
    return rows


def write_rows(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    return path


def ids(loaded):
    return [f.id for f in loaded.findings]


def test_lines_are_drawn_all_over_counted_and_hold_the_longest(tmp_path):
    texts = [*lines(3000), "z" * 5000, *lines(1000, 1)]
    path = write_rows(tmp_path / "a.jsonl", texts)
    loaded = load_rows(path, sample=True)
    drawn = [*loaded.train["text"], *loaded.evaluation["text"]]
    assert 50 < len(drawn) < 1000
    assert set(drawn) <= set(texts)
    assert max(map(len, drawn)) == 5000
    assert 0.3 < sum("x" in t for t in drawn) / len(drawn) < 0.7  # as many short rows as there are
    assert loaded.num_train_rows + loaded.num_eval_rows == 4001
    assert loaded.num_eval_rows == 200
    assert loaded.is_counted
    assert "data.sampled_file" in ids(loaded)
    again = load_rows(path, sample=True)
    assert again.train["text"][:] == loaded.train["text"][:]


def test_training_reads_all_and_counts_as_the_description_did(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", lines(2000))
    described, trained = load_rows(path, sample=True), load_rows(path)
    assert len(trained.train) == trained.num_train_rows == described.num_train_rows
    assert len(trained.evaluation) == described.num_eval_rows
    assert "data.sampled_file" not in ids(trained)


def test_a_changed_large_file_is_drawn_again(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", lines(2000))
    before = load_rows(path, sample=True)
    write_rows(path, [t.upper() for t in lines(2000)])
    assert load_rows(path, sample=True).train["text"][0] != before.train["text"][0]


def test_the_start_of_what_cannot_be_entered_elsewhere(tmp_path):
    texts = lines(2000)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(
        gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in texts).encode(), 0)
    )
    table = tmp_path / "b.csv"
    table.write_text("n,text\n" + "".join(f'{i},"{t}\n,"\n' for i, t in enumerate(texts)), "utf-8")
    array = tmp_path / "c.json"
    array.write_text(json.dumps([{"text": t} for t in texts]), "utf-8")
    for path in (packed, table, array):
        loaded = load_rows(path, sample=True)
        drawn = sorted([*loaded.train["text"], *loaded.evaluation["text"]])
        assert drawn == sorted(load_rows_start(path, len(drawn)))
        assert len(drawn) > 200
        assert not loaded.is_counted
        assert 1500 < loaded.num_train_rows + loaded.num_eval_rows < 8000  # early rows are short
        assert "data.sampled_start" in ids(loaded)


def load_rows_start(path, count):
    texts = lines(2000)[:count]
    return [f"{t}\n," for t in texts] if path.suffix == ".csv" else texts


def test_parquet_rows_are_exact_and_from_all_groups(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"{i} " + "x" * 200 for i in range(5000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=500, compression="none")
    loaded = load_rows(path, sample=True)
    drawn = {int(t.split()[0]) // 500 for t in loaded.train["text"]}
    assert drawn == set(range(10))
    assert loaded.num_train_rows + loaded.num_eval_rows == 5000
    assert loaded.is_counted


def longest_of(loaded, column="text"):
    return max(len(t) for part in (loaded.train, loaded.evaluation) for t in part[column])


def write_parquet(path, **columns):
    """Row groups of which the sample holds the first rows alone."""
    pq.write_table(pa.table(columns), path, row_group_size=2000, compression="none")
    return path


def test_the_longest_row_of_parquet_is_found_wherever_it_is(tmp_path):
    texts = [f"{i} " + "x" * 200 for i in range(5000)]
    texts[2777], texts[2778] = "é" * 900, "y" * 1700  # 1,800 and 1,700 bytes
    other = ["o", None] * 2495 + ["z" * 3000] + [""] * 9
    coded = pa.array(["short"] * 5000).dictionary_encode()
    path = write_parquet(
        tmp_path / "a.parquet", text=texts, other=other, coded=coded, n=list(range(5000))
    )
    loaded = load_rows(path, text_column="text", sample=True)
    assert "é" * 900 in [*loaded.train["text"], *loaded.evaluation["text"]]
    assert longest_of(load_rows(path, text_column="other", sample=True), "other") == 3000
    assert "data.sampled_file" in ids(loaded)
    assert loaded.num_train_rows + loaded.num_eval_rows == 5000


def test_the_longest_pair_is_found_where_neither_text_is_the_longest(tmp_path):
    one, two = ["a" * 100] * 3000, ["b" * 100] * 3000
    one[1400], two[1600] = "a" * 900, "b" * 900
    one[1500] = two[1500] = "c" * 700
    path = write_parquet(tmp_path / "a.parquet", premise=one, hypothesis=two)
    places, is_all = row_sampling._longest_rows(path, "", 60.0)
    assert is_all
    assert places == ((0, 1400), (0, 1500), (0, 1600))


def test_a_row_of_parquet_in_the_sample_already_is_not_taken_twice(tmp_path):
    texts = ["z" * 400, *(f"{i}" + "x" * 200 for i in range(1, 3000))]
    loaded = load_rows(write_parquet(tmp_path / "a.parquet", text=texts), sample=True)
    drawn = [*loaded.train["text"], *loaded.evaluation["text"]]
    assert len(set(drawn)) == len(drawn)
    assert "z" * 400 in drawn


@pytest.mark.parametrize(
    ("name", "value"), [("_SCAN_SECONDS", 0.0), ("_SCAN_COLUMNS", 0), ("_LONGEST_BYTES", 500)]
)
def test_limits_of_looking_for_the_longest_row_of_parquet(tmp_path, monkeypatch, name, value):
    row_sampling._longest_rows.cache_clear()
    monkeypatch.setattr(row_sampling, name, value)
    texts = [f"{i} " + "x" * 200 for i in range(3000)]
    texts[1400], texts[1600] = "y" * 5000, "z" * 450
    loaded = load_rows(write_parquet(tmp_path / "a.parquet", text=texts), sample=True)
    assert longest_of(loaded) == (450 if name == "_LONGEST_BYTES" else 205)
    is_known = "data.sampled_file" in ids(loaded)
    assert is_known == (name == "_LONGEST_BYTES")
    assert ("data.sampled_some" in ids(loaded)) != is_known


def test_many_files_are_entered_at_equal_steps(tmp_path):
    for i in range(40):
        write_rows(tmp_path / f"part-{i:02}.jsonl", [f"{i} {t}" for t in lines(40)])
    loaded = load_rows(tmp_path, sample=True)
    files = {int(t.split()[0]) for t in loaded.train["text"]}
    assert files == {i * 40 // 16 for i in range(16)}
    assert loaded.num_train_rows + loaded.num_eval_rows == pytest.approx(1600, rel=0.1)
    assert not loaded.is_counted


def test_a_fault_in_a_drawn_line_is_named_in_the_original(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", lines(2000))
    broken = path.read_text("utf-8").replace('"}', '"').splitlines()
    good = write_rows(tmp_path / "b.jsonl", lines(2000)).read_text("utf-8").splitlines()
    path.write_text("\n".join([*good[:700], *broken[700:]]), "utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl, line 701: not valid JSON"):
        load_rows(path, sample=True)


def test_findings_of_a_sample_name_no_row(tmp_path):
    loaded = load_rows(write_rows(tmp_path / "a.jsonl", ["same " * 20] * 2000), sample=True)
    found = next(f for f in loaded.findings if f.id == "data.duplicates_sampled")
    assert "row" not in found.params


def test_one_endless_line_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x" * 200_000, "utf-8")
    with pytest.raises(InputError, match="no end of a row"):
        load_rows(path, sample=True)


def test_lines_are_counted_with_and_without_a_last_end(tmp_path):
    path = tmp_path / "a.txt"
    for content, count, longest in (
        (b"a\nbbb\ncc\n", 3, b"bbb\n"),
        (b"a\nbb\ncccc", 3, b"bb\n"),
        (b"aaa\n", 1, b"aaa\n"),
    ):
        path.write_bytes(content)
        with LocalFile(path).open() as stream:
            assert row_sampling._scan_lines(stream) == (count, longest)


def test_lines_are_counted_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(row_sampling, "_BLOCK_BYTES", 7)
    path = tmp_path / "a.txt"
    path.write_text("".join("x" * i + "\n" for i in (3, 20, 0, 6, 11)), "utf-8")
    with LocalFile(path).open() as stream:
        assert row_sampling._scan_lines(stream) == (5, b"x" * 20 + b"\n")
