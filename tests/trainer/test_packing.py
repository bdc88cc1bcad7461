"""Packed rows through real trainer processes: what is trained on, and its loss."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from advisor.data import tokenise_texts
from trainer import record


@pytest.fixture(scope="module")
def model(bench):
    """The tiny model without dropout, so that its loss can be made by hand."""
    path = bench.root / "no-dropout"
    shutil.copytree(bench.model, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.0}))
    return path


def trained(bench, model, **changes):
    values = {"config_name": str(model), "packing": True, "max_seq_length": 64, **changes}
    done = bench.train(bench.write(**values))
    return Path(done.stdout.splitlines()[0])


def blocks_by_hand(bench, model, length):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in bench.data.read_text().splitlines()]
    stream = torch.tensor([t for ids in tokenise_texts(tokenizer, texts) for t in ids])
    return stream[: len(stream) // length * length].view(-1, length)


def test_first_loss_is_that_of_all_tokens_of_all_blocks(bench, model):
    blocks = blocks_by_hand(bench, model, 64)
    run_dir = trained(bench, model, per_device_train_batch_size=len(blocks), max_steps=30)
    (start,) = bench.events(run_dir, "start")
    assert start["num_rows"] == len(blocks) > 20
    transformers.set_seed(42)
    config = transformers.AutoConfig.from_pretrained(model)
    with torch.no_grad():
        logits = transformers.AutoModelForCausalLM.from_config(config)(blocks).logits
    by_hand = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), blocks[:, 1:].flatten()
    )
    losses = bench.losses(run_dir)
    assert losses[1] == pytest.approx(by_hand.item(), abs=1e-4)
    assert losses[30] < losses[1] - 0.5
    tokens = [event["num_input_tokens_seen"] for event in bench.events(run_dir, "log")]
    assert tokens == [blocks.numel() * step for step in range(1, 31)]


@pytest.mark.full
def test_a_resumed_run_goes_on_with_the_same_blocks(bench, model):
    values = {"max_steps": 12, "save_strategy": "steps", "save_steps": 6}
    full = trained(bench, model, **values)
    resumed = full.parent / "resumed"
    shutil.copytree(full, resumed)
    shutil.rmtree(resumed / "checkpoints" / "checkpoint-12")
    (resumed / record.EVENTS).write_text("")
    bench.train(resumed / record.ARGUMENTS, "--run-dir", resumed)
    assert bench.events(resumed, "start")[0]["resumed_from_step"] == 6
    expected = {step: loss for step, loss in bench.losses(full).items() if step > 6}
    assert bench.losses(resumed) == expected
