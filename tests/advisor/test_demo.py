"""The demo is real data and a real byte tokenizer, made once, the same each time."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advisor import demo
from advisor.errors import InputError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def paths(home):
    return demo.materialise(home)


@pytest.fixture(scope="module")
def tokenizer(paths):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(paths.model), local_files_only=True)


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_two_homes_get_equal_bytes_and_no_leftovers(paths, home, tmp_path):
    demo.materialise(tmp_path)
    assert read_tree(tmp_path) == read_tree(home)
    assert [p.name for p in (tmp_path / "demo").iterdir()] == [paths.model.parent.name]


def test_a_second_call_touches_nothing(paths, home):
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    assert demo.materialise(home) == paths
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


def test_a_lost_file_is_put_back_and_the_others_stay(tmp_path):
    paths = demo.materialise(tmp_path)
    whole = read_tree(tmp_path)
    untouched = paths.data.stat().st_mtime_ns
    (paths.model / "tokenizer.json").unlink()
    demo.materialise(tmp_path)
    assert read_tree(tmp_path) == whole
    assert paths.data.stat().st_mtime_ns == untouched


def test_many_at_once_agree(tmp_path, home, monkeypatch):
    files = {name: f"{name}\n" for name in demo._FILES}
    barrier = threading.Barrier(4)

    def build() -> dict[str, str]:
        barrier.wait(timeout=30)  # all have seen that nothing is there
        return files

    monkeypatch.setattr(demo, "_files", build)
    results: list[demo.DemoPaths] = []
    threads = [
        threading.Thread(target=lambda: results.append(demo.materialise(tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert read_tree(results[0].model.parent) == {n: t.encode() for n, t in files.items()}
    assert len(list((tmp_path / "demo").iterdir())) == 1


def test_rows_are_distinct_definitions_of_the_sizes_asked_for(paths):
    rows = [json.loads(line)["text"] for line in paths.data.read_text("utf-8").splitlines()]
    sizes = [len(row.encode()) for row in rows]
    assert len(rows) == len(set(rows)) == demo._NUM_ROWS
    assert min(sizes) >= 64
    assert max(sizes) <= 1000
    assert 0 < sum(size > 900 for size in sizes) <= 0.03 * len(rows)
    assert len(set(sizes)) > 300
    assert all(row.lstrip().startswith(("def ", "class ", "async def ", "@")) for row in rows)


def test_rows_come_from_all_over_the_library(tmp_path, monkeypatch):
    for letter in "abcdefghijklmnopqrst":
        functions = (f"def {letter}{i}():\n    return '{'x' * 60}'\n" for i in range(10))
        (tmp_path / f"{letter}.py").write_text("\n\n".join(functions), "utf-8")
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(demo, "_NUM_ROWS", 60)
    letters = {row[4] for row in demo._select_rows()}
    assert letters != set("abcdef")  # the first modules of the alphabet would be enough
    assert letters & set("abcdefghij")
    assert letters & set("klmnopqrst")


@pytest.mark.parametrize("sources", ["missing", "zipped"])
def test_a_python_without_sources_is_refused_clearly(tmp_path, monkeypatch, sources):
    stdlib = tmp_path / "python311.zip"
    if sources == "zipped":
        stdlib.write_bytes(b"PK")
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda name: str(stdlib))
    with pytest.raises(InputError, match=r"standard library.*too few.*data file of your own"):
        demo.materialise(tmp_path / "home")
    assert list((tmp_path / "home" / "demo").iterdir()) == []


def test_unreadable_modules_are_passed_over(tmp_path, monkeypatch):
    body = "def f{0}():\n    '''{1}'''\n    return {0}\n\n\n"
    text = "".join(body.format(i, "x" * 50) for i in range(demo._MIN_ROWS))
    (tmp_path / "good.py").write_text("\x0c\n" + text, "utf-8")
    (tmp_path / "latin.py").write_bytes(b"# \xff\n")
    (tmp_path / "broken.py").write_text("def (", "utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_text(body.format(999_999, "y" * 50), "utf-8")
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda name: str(tmp_path))
    rows = demo._select_rows()
    assert len(rows) == demo._MIN_ROWS
    assert rows[3] == body.format(3, "x" * 50).rstrip()


@settings(max_examples=200, deadline=None)
@given(st.text().filter(lambda text: "<pad>" not in text and "<eos>" not in text))
@example("tab\t nul\x00 cr\r\n nbsp\xa0 combining e\u0301 \U0001f600 \ufeff \u2028 don't  ")
def test_any_text_comes_back_from_its_bytes(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_special_tokens_follow_the_bytes(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (256, 257, 258)
    batch = tokenizer(["a", "abc"], padding=True)
    assert batch["input_ids"] == [[97, 256, 256], [97, 98, 99]]
    assert batch["attention_mask"] == [[1, 0, 0], [1, 1, 1]]


def test_the_model_is_built_from_the_config_and_its_ids_fit(paths, tokenizer):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(paths.model), local_files_only=True)
    assert config.vocab_size == len(tokenizer)
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.max_position_embeddings == tokenizer.model_max_length


def test_resolve_knows_the_demo_and_leaves_other_paths(home, paths, monkeypatch):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(home))
    assert demo.resolve("demo", "model") == paths.model
    assert demo.resolve("demo", "data") == paths.data
    assert demo.resolve("./demo", "data") == Path("demo")
    assert demo.resolve("~/x", "model") == Path.home() / "x"
    assert demo.is_demo(paths.data)
    assert not demo.is_demo(home)


def test_the_description_modules_are_light(home):
    code = (
        "import sys, advisor.demo, advisor.data, advisor.model, advisor.rows; "
        "advisor.demo.resolve('demo','data'); "
        "heavy = {'torch','transformers','datasets','peft','numpy','pandas','pyarrow'} & "
        "set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "TRAINING_ADVISOR_HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
