"""Models and data by id, from a Hub on this machine; each way it can refuse is one sentence."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from advisor import demo, hub
from advisor.errors import AdvisorError, InputError
from advisor.locale import say
from advisor.recommend import Advisor, Question
from advisor.review.pins import question_from
from advisor.simulate.worker import Worker
from tests.advisor.hub_stub import COMMIT, Hub

ROWS = "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(40))
TOKEN = "hf_" + "a" * 12
OLDER = "89abcdef" * 5
"""Commit of the tag v1 of me/tiny."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home):
    stub = Hub()
    files = {f.name: f.read_bytes() for f in demo.materialise(home).model.iterdir()}
    weights = {"model.safetensors": b"w" * 5000, "onnx/model.onnx": b"o", "evil.py": "raise"}
    sizes = {"parameters": {"BF16": 2500}, "total": 2500}
    smaller = {**files, "config.json": with_layers(files["config.json"], 1)}
    tags = {"v1": (OLDER, smaller)}
    stub.add("models", "me/tiny", {**files, **weights}, safetensors=sizes, tags=tags)
    stub.add("models", "me/gated", {}, status=403, error="GatedRepo")
    stub.add("models", "me/forbidden", {}, status=403)
    stub.add("models", "me/busy", {}, status=503)
    data = {
        "data/train-00000-of-00001.jsonl": ROWS,
        "data/validation-00000-of-00001.jsonl": '{"text": "v"}\n',
        "data/test-00000-of-00001.jsonl": '{"text": "t"}\n{"text": "u"}\n',
        "README.md": "words",
    }
    stub.add("datasets", "me/rows", data)
    configs = [
        {"config_name": "de", "data_files": [{"split": "train", "path": "de/*.csv"}]},
        {"config_name": "en", "data_files": "en.csv"},
    ]
    files = {"de/0.csv": "text\na\nb\n", "en.csv": "text\nc\nd\ne\n"}
    stub.add("datasets", "me/two", files, cardData={"configs": configs})
    head, rows = (
        "premise,hypothesis,label\n",
        [f"a {i},b,{'yes' if i % 2 else 'no'}" for i in range(40)],
    )
    files = {"train.csv": head + "\n".join(rows), "validation.csv": f"{head}c,d,no\n"}
    stub.add("datasets", "me/pairs", files)
    stub.add("datasets", "me/script", {"script.py": "raise SystemExit"})
    yield stub
    stub.close()


def with_layers(config, count):
    return json.dumps({**json.loads(config), "num_hidden_layers": count})


def environment(home, server, **more):
    hidden = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"}
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    kept |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home / "hf")}
    return kept | {"TRAINING_ADVISOR_HOME": str(home), "HF_TOKEN": TOKEN} | more


@pytest.fixture(scope="module")
def worker(home, server):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home, server).items():
            patch.setenv(name, value)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.delenv(name, raising=False)
        found = Worker(home=home)
        yield found
        found.close()


def describe(worker, path, **more):
    params = {"path": path, "model_path": "demo", "task": "causal-lm", **more}
    return worker.call("describe_data", params)


def test_a_model_is_described_without_its_weights(worker, server):
    found = worker.call("describe_model", {"path": "me/tiny", "task": "causal-lm"})
    assert (found["name"], found["path"]) == ("me/tiny", "me/tiny")
    assert (found["weights_bytes"], found["checkpoint_dtype"]) == (5000, "bfloat16")
    assert found["has_weights"]
    assert found["has_tokenizer"]
    assert found["model_type"] == "llama"
    assert found["fingerprint"].endswith(COMMIT)
    assert found["notes"][0].startswith("The model is on the Hub")
    assert say(found["notes"][0], "zh").startswith("模型在 Hub 上")
    fetched = {path.rpartition("/")[2] for path in server.downloads()}
    assert {"config.json", "tokenizer.json"} <= fetched
    assert not fetched & {"model.safetensors", "model.onnx", "evil.py"}
    described = describe(worker, "demo", model_path="me/tiny")
    assert described["length_source"] == "tokenizer"


