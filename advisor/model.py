"""Describe a model from its config: ModelDescription is light; `describe_model` needs torch and runs in the worker."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What the advisor knows of a model before any weight is loaded."""

    name: str
    """Last part of the path, or "demo"."""
    path: str
    """Where it was read: a model directory or a config.json."""
    config: dict[str, Any]
    """The Hugging Face config as a dict, with model_type."""
    model_type: str
    architecture: str
    """Class that AutoModelFor* builds, e.g. LlamaForCausalLM."""
    num_parameters: int
    """Exact, from the class on the meta device; tied weights counted once."""
    num_trainable_layers: int | None = None
    """Repeated blocks (num_hidden_layers)."""
    hidden_size: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    """Context length in tokens."""
    checkpoint_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """dtype the weights are stored in (safetensors header, else config); None without weights and without a word in the config."""
    has_weights: bool = False
    """False: a run starts from random weights."""
    has_tokenizer: bool = False
    weights_bytes: int | None = None
    """Size of the weight files on disk."""
    fingerprint: str = ""
    """Hash of config and files, for caches."""
    notes: tuple[str, ...] = ()
    linear_modules: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Names of the linear layers a LoRA can sit on (last part of the module name) -> (in, out) features of one."""
