"""What bench_gpu.py measures, most informative first: questions (SPEC) with random weights.

Shapes are those of the public models named; stdlib only.
"""

import copy
from typing import Any

_LLAMA = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_QWEN = _LLAMA | {"rms_norm_eps": 1e-6, "vocab_size": 151936, "tie_word_embeddings": True}

MODELS: dict[str, dict[str, Any]] = {
    "smollm2-135m": _LLAMA
    | {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "llama-1b": _LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "llama-8b": _LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "mistral-7b": _LLAMA
    | {
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
    },
    "qwen2-0.5b": _QWEN
    | {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "qwen3-0.6b": _QWEN
    | {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    "bert-base": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    },
    "t5-base": {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 3072,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
    "vit-base": {
        "model_type": "vit",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "num_labels": 2,
    },
}
TASKS = {"bert-base": "masked-lm", "t5-base": "summarization", "vit-base": "image-classification"}
_SMALL = {
    "vocab_size": 256,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "intermediate_size": 64,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 2,
    "n_head": 2,
    "num_heads": 2,
    "num_key_value_heads": 1,
    "image_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DTYPES = {
    "fp32": {"dtype": "float32"},
    "bf16": {"dtype": "float32", "bf16": True},
    "fp16": {"dtype": "float32", "fp16": True},
    "bf16-weights": {"dtype": "bfloat16"},
    "bf16-weights-autocast": {"dtype": "bfloat16", "bf16": True},
    "fp16-weights-autocast": {"dtype": "float16", "fp16": True},
}
_SHORT = {
    "activation_checkpointing": "ckpt",
    "gradient_accumulation_steps": "accumulate",
    "max_grad_norm": "clip",
}


def _one(model: str, precision: str, batch: int, length: int, **more: Any) -> dict[str, Any]:
    """One question; `lora` is a rank and means q and v unless `targets` says otherwise."""
    rank, targets = more.pop("lora", None), more.pop("targets", ["q_proj", "v_proj"])
    dropout = more.pop("lora_dropout", 0.0)
    lora = None
    if rank:
        lora = {
            "r": rank,
            "lora_alpha": 2 * rank,
            "lora_dropout": dropout,
            "target_modules": targets,
        }
    plan = {
        "task": TASKS.get(model, "causal-lm"),
        "method": "lora" if rank else "full",
        "lora": lora,
        "quantization": None,
        "attn_implementation": "sdpa",
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "max_length": length,
        "attention_mask": False,
        "bf16": False,
        "fp16": False,
        "optim": "adamw_torch_fused",
        "activation_checkpointing": False,
        "max_grad_norm": 1.0,
    }
    plan |= _DTYPES[precision] | more
    words = [model, f"lora{rank}" if rank else "full", precision, f"{batch}x{length}"]
    if targets == "all-linear":
        words.append("all-linear")
    if dropout:
        words.append("dropout")
    words += [_word(name, value) for name, value in more.items()]
    return {
        "id": "-".join(words),
        "model": {"name": model, "config": copy.deepcopy(MODELS[model])},
        "plan": plan,
        "loop": {"kind": "trainer"},
    }


def _word(name: str, value: Any) -> str:
    if value is True:
        return _SHORT[name]
    return f"{_SHORT[name]}{value:g}" if name in _SHORT else str(value)


_CKPT: dict[str, Any] = {"activation_checkpointing": True}
_ALL: dict[str, Any] = {"targets": "all-linear"}


def configurations() -> list[dict[str, Any]]:
    """All questions, most informative first."""
    return [
        _one("llama-1b", "bf16", 4, 1024),
        _one("llama-1b", "bf16-weights", 4, 1024),
        _one("llama-1b", "fp32", 4, 1024),
        _one("llama-1b", "bf16-weights", 4, 1024, lora=16),
        _one("llama-1b", "bf16", 4, 1024, **_CKPT),
        _one("llama-8b", "bf16-weights", 1, 4096, lora=16, **_CKPT),
        _one("llama-1b", "fp16", 4, 1024),
        _one("llama-1b", "bf16-weights", 4, 1024, attn_implementation="eager"),
        _one("llama-1b", "bf16-weights", 4, 1024, optim="adamw_torch"),
        _one("gpt2", "bf16", 8, 1024),
        _one("bert-base", "fp16", 16, 512),
        _one("vit-base", "bf16", 64, 197),
        _one("t5-base", "bf16", 8, 512),
        _one("qwen3-0.6b", "bf16", 4, 2048, **_CKPT),
        _one("llama-8b", "bf16-weights", 1, 2048, **_CKPT),
        _one("llama-8b", "bf16-weights", 1, 2048, optim="adamw_torch", **_CKPT),
        _one("llama-1b", "bf16-weights", 4, 1024, optim="adafactor"),
        _one("llama-1b", "bf16-weights", 4, 1024, optim="sgd"),
        _one("mistral-7b", "bf16-weights-autocast", 4, 2048, lora=16, **_ALL, **_CKPT),
        _one("smollm2-135m", "fp32", 1, 512),
        _one("qwen2-0.5b", "bf16-weights", 2, 2048),
        _one("llama-1b", "bf16", 1, 512),
        _one("llama-1b", "bf16", 8, 4096, **_CKPT),
        _one("llama-1b", "bf16", 16, 2048),
        _one("llama-1b", "fp32", 8, 1024, **_CKPT),
        _one("gpt2", "fp32", 8, 1024, attn_implementation="eager"),
        _one("gpt2", "fp16", 8, 1024, optim="adamw_torch"),
        _one("llama-1b", "fp16-weights-autocast", 4, 1024, lora=16),
        _one("llama-1b", "bf16", 4, 1024, gradient_accumulation_steps=4),
        _one("llama-1b", "bf16-weights", 2, 8192, **_CKPT),
        _one("llama-8b", "bf16-weights", 2, 2048, lora=64, **_ALL),
        _one("llama-8b", "bf16-weights", 8, 2048, lora=16),
        _one("bert-base", "fp32", 16, 128),
        _one("vit-base", "fp32", 32, 197),
        _one("t5-base", "fp32", 4, 256),
        _one("bert-base", "bf16", 32, 512, **_CKPT),
        _one("qwen3-0.6b", "bf16-weights", 4, 1024, lora=8, lora_dropout=0.1, **_ALL),
        _one("llama-1b", "bf16", 4, 1024, attn_implementation="eager", **_CKPT),
        _one("llama-1b", "bf16-weights", 4, 1024, max_grad_norm=0.0),
        _one("llama-8b", "bf16-weights", 1, 1024, optim="sgd", **_CKPT),
        _one("llama-8b", "bf16-weights", 1, 1024, optim="adafactor", **_CKPT),
        _one("mistral-7b", "bf16-weights", 1, 512, lora=16),
        _one("mistral-7b", "bf16-weights", 1, 4096, **_CKPT),
        _one("llama-1b", "fp32", 4, 1024, optim="adafactor"),
        _one("llama-1b", "fp32", 4, 1024, optim="adamw_torch"),
        _one("llama-1b", "bf16", 4, 1024, lora=16, **_ALL, **_CKPT),
        _one("smollm2-135m", "bf16", 16, 1024),
        _one("smollm2-135m", "bf16-weights", 2, 512, lora=16, **_CKPT),
        _one("qwen2-0.5b", "fp16", 8, 1024, **_CKPT),
        _one("gpt2", "bf16-weights", 16, 512, optim="sgd"),
        _one("gpt2", "bf16", 2, 256, **_CKPT),
        _one("vit-base", "bf16", 256, 197, **_CKPT),
        _one("t5-base", "bf16-weights", 8, 512, attn_implementation="eager", optim="adafactor"),
        _one("bert-base", "bf16-weights", 8, 384, attn_implementation="eager"),
        _one("llama-1b", "bf16-weights", 1, 128),
        _one("llama-1b", "bf16-weights", 32, 1024),
        _one("llama-8b", "bf16", 1, 512, lora=16, **_CKPT),
        _one("llama-8b", "bf16-weights", 4, 8192, lora=16, **_CKPT),
    ]


def tiny(configuration: dict[str, Any]) -> dict[str, Any]:
    """The same question of a model that a CPU trains in a second."""
    small = copy.deepcopy(configuration)
    config, plan = small["model"]["config"], small["plan"]
    config.update({name: value for name, value in _SMALL.items() if name in config})
    plan |= {"per_device_train_batch_size": 2, "fp16": False}
    plan["dtype"] = plan["dtype"].replace("float16", "float32").replace("bfloat32", "bfloat16")
    plan["max_length"] = 5 if config["model_type"] == "vit" else 16
    small["id"] = f"tiny-{small['id']}"
    return small