def test_a_revision_of_a_model_is_another_model(worker, home, server):
    newest, older, same = (
        worker.call("describe_model", {"path": path, "task": "causal-lm"})
        for path in ("me/tiny", "me/tiny@v1", f"me/tiny@{OLDER}")
    )
    assert older["path"] == "me/tiny@v1"
    assert older["fingerprint"].endswith(OLDER)
    assert older["num_trainable_layers"] == 1 < newest["num_trainable_layers"]
    assert not older["has_weights"]  # the tag has none
    assert same["fingerprint"] == older["fingerprint"]
    gone = environment(home, server, HF_ENDPOINT="http://127.0.0.1:9")
    code = "from advisor import hub\nprint(hub.find_model('me/tiny@v1').commit)\n"
    assert run(code, gone).strip() == OLDER
    with pytest.raises(InputError, match="me/tiny has no revision 'v9'"):
        worker.call("describe_model", {"path": "me/tiny@v9", "task": "causal-lm"})


def test_data_by_id_split_and_config(worker):
    found = describe(worker, "me/rows")
    assert (found["num_rows"], found["num_eval_rows"]) == (40, 1)
    assert (found["name"], found["path"]) == ("me/rows", "me/rows")
    said = ["data.validation_split", "data.test_split", "data.few_evaluation_rows"]
    assert sorted(f["id"] for f in found["findings"]) == sorted(said)
    assert describe(worker, f"me/rows@{COMMIT}")["num_rows"] == 40
    assert describe(worker, "me/rows", validation_path="me/rows::test")["num_eval_rows"] == 2
    found = describe(worker, "me/two:de")
    assert found["num_rows"] + found["num_eval_rows"] == 2
    found = describe(worker, "me/two:en:train")
    assert found["num_rows"] + found["num_eval_rows"] == 3


def test_pairs_with_classes_by_id(worker):
    found = describe(worker, "me/pairs", task="text-classification")
    assert (found["text_column"], found["label_column"]) == ("premise,hypothesis", "label")
    assert (found["labels"], found["label_rows"]) == (["no", "yes"], [20, 20])
    assert (found["num_rows"], found["num_eval_rows"]) == (40, 1)


def test_the_task_follows_from_ids(worker):
    asked = {"model_path": "me/tiny", "data_path": "me/rows", "label_column": None}
    assert worker.call("infer_task", asked) == "causal-lm"
    with pytest.raises(InputError, match="premise, hypothesis, label") as caught:
        worker.call("infer_task", {**asked, "data_path": "me/pairs"})
    assert caught.value.field == "task"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("me/none", ["no data set me/none", "no such path", "HF_TOKEN"]),
        ("me/rows@nope", ["no revision 'nope'"]),
        ("me/rows:x", ["no configuration 'x'", "leave it out"]),
        ("me/rows::other", ["no split 'other'", "train, validation, test"]),
        ("me/two", ["several configurations", "de, en"]),
        ("me/two:fr", ["got fr", "de, en"]),
        ("me/script", ["script.py", "never run"]),
    ],
)
def test_data_that_the_hub_does_not_give(worker, path, parts):
    with pytest.raises(InputError) as caught:
        describe(worker, path)
    assert [part for part in parts if part not in str(caught.value)] == []
    assert caught.value.field == "data"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("me/none", ["no model me/none", "no such path"]),
        ("me/gated", ["is gated", "accept its terms"]),
        ("me/forbidden", ["HTTP 403", "HF_TOKEN"]),
        ("me/busy", ["HTTP 503", "try again later"]),
    ],
)
def test_models_that_the_hub_does_not_give(worker, path, parts):
    with pytest.raises(InputError) as caught:
        worker.call("describe_model", {"path": path, "task": "causal-lm"})
    assert [part for part in parts if part not in str(caught.value)] == []
    assert TOKEN not in str(caught.value)
    assert caught.value.field == "model"


def test_the_token_is_sent_to_the_hub_and_kept_nowhere(worker, server, home):
    worker.call("describe_model", {"path": "me/tiny", "task": "causal-lm"})
    assert f"Bearer {TOKEN}" in server.authorizations
    files = [f for f in home.rglob("*") if f.is_file()]
    assert files
    assert [f for f in files if TOKEN.encode() in f.read_bytes()] == []


