"""Model and data by their id: recommended for, written down and trained from, off a Hub here."""

import json
import os
import subprocess
import sys

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
    return dict(os.environ)


def test_a_run_by_hub_id_trains_the_revision_that_was_recommended_for(bench, stub, online):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "advisor", "recommend", "--model", "me/tiny@v1",
         "--data", "me/rows", "--machine", "Tesla T4", "--json", "--method", "full",
         "--pin", "max_steps=3", "--pin", "max_length=48", "--pin", "fp16=false",
         "--pin", "per_device_train_batch_size=2"],
        capture_output=True, text=True, env=online, cwd=bench.root, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plan = bench.root / "hub-plan.json"
    plan.write_text(done.stdout)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "advisor", "export", plan, "--format", "hf-json"],
        capture_output=True, text=True, env=online, cwd=bench.root, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    args = bench.root / "hub-args.json"
    written = json.loads(done.stdout)
    args.write_text(json.dumps({**written, "use_cpu": True}))
    assert (written["model_name_or_path"], written["model_revision"]) == ("me/tiny", "v1")
    assert written["train_file"] == "me/rows"

    run_dir = bench.root / "hub-run"
    bench.train(args, "--plan", plan, "--run-dir", run_dir)
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
