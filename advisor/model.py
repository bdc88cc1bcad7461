"""Describe a model from its config: ModelDescription is light; `describe_model` runs in the worker.

Reads the files of a model directory: of weights only the headers, never code that lies beside them.
Of a model on the Hub, config and tokenizer are fetched; its weights are known by their sizes.
"""

import difflib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from advisor import demo, hub
from advisor.checkpoint import (
    dtype_name,
    head_notes,
    read_json,
    remote_dtype,
    stored_dtype,
    weight_files,
)
from advisor.errors import InputError, UnknownNameError, note, words
from advisor.tasks import Task, find_task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What the advisor knows of a model before any weight is loaded."""

    name: str
    """Last part of the path, or "demo"; of a model on the Hub its id."""
    path: str
    """Where it was read: a model directory, a config.json, or an id of the Hub."""
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
    """dtype the weights are stored in (safetensors header, else config); None: neither says."""
    has_weights: bool = False
    """False: a run starts from random weights."""
    has_tokenizer: bool = False
    has_sdpa: bool = True
    """False: transformers has eager attention alone for this class."""
    weights_bytes: int | None = None
    """Size of the weight files, on disk or on the Hub."""
    fingerprint: str = ""
    """Hash of config and files, for caches."""
    notes: tuple[str, ...] = ()
    linear_modules: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Linear layers a LoRA can sit on: last part of the module's name -> (in, out) features."""

    def can_adapt(self) -> bool:
        """Whether there are weights for adapters to sit on.

        A tokenizer without weights is a model to train from scratch; a config without either
        describes one whose files are elsewhere, e.g. not downloaded yet.
        """
        return self.has_weights or not self.has_tokenizer


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
_BYTE_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
"""Tokenizers without a vocabulary file: tokenizer_config.json is all they have."""


def describe_model(path: str, task: str, num_labels: int | None = None) -> ModelDescription:
    """Describe a model from its config and the headers of its weight files.

    Args:
        path: a directory with config.json, a config.json (then weights and tokenizer beside it are
            not used), an id of the Hub (owner/name), or "demo".
        task: slug of `advisor.tasks`; its auto class decides the architecture and so the count.
        num_labels: classes that the data has, of a task with classes; None: those of the config.

    Raises:
        InputError: the files cannot be used, or the task cannot use this model.
    """
    from advisor.simulate.build import context_of

    found = find_task(task)
    remote = hub.find_model(path) if hub.is_model_id(path) else None
    location = demo.resolve(path, "model") if remote is None else remote.directory
    config_file = _config_file(location)
    content = read_json(config_file)
    _check_model_type(content, config_file)
    config = _load_config(config_file)
    if found.has_labels and num_labels is not None:
        config.num_labels = num_labels
    model = _build_on_meta(config, found, config_file)
    text_config = config.get_text_config(decoder=True)
    notes = _config_notes(content, model, found, location)
    is_directory = location.is_dir()
    weights = weight_files(location) if is_directory and remote is None else ()
    stored, stored_notes = stored_dtype(weights) if remote is None else remote_dtype(remote)
    tokenizer_files = _tokenizer_files(location) if is_directory else ()
    plain = json.loads(config.to_json_string(use_diff=False))
    plain.pop("_name_or_path", None)
    sizes = [f.stat().st_size for f in weights] if remote is None else [*remote.weights.values()]
    fingerprint = _fingerprint(plain, (*weights, *tokenizer_files))
    return ModelDescription(
        name=_name(location) if remote is None else path,
        path=str(location) if remote is None else path,
        config=plain,
        model_type=config.model_type,
        architecture=type(model).__name__,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_trainable_layers=_integer(text_config, "num_hidden_layers"),
        hidden_size=_integer(text_config, "hidden_size"),
        vocab_size=_integer(text_config, "vocab_size"),
        max_position_embeddings=context_of(model),
        checkpoint_dtype=stored or dtype_name(config.dtype) or dtype_name(text_config.dtype),
        has_weights=bool(sizes),
        has_tokenizer=bool(tokenizer_files),
        has_sdpa=bool(getattr(model, "_supports_sdpa", True)),
        weights_bytes=sum(sizes) or None,
        fingerprint=fingerprint if remote is None else f"{fingerprint}-{remote.commit}",
        notes=(*notes, *stored_notes, *(head_notes(model, weights) if found.has_labels else ())),
        linear_modules=_linear_modules(model, found),
    )


