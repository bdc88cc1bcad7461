"""Models saved by save_pretrained are described exactly.

What cannot be used is refused in a sentence.
"""

import json
import os
from typing import Any

import pytest

from advisor import records
from advisor.errors import InputError, UnknownNameError
from advisor.model import ModelDescription, describe_model

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 2,
}
PER_LAYER = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64
"""q and o, k and v, the MLP's three, two norms: counted by hand."""


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def write_config(directory, config):
    directory.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (directory / "config.json").write_text(text, "utf-8")
    return str(directory)


def refusal(path, kind=InputError):
    with pytest.raises(kind) as caught:
        describe_model(str(path), "causal-lm")
    assert caught.value.field == "model"
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    return str(caught.value)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("models") / "small-llama"
    config = AutoConfig.for_model(**LLAMA)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="50KB")
    return directory


def test_sharded_bfloat16_weights_are_read_from_their_headers(sharded):
    stated = json.loads((sharded / "config.json").read_text("utf-8"))
    stated["dtype"] = "float32"  # a wrong word in the config does not win over the files
    (sharded / "config.json").write_text(json.dumps(stated), "utf-8")
    shards = list(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    found = describe_model(str(sharded), "causal-lm")
    assert found.checkpoint_dtype == "bfloat16"
    assert found.has_weights
    assert not found.has_tokenizer
    assert found.weights_bytes == sum(f.stat().st_size for f in shards)
    assert found.num_parameters == 3 * PER_LAYER + 64 + 2 * 100 * 64
    assert (found.num_trainable_layers, found.hidden_size) == (3, 64)
    assert (found.vocab_size, found.max_position_embeddings) == (100, 128)
    assert (found.name, found.architecture) == ("small-llama", "LlamaForCausalLM")
    assert found.linear_modules == {
        "q_proj": (64, 64),
        "k_proj": (64, 32),
        "v_proj": (64, 32),
        "o_proj": (64, 64),
        "gate_proj": (64, 96),
        "up_proj": (64, 96),
        "down_proj": (96, 64),
    }
    assert found.notes == ()


def test_the_description_goes_through_json(sharded):
    found = describe_model(str(sharded), "causal-lm")
    text = json.dumps(records.encode(found), allow_nan=False)
    assert records.decode(ModelDescription, json.loads(text)) == found
    assert "_name_or_path" not in found.config


def test_a_missing_shard_is_refused(sharded, tmp_path):
    for file in sharded.iterdir():
        os.link(file, tmp_path / file.name)
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    sentence = refusal(tmp_path)
    assert "lacks 1 of" in sentence
    assert lost.name in sentence


def test_the_fingerprint_follows_config_and_weight_files(sharded, tmp_path):
    path = write_config(tmp_path / "m", LLAMA)
    first = describe_model(path, "causal-lm").fingerprint
    assert describe_model(path, "causal-lm").fingerprint == first
    write_config(tmp_path / "m", {**LLAMA, "rms_norm_eps": 1e-3})
    second = describe_model(path, "causal-lm").fingerprint
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"x")
    assert len({first, second, describe_model(path, "causal-lm").fingerprint}) == 3


def test_tied_weights_count_once(tmp_path):
    tied = describe_model(
        write_config(tmp_path, {**LLAMA, "tie_word_embeddings": True}), "causal-lm"
    )
    assert tied.num_parameters == 3 * PER_LAYER + 64 + 100 * 64


def test_gpt2_counts_its_conv1d_layers_and_knows_its_other_names(tmp_path):
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 50}
    found = describe_model(write_config(tmp_path, {**config, "n_positions": 64}), "causal-lm")
    assert found.linear_modules == {"c_attn": (32, 96), "c_proj": (32, 32), "c_fc": (32, 128)}
    assert (found.num_trainable_layers, found.hidden_size) == (2, 32)
    assert found.max_position_embeddings == 64
    assert not found.has_tokenizer
    assert not found.has_weights
    assert found.weights_bytes is None
    assert found.checkpoint_dtype is None


def test_linear_modules_are_those_peft_targets(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    gpt2: dict[str, Any] = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2}
    for config in (LLAMA, gpt2):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        fan_in = config["model_type"] == "gpt2"
        lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=fan_in)
        wrapped = get_peft_model(model, lora)
        targeted = {
            name.removesuffix(".lora_A").rpartition(".")[2]
            for name, _ in wrapped.named_modules()
            if name.endswith(".lora_A")
        }
        found = describe_model(write_config(tmp_path / "m", config), "causal-lm")
        assert set(found.linear_modules) == targeted


def test_an_encoder_is_described_with_a_warning(tmp_path):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    bert = {"model_type": "bert", "architectures": ["BertForMaskedLM"], **small}
    found = describe_model(write_config(tmp_path, bert), "causal-lm")
    assert found.architecture == "BertLMHeadModel"
    assert any("BertForMaskedLM" in note for note in found.notes)
    assert any("is_decoder" in note for note in found.notes)
    decoder = describe_model(write_config(tmp_path, {**bert, "is_decoder": True}), "causal-lm")
    assert not any("is_decoder" in note for note in decoder.notes)