def test_a_large_file_is_read_in_ranges_and_said(home, server):
    many = "".join(json.dumps({"text": f"{i} " + "x" * 100}) + "\n" for i in range(20_000))
    server.add("datasets", "me/large", {"train.jsonl": many})
    code = (
        "from advisor import row_sampling as s\n"
        "s.LARGE_BYTES, s._SAMPLE_BYTES = 100_000, 50_000\n"
        "from advisor.rows import load_rows\n"
        "r = load_rows('me/large', sample=True)\n"
        "print(r.num_train_rows + r.num_eval_rows, len(r.train), *[f.id for f in r.findings])\n"
    )
    words = run(code, environment(home, server)).split()
    assert 18_000 < int(words[0]) < 22_000
    assert 300 < int(words[1]) < 600
    assert "data.sampled_start" in words
    cached = [f for f in home.rglob("train.jsonl") if f.stat().st_size > 10**6]
    assert cached == []  # never whole on this disk


def run(code, env):
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


ASK = (
    "from advisor import hub\nfrom advisor.errors import InputError\n"
    "for ask in (lambda: hub.find_model({0!r}), lambda: hub.find_data({0!r}, None)):\n"
    "    try:\n        print(ask().commit)\n"
    "    except InputError as error:\n        print(error)\n"
)


def test_offline_and_unreachable_are_said_and_the_cache_answers(worker, home, server):
    worker.call("describe_model", {"path": "me/tiny", "task": "causal-lm"})
    before = len(server.requests)
    offline = environment(home, server, HF_HUB_OFFLINE="1")
    assert run(ASK.format("me/tiny"), offline).splitlines()[0] == COMMIT
    for line in run(ASK.format("me/never"), offline).splitlines():
        assert "me/never is neither a path nor in the cache, and HF_HUB_OFFLINE" in line
    assert len(server.requests) == before
    gone = environment(home, server, HF_ENDPOINT="http://127.0.0.1:9")
    for line in run(ASK.format("me/never"), gone).splitlines():
        assert "the Hub cannot be reached" in line
        assert "127.0.0.1" not in line
    assert run(ASK.format("me/tiny"), gone).splitlines()[0] == COMMIT


@pytest.mark.full
def test_paths_never_reach_for_the_hub(home, server, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS, "utf-8")
    before = len(server.requests)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home, server).items():
            patch.setenv(name, value)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        advisor = Advisor(home=home)
        try:
            pins = {"max_length": 64, "num_train_epochs": 1}
            found = advisor.recommend(Question(data=str(rows), machine="Tesla T4", pins=pins))
        finally:
            advisor.close()
    assert found.plan is not None
    assert server.requests[before:] == []


def test_the_trainer_takes_the_weights_too(home, server):
    code = "from advisor import hub\nprint(hub.fetch_model('me/tiny'))\n"
    directory = run(code, environment(home, server)).strip()
    assert (home / directory / "model.safetensors").stat().st_size == 5000
    assert any(path.endswith("/model.safetensors") for path in server.downloads())
    assert not any(path.endswith((".onnx", ".py")) for path in server.downloads())


def test_what_is_an_id_and_what_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_model_id("owner/name")
    assert hub.is_model_id("owner/name@refs/pr/1")
    assert hub.parse_model_id("owner/name@v1") == ("owner/name", "v1")
    assert hub.with_revision("owner/name", "v1") == "owner/name@v1"
    assert hub.with_revision("owner/name", None) == "owner/name"
    assert hub.with_revision("./owner/name", "v1") == "./owner/name"
    assert hub.is_data_id("owner/name@refs/pr/1:config:split")
    assert hub.parse_data_id("owner/name@v1::test") == hub.DataId(
        repo="owner/name", revision="v1", split="test"
    )
    for text in ("demo", "/owner/name", "./owner/name", "~/name", "a/b/c", "rows.jsonl", "../x/y"):
        assert not hub.is_model_id(text)
        assert not hub.is_data_id(text)
    assert not hub.is_data_id("folder/rows.jsonl.gz")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not hub.is_model_id("owner/name")
    assert not hub.is_data_id("owner/name")


def test_arguments_of_a_revision_ask_for_it():
    given = {"model_name_or_path": "owner/name", "model_revision": "v1", "train_file": "a.jsonl"}
    asked, refused = question_from(given, Question())
    assert (asked.model, asked.data, refused) == ("owner/name@v1", "a.jsonl", ())
    asked, _ = question_from({**given, "model_name_or_path": "./model"}, Question())
    assert asked.model == "./model"


def test_errors_of_the_hub_cross_the_pipe():
    error = InputError("hub.offline", what="model", repo="a/b", field="model")
    assert AdvisorError.decode(error.encode()).sentence("zh") == error.sentence("zh")
    assert dataclasses.is_dataclass(hub.HubModel)
