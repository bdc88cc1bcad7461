"""Columns and classes of labelled rows: found, ordered, and refused with the row."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor import labels, rows
from advisor.errors import InputError
from advisor.infer import infer_task
from advisor.labels import name_of
from advisor.locale import render
from advisor.rows import column_names, load_rows

TASK = "text-classification"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path / "home"))


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def rows_of(tmp_path, pairs, header="text,label"):
    body = "\n".join(",".join(map(str, pair)) for pair in pairs)
    return write(tmp_path / "rows.csv", f"{header}\n{body}\n")


def load(path, **more):
    return load_rows(
        path, more.pop("text_column", None), more.pop("validation", None), TASK, **more
    )


def refusal(path, **more):
    with pytest.raises(InputError) as raised:
        load(path, **more)
    assert str(path) in str(raised.value) or "validation" in more
    return raised.value


def test_names_are_sorted_and_counted_over_the_training_rows(tmp_path):
    found = load(
        rows_of(tmp_path, [("one", "b"), ("two", "a"), ("three", "b"), ("four", "c")] * 10)
    )
    assert found.labels.names == ("a", "b", "c")
    assert sum(found.labels.counts) == len(found.train) == 32
    assert found.text_columns == ("text",)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["1.0", "0.0", "2."], ("0", "1", "2")),
        (["no", "yes", "10"], ("10", "no", "yes")),
        (["007", "8"], ("007", "8")),
        (["1", "²"], ("1", "²")),
        (["--5", "1"], ("--5", "1")),
        ([" yes ", "no"], ("no", "yes")),
        (["²", "1"], ("1", "²")),
        (["1", "--5"], ("--5", "1")),
    ],
)
def test_whole_numbers_go_by_value_and_words_by_letter(tmp_path, values, names):
    found = load(rows_of(tmp_path, [(f"text {i}", v) for i in range(9) for v in values]))
    assert found.labels.names == names


@pytest.mark.parametrize("values", [[0, 1], [True, False], ["x", "y"]])
def test_json_labels_of_any_plain_type(tmp_path, values):
    lines = [json.dumps({"text": f"row {i}", "label": values[i % 2]}) for i in range(10)]
    found = load(write(tmp_path / "rows.jsonl", "\n".join(lines)))
    assert found.labels.names == tuple(sorted(map(str, values)))


def test_a_pair_is_found_before_a_single_text(tmp_path):
    pairs = [("a b", "c", "yes", 1), ("d", "e f", "no", 0)] * 5
    path = rows_of(tmp_path, pairs, "premise,hypothesis,sentence,label")
    assert load(path).text_columns == ("premise", "hypothesis")
    assert load(path, text_column="sentence").text_columns == ("sentence",)
    assert load(path, text_column="sentence, premise").text_columns == ("sentence", "premise")
    assert refusal(path, text_column="sentence,premise,hypothesis").field == "text_column"
    assert "no column 'body'" in str(refusal(path, text_column="sentence,body"))


def test_a_row_without_one_of_its_texts_is_left_out(tmp_path):
    pairs = [("a", "b", 1), ("a", "", 0), ("c", "d", 0)] * 4
    found = load(rows_of(tmp_path, pairs, "premise,hypothesis,label"))
    assert found.num_empty_rows == 4
    assert len(found.train) + len(found.evaluation) == 8


def test_a_label_column_of_another_name_is_asked_for(tmp_path):
    path = rows_of(tmp_path, [("good film", "pos", 1), ("bad film", "neg", 2)] * 5, "text,mood,n")
    error = refusal(path)
    assert (error.field, list(error.params["names"])) == ("label_column", ["mood", "n"])
    assert load(path, label_column="mood").labels.names == ("neg", "pos")
    assert refusal(path, label_column="tone").field == "label_column"
    only_text = write(tmp_path / "only.csv", "text\none\ntwo\n")
    assert "add a column named label" in str(refusal(only_text))


def test_the_text_is_what_the_named_label_is_not(tmp_path):
    path = rows_of(tmp_path, [("good film", "pos"), ("bad film", "neg")] * 5, "comment,mood")
    assert load(path, label_column="mood").text_columns == ("comment",)


def test_an_empty_label_is_refused_with_its_row(tmp_path):
    path = rows_of(tmp_path, [("one", "a"), ("", "b"), ("two", "b"), ("three", "")])
    assert "Row 4 " in str(refusal(path))
    lines = [{"text": "one", "label": 1}, {"text": "two", "label": None}]
    path = write(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, lines)))
    assert "Row 2 " in str(refusal(path))


def test_nan_is_an_empty_label_and_its_name_is_one():
    assert name_of(float("nan")) is None
    assert name_of("nan") == "nan"


def test_numbers_with_decimals_are_refused_as_regression(tmp_path):
    error = refusal(rows_of(tmp_path, [("one", "1"), ("two", "0.25"), ("three", "3")]))
    assert "regression" in str(error)
    assert "Row 2 of" in str(error)
    assert ": 0.25)" in str(error)


def test_several_labels_in_a_row_are_refused(tmp_path):
    lines = [json.dumps({"text": "one", "label": ["a", "b"]})] * 3
    assert "Row 1 " in str(refusal(write(tmp_path / "rows.jsonl", "\n".join(lines))))


def test_one_class_and_too_many_are_refused(tmp_path):
    assert "label 'a'" in str(refusal(rows_of(tmp_path, [("one", "a"), ("two", "a")])))
    many = [(f"text {i}", i) for i in range(1001)]
    assert "1,001 different labels" in str(refusal(rows_of(tmp_path, many)))


def test_a_label_of_the_validation_alone_is_refused_with_its_row(tmp_path):
    path = rows_of(tmp_path, [("one", "a"), ("two", "b")] * 3)
    other = write(tmp_path / "other.csv", "text,label\none,b\n,b\ntwo,c\n")
    error = refusal(path, validation=other)
    assert error.field == "validation"
    assert "Row 3 " in str(error)
    assert "'c'" in str(error)
    good = write(tmp_path / "good.csv", "text,label\none,b\n")
    assert load(path, validation=good).labels.counts == (3, 3)


def test_what_the_held_out_rows_alone_show_is_said():
    found = labels.collect("label", "rows.csv", ["a", "b"], ["rare"])
    (note,) = map(render, found.findings)
    assert "(rare)" in note
    assert "no training row" in note


def test_each_class_is_held_out_by_its_share(tmp_path):
    pairs = [(f"text {i}", "yes" if i % 4 == 0 else "no") for i in range(100)]
    found = load(rows_of(tmp_path, pairs))
    assert Counter(found.evaluation["label"]) == {"no": 15, "yes": 5}
    assert Counter(found.train["label"]) == {"no": 60, "yes": 20}
    (few,) = [f for f in found.findings if f.id == "data.few_evaluation_rows_of_classes"]
    assert few.params == {"rows": 20, "percent": 5.0}


@pytest.mark.parametrize("place", [0, 17, 39])
def test_a_class_of_one_row_is_learned_from(tmp_path, place):
    pairs = [("one", "a"), ("two", "b")] * 20
    pairs[place] = ("three", "rare")
    found = load(rows_of(tmp_path, pairs))
    assert len(found.evaluation) == 8
    assert min(found.labels.counts) == found.labels.counts[2] == 1


@given(st.lists(st.integers(1, 40), min_size=2, max_size=30), st.integers(1, 200))
def test_shares_of_classes_add_up_and_leave_one_of_each(counts, number):
    classes = {f"c{i}": count for i, count in enumerate(counts)}
    shares = rows._shares(classes, number)
    if not shares:
        assert sum(counts) - len(counts) < number
        return
    assert sum(shares.values()) == number
    assert all(0 <= shares[name] < count for name, count in classes.items())


def test_a_class_for_nearly_each_row_is_split_as_it_comes(tmp_path):
    found = load(rows_of(tmp_path, [(f"text {i}", f"c{i % 48}") for i in range(50)]))
    assert len(found.evaluation) == 10


def test_unbalanced_classes_are_said(tmp_path):
    found = load(rows_of(tmp_path, [("one", "a")] * 18 + [("two", "b")] * 2))
    (note,) = [note for note in found.notes if "unbalanced" in note]
    assert "'a'" in note
    assert not any(
        "unbalanced" in n for n in load(rows_of(tmp_path, [("x", i % 2) for i in range(20)])).notes
    )


# --- which task ---------------------------------------------------------------------------------


def model(tmp_path, model_type, *architectures, **more):
    content = {"model_type": model_type, "architectures": list(architectures), **more}
    return str(write(tmp_path / "config.json", json.dumps(content)))


@pytest.mark.parametrize(
    ("model_type", "architecture", "labelled", "task"),
    [
        ("llama", "LlamaForCausalLM", False, "causal-lm"),
        ("llama", "LlamaModel", False, "causal-lm"),
        ("llama", "LlamaForSequenceClassification", True, TASK),
        ("bert", "BertForSequenceClassification", False, TASK),
        ("bert", "BertModel", True, TASK),
        ("roberta", "RobertaForMaskedLM", True, TASK),
        ("bert", "BertLMHeadModel", False, "causal-lm"),
        ("bert", "BertForTokenClassification", True, "token-classification"),
    ],
)
def test_the_task_follows_from_model_and_columns(
    tmp_path, model_type, architecture, labelled, task
):
    header = "text,label" if labelled else "text,id"
    path = rows_of(tmp_path, [("one", 1), ("two", 2)], header)
    assert infer_task(model(tmp_path, model_type, architecture), str(path)) == task


def test_what_fits_several_tasks_or_none_is_refused_with_the_choices(tmp_path):
    labelled = rows_of(tmp_path, [("one", 1), ("two", 2)])
    plain = write(tmp_path / "a.txt", "one\ntwo\n")
    for kind, architecture, data in (
        ("llama", "LlamaForCausalLM", labelled),
        ("bert", "BertModel", plain),
    ):
        path = model(tmp_path, kind, architecture)
        with pytest.raises(InputError, match="causal-lm, text-classification") as raised:
            infer_task(path, str(data))
        assert raised.value.field == "task"
    assert infer_task("demo", str(labelled)) == "causal-lm"
    assert infer_task(model(tmp_path, "llama"), None) == "causal-lm"


def test_columns_are_read_from_the_head_of_a_file(tmp_path):
    assert column_names(rows_of(tmp_path, [("a", 1)])) == ("text", "label")
    assert column_names(write(tmp_path / "a.json", '[{"x": 1, "y": 2}]')) == ("x", "y")
    assert column_names(write(tmp_path / "a.jsonl", '{"x": 1\n')) == ()


@pytest.mark.parametrize("value", [None, float("nan"), "", "  "])
def test_a_missing_label_has_no_name(value):
    assert name_of(value) is None
