"""Model and data by their id: a real run that takes both from a Hub on this machine."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.advisor.hub_stub import Hub
from trainer import record

TAG = "fedcba98" * 5


@pytest.fixture(scope="module")
def stub(bench):
    """me/tiny has a wide model on its main branch and a narrow one at its tag v1."""
    server = Hub()
    files = {f.name: f.read_bytes() for f in bench.model.iterdir()}
    narrow = json.loads(files["config.json"])
    wide = {**narrow, "hidden_size": 64}
    states = []
    for config in (wide, narrow):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
        where = bench.root / f"hub-{config['hidden_size']}"
        model.save_pretrained(where)
        states.append({**files, **{f.name: f.read_bytes() for f in where.iterdir()}})
    server.add("models", "me/tiny", states[0], tags={"v1": (TAG, states[1])})
    rows = {
        "train.jsonl": bench.data.read_bytes(),
        "validation.jsonl": bench.validation.read_bytes(),
    }
    server.add("datasets", "me/rows", rows)
    yield server
    server.close()


@pytest.fixture
def online(bench, stub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", stub.url)
    monkeypatch.setenv("HF_HOME", str(bench.root / "hf"))


@pytest.mark.usefixtures("online")
def test_a_run_by_hub_id_trains_the_revision_that_was_asked_for(bench, stub):
    by_id = {"model_name_or_path": "me/tiny", "model_revision": "v1", "train_file": "me/rows"}
    none = dict.fromkeys(("config_name", "tokenizer_name", "validation_file"))
    args = bench.write(**by_id, **none, max_steps=3)
    run_dir = bench.root / "hub-run"
    bench.train(args, "--run-dir", run_dir)
    said = record.read_object(run_dir / record.RECORD)
    assert (said["state"], bench.steps(run_dir)) == ("finished", 3)
    assert json.loads((run_dir / "args.json").read_text())["model_revision"] == "v1"
    weights = [path for path in stub.downloads() if path.endswith("model.safetensors")]
    assert weights == [f"/me/tiny/resolve/{TAG}/model.safetensors"]
    trained = load_file(next(run_dir.rglob("model.safetensors")))
    assert trained["model.embed_tokens.weight"].shape[1] == 32  # v1's, not main's 64
    started = load_file(bench.root / "hub-32" / "model.safetensors")
    assert not torch.equal(
        trained["model.embed_tokens.weight"], started["model.embed_tokens.weight"]
    )