def test_gpt_neox_needs_no_is_decoder(tmp_path):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    found = describe_model(write_config(tmp_path, {"model_type": "gpt_neox", **small}), "causal-lm")
    assert found.notes == ()


def test_a_vision_language_model_takes_its_values_from_the_text_part(tmp_path):
    part = {"num_attention_heads": 4, "intermediate_size": 96}
    config = {
        "model_type": "gemma3",
        "text_config": {**part, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 90},
        "vision_config": {**part, "hidden_size": 32, "num_hidden_layers": 1},
    }
    found = describe_model(write_config(tmp_path, config), "causal-lm")
    assert found.architecture == "Gemma3ForConditionalGeneration"
    assert (found.hidden_size, found.num_trainable_layers, found.vocab_size) == (64, 2, 90)
    assert "fc1" in found.linear_modules  # of the vision tower, as peft targets it


def test_a_float_that_json_lacks_survives(tmp_path):
    config = {
        "model_type": "mamba2",
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "num_heads": 4,
        "head_dim": 16,
    }
    found = describe_model(write_config(tmp_path, config), "causal-lm")
    json.dumps(found.config, allow_nan=False)


def test_a_bare_config_json_uses_nothing_beside_it(sharded):
    found = describe_model(str(sharded / "config.json"), "causal-lm")
    assert found.name == "small-llama"
    assert not found.has_weights
    assert any("random weights" in note for note in found.notes)


def test_pickled_weights_are_counted_and_said(tmp_path):
    path = write_config(tmp_path, {**LLAMA, "dtype": "float16"})
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    found = describe_model(path, "causal-lm")
    assert found.has_weights
    assert found.weights_bytes == 17
    assert found.checkpoint_dtype == "float16"
    assert "weights_only" in found.notes[0]


def test_weights_in_no_training_dtype_are_said(tmp_path):
    import torch
    from safetensors.torch import save_file

    path = write_config(tmp_path, {**LLAMA, "torch_dtype": "bfloat16"})
    many, few = torch.zeros(8, 4, dtype=torch.int8), torch.zeros(4)
    save_file({"a": many, "b": few}, tmp_path / "model.safetensors")
    found = describe_model(path, "causal-lm")
    assert found.checkpoint_dtype == "bfloat16"
    assert "stored as I8" in found.notes[0]


def test_the_demo_has_a_name_a_tokenizer_and_no_weights():
    found = describe_model("demo", "causal-lm")
    assert found.name == "demo"
    assert found.has_tokenizer
    assert not found.has_weights
    assert found.notes == ()
    assert found.vocab_size == 258
    assert 500_000 < found.num_parameters < 5_000_000


def test_code_beside_a_known_model_is_not_run(tmp_path):
    path = write_config(tmp_path, {**LLAMA, "auto_map": {"AutoConfig": "evil.Config"}})
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\nclass Config: pass\n", "utf-8")
    found = describe_model(path, "causal-lm")
    assert found.architecture == "LlamaForCausalLM"
    assert "auto_map" in found.notes[0]


def test_code_of_an_unknown_model_is_refused(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\nclass Config: pass\n", "utf-8")
    sentence = refusal(
        write_config(tmp_path, {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    assert "auto_map" in sentence
    assert "never run" in sentence


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ('{"a": 1,\n "b": }', ["line 2", "not valid JSON"]),
        ("[1]", ["JSON object", "got a list"]),
        ({"hidden_size": 4}, ["no model_type", "got None"]),
        ({**LLAMA, "hidden_size": "x"}, ["hidden_size", "'x'", "correct the value"]),
        ({**LLAMA, "hidden_size": 65}, ["65", "attention heads (4)"]),
        ({**LLAMA, "hidden_act": "nope"}, ["nope", "llama"]),
        ({**LLAMA, "num_attention_heads": 0}, ["correct the value"]),
        ({**LLAMA, "dtype": "float17"}, ["float17"]),
        ({"model_type": "vit"}, ["vit", "causal-lm", "AutoModelForCausalLM", "another task"]),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, config, parts):
    sentence = refusal(write_config(tmp_path, config))
    assert str(tmp_path) in sentence
    assert [part for part in parts if part not in sentence] == []


def test_an_unknown_model_type_names_the_nearest(tmp_path):
    path = write_config(tmp_path, {"model_type": "lama"})
    assert "llama" in refusal(path, UnknownNameError)


def test_paths_without_a_model_are_refused(tmp_path):
    assert "There is no model at" in refusal(tmp_path / "nothing")
    assert "has no config.json" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", "utf-8")
    assert "base model" in refusal(tmp_path)


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    path = write_config(tmp_path, LLAMA)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    sentence = refusal(path)
    assert "Git LFS" in sentence
    assert "model.safetensors" in sentence


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="causal-lm"):
        describe_model(write_config(tmp_path, LLAMA), "cooking")