def _config_file(location: Path) -> Path:
    if not location.exists():
        raise InputError("model.absent", path=location, field="model")
    if location.is_file():
        return location
    config_file = location / "config.json"
    if not config_file.is_file():
        if (location / "adapter_config.json").is_file():
            raise InputError("model.adapter", path=location, field="model")
        raise InputError("model.no_config", path=location, field="model")
    return config_file


def _check_model_type(content: dict[str, Any], file: Path) -> None:
    import transformers
    from transformers import CONFIG_MAPPING

    model_type = content.get("model_type")
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        return
    if "auto_map" in content:
        raise InputError(
            "model.own_code",
            path=file,
            model_type=model_type,
            version=transformers.__version__,
            field="model",
        )
    if not isinstance(model_type, str):
        raise InputError("model.no_model_type", path=file, got=model_type, field="model")
    nearest = tuple(difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=5, cutoff=0.4))
    advice = words("model.nearest_types", names=nearest) if nearest else words("model.no_near_type")
    raise UnknownNameError(
        "model.unknown_type",
        path=file,
        model_type=model_type,
        version=transformers.__version__,
        advice=advice,
        nearest=nearest,
        field="model",
    )


def _load_config(file: Path) -> "PreTrainedConfig":
    from transformers import AutoConfig

    from advisor.simulate.build import model_errors, one_line

    try:
        return AutoConfig.from_pretrained(str(file), local_files_only=True, trust_remote_code=False)
    except model_errors() as error:
        raise InputError(
            "model.unusable", path=file, reason=one_line(error), field="model"
        ) from error


def _build_on_meta(config: "PreTrainedConfig", task: Task, file: Path) -> "PreTrainedModel":
    import torch

    from advisor.simulate.build import auto_class, model_errors, one_line

    try:
        # eager exists for every model; what the config asks for may not be installed here
        with torch.device("meta"):
            return auto_class(config, task).from_config(
                config, trust_remote_code=False, attn_implementation="eager"
            )
    except model_errors() as error:
        if "Unrecognized configuration class" in str(error):
            raise InputError(
                "model.wrong_task",
                model_type=config.model_type,
                path=file,
                task=task.slug,
                auto_class=task.auto_class,
                field="model",
            ) from error
        raise InputError(
            "model.cannot_build",
            path=file,
            model_type=config.model_type,
            reason=one_line(error),
            field="model",
        ) from error


def _sees_ahead(config: "PreTrainedConfig") -> bool:
    """Whether an encoder runs without the causal mask (GPT-NeoX ignores the field)."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return getattr(config, "is_decoder", None) is False and (
        type(config) in MODEL_FOR_MASKED_LM_MAPPING
    )


def _config_notes(
    content: dict[str, Any], model: "PreTrainedModel", task: Task, location: Path
) -> tuple[str, ...]:
    notes = []
    built = type(model).__name__
    if "auto_map" in content:
        notes.append(note("model.auto_map", built=built))
    named = content.get("architectures") or []
    if named and built not in named:
        names = list(map(str, named))
        notes.append(note("model.other_class", names=names, built=built))
    if task.slug == "causal-lm" and _sees_ahead(model.config):
        notes.append(note("model.sees_ahead"))
    beside = location.parent
    if location.is_file() and (weight_files(beside) or _tokenizer_files(beside)):
        notes.append(note("model.config_alone"))
    return tuple(notes)


def _tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """Files a tokenizer is built from; empty when there is none."""
    settings = directory / "tokenizer_config.json"
    files = tuple(directory / name for name in _TOKENIZER_FILES if (directory / name).is_file())
    if settings.is_file() and (
        files or read_json(settings).get("tokenizer_class") in _BYTE_TOKENIZERS
    ):
        return (*files, settings)
    return files


def _linear_modules(model: "PreTrainedModel", task: Task) -> dict[str, tuple[int, int]]:
    """What peft's "all-linear" targets: Linear and GPT-2's Conv1D, without the output head."""
    heads = ("classifier", "score") if task.has_labels else ()
    import torch
    from transformers.pytorch_utils import Conv1D

    from advisor.simulate.build import output_layer

    head = output_layer(model)
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if module is head or name.partition(".")[0] in heads:
            continue
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Linear):
            found.setdefault(last, (module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            found.setdefault(last, (module.nx, module.nf))
    return found


def _integer(config: "PreTrainedConfig", name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _name(location: Path) -> str:
    if demo.is_demo(location):
        return demo.NAME
    location = location.absolute()
    return location.parent.name if location.name == "config.json" else location.name


def _fingerprint(config: dict[str, Any], files: tuple[Path, ...]) -> str:
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    canonical = json.dumps([config, stats], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
