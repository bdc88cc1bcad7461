"""Describe a model from its config: ModelDescription is light; `describe_model` runs in the worker.

Reads the files of a model directory: of weights only the headers, never code that lies beside them.
Of a model on the Hub, config and tokenizer are fetched; its weights are known by their sizes.
"""

import difflib
import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from advisor import demo, hub
from advisor.errors import InputError, UnknownNameError, words
from advisor.tasks import Task, find_task

if TYPE_CHECKING:
    import torch
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

_WEIGHT_FORMATS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""(single file, index of shards), in the order from_pretrained looks for them."""

_SAFETENSORS_DTYPES: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}


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
    content = _read_json(config_file)
    _check_model_type(content, config_file)
    config = _load_config(config_file)
    if found.has_labels and num_labels is not None:
        config.num_labels = num_labels
    model = _build_on_meta(config, found, config_file)
    text_config = config.get_text_config(decoder=True)
    notes = _config_notes(content, model, found, location)
    is_directory = location.is_dir()
    weights = _weight_files(location) if is_directory and remote is None else ()
    stored, stored_notes = _stored_dtype(weights) if remote is None else _remote_dtype(remote)
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
        checkpoint_dtype=stored or _dtype_name(config.dtype) or _dtype_name(text_config.dtype),
        has_weights=bool(sizes),
        has_tokenizer=bool(tokenizer_files),
        has_sdpa=bool(getattr(model, "_supports_sdpa", True)),
        weights_bytes=sum(sizes) or None,
        fingerprint=fingerprint if remote is None else f"{fingerprint}-{remote.commit}",
        notes=(*notes, *stored_notes, *(_head_notes(model, weights) if found.has_labels else ())),
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


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of the user's."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError("model.not_utf8", path=file, field="model") from error
    except json.JSONDecodeError as error:
        raise InputError(
            "model.not_json", path=file, line=error.lineno, reason=error.msg, field="model"
        ) from error
    except RecursionError as error:
        raise InputError("model.too_deep", path=file, field="model") from error
    if not isinstance(content, dict):
        raise InputError("model.no_object", path=file, kind=type(content).__name__, field="model")
    return content


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
        notes.append(f"Code beside the model (auto_map) is not run; transformers' {built} is used.")
    named = content.get("architectures") or []
    if named and built not in named:
        notes.append(f"The config names {', '.join(map(str, named))}; this task trains {built}.")
    if task.slug == "causal-lm" and _sees_ahead(model.config):
        notes.append(
            "The config has is_decoder false: each token would see the ones it should predict; "
            "set is_decoder to true."
        )
    beside = location.parent
    if location.is_file() and (_weight_files(beside) or _tokenizer_files(beside)):
        notes.append(
            "Only the config is used: training starts from random weights; give the directory "
            "to use the weights and the tokenizer beside it."
        )
    return tuple(notes)


def _weight_files(directory: Path) -> tuple[Path, ...]:
    """The files from_pretrained would load, safetensors first; empty when there are no weights."""
    for single, index in _WEIGHT_FORMATS:
        if (directory / single).is_file():
            return (directory / single,)
        if (directory / index).is_file():
            weight_map = _read_json(directory / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise InputError("model.no_weight_map", path=directory / index, field="model")
            shards = tuple(directory / name for name in sorted(set(weight_map.values())))
            missing = [f.name for f in shards if not f.is_file()]
            if missing:
                raise InputError(
                    "model.missing_shards",
                    path=directory,
                    missing=len(missing),
                    shards=len(shards),
                    first=missing[0],
                    field="model",
                )
            return shards
    return ()


def _stored_dtype(
    weights: tuple[Path, ...],
) -> tuple[Literal["float32", "bfloat16", "float16"] | None, tuple[str, ...]]:
    """The dtype most of the weights' numbers are stored in, and what is worth saying about it."""
    if not weights:
        return None, ()
    if weights[0].suffix != ".safetensors":
        return None, (
            f"The weights are pickled ({weights[0].name}); they are loaded with weights_only, "
            "and their dtype is taken from the config.",
        )
    from safetensors import SafetensorError, safe_open

    numbers: Counter[str] = Counter()
    for file in weights:
        try:
            with safe_open(file, framework="pt") as header:
                for name in header.keys():  # noqa: SIM118 - not a mapping
                    tensor = header.get_slice(name)
                    numbers[tensor.get_dtype()] += math.prod(tensor.get_shape())
        except SafetensorError as error:
            raise InputError(
                "model.no_safetensors",
                path=file,
                reason=error,
                size=file.stat().st_size,
                field="model",
            ) from error
    if not numbers:
        return None, (f"{weights[0].name} holds no tensors.",)
    return _most_common_dtype(numbers)


def _remote_dtype(
    remote: hub.HubModel,
) -> tuple[Literal["float32", "bfloat16", "float16"] | None, tuple[str, ...]]:
    """The same of weights on the Hub, which counts the numbers of safetensors files."""
    notes = ("The model is on the Hub: its weights are downloaded when training starts.",)
    if not remote.weights:
        return None, ()
    if not remote.parameters:
        return None, (*notes, "The Hub does not say its weights' dtype; the config's is taken.")
    stored, more = _most_common_dtype(Counter(remote.parameters))
    return stored, (*notes, *more)


def _most_common_dtype(
    numbers: Counter[str],
) -> tuple[Literal["float32", "bfloat16", "float16"] | None, tuple[str, ...]]:
    most = numbers.most_common(1)[0][0]
    if most in _SAFETENSORS_DTYPES:
        return _SAFETENSORS_DTYPES[most], ()
    return None, (f"Most weights are stored as {most}, not as a dtype they can be trained in.",)


def _tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """Files a tokenizer is built from; empty when there is none."""
    settings = directory / "tokenizer_config.json"
    files = tuple(directory / name for name in _TOKENIZER_FILES if (directory / name).is_file())
    if settings.is_file() and (
        files or _read_json(settings).get("tokenizer_class") in _BYTE_TOKENIZERS
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


def _head_notes(model: "PreTrainedModel", weights: tuple[Path, ...]) -> tuple[str, ...]:
    """Said where the checkpoint has no head of this task, or one for other classes."""
    from safetensors import safe_open

    if not weights or weights[0].suffix != ".safetensors":
        return ()
    stored: dict[str, tuple[int, ...]] = {}
    for file in weights:
        with safe_open(file, framework="pt") as header:
            for name in header.keys():  # noqa: SIM118 - not a mapping
                stored[name] = tuple(header.get_slice(name).get_shape())
    inside = f"{model.base_model_prefix}."
    head = {n: tuple(p.shape) for n, p in model.named_parameters() if not n.startswith(inside)}
    if all(stored.get(name) == shape for name, shape in head.items()):
        return ()
    why = "the checkpoint has none"
    if any(name in stored for name in head):
        why = "the checkpoint's is of another size"
    return (
        f"The head ({', '.join(head)}) for {model.config.num_labels} classes starts from random "
        f"weights: {why}.",
    )


def _dtype_name(
    dtype: "torch.dtype | str | None",
) -> Literal["float32", "bfloat16", "float16"] | None:
    name = str(dtype).removeprefix("torch.")
    return next((known for known in _SAFETENSORS_DTYPES.values() if known == name), None)


def _name(location: Path) -> str:
    if demo.is_demo(location):
        return demo.NAME
    location = location.absolute()
    return location.parent.name if location.name == "config.json" else location.name


def _fingerprint(config: dict[str, Any], files: tuple[Path, ...]) -> str:
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    canonical = json.dumps([config, stats], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
