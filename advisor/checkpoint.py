"""What weight files hold: which they are, their numbers' dtype, their head. Reads headers alone."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from advisor import hub
from advisor.errors import InputError, note, words

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Dtype = Literal["float32", "bfloat16", "float16"]

_WEIGHT_FORMATS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""(single file, index of shards), in the order from_pretrained looks for them."""

_SAFETENSORS_DTYPES: dict[str, Dtype] = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}


def read_json(file: Path) -> dict[str, Any]:
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


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The files from_pretrained would load, safetensors first; empty when there are no weights."""
    for single, index in _WEIGHT_FORMATS:
        if (directory / single).is_file():
            return (directory / single,)
        if (directory / index).is_file():
            weight_map = read_json(directory / index).get("weight_map")
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


def stored_dtype(
    weights: tuple[Path, ...],
) -> tuple[Dtype | None, tuple[str, ...]]:
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
        return None, (note("checkpoint.no_tensors", name=weights[0].name),)
    return _most_common_dtype(numbers)


def remote_dtype(
    remote: hub.HubModel,
) -> tuple[Dtype | None, tuple[str, ...]]:
    """The same of weights on the Hub, which counts the numbers of safetensors files."""
    notes = (note("checkpoint.on_hub"),)
    if not remote.weights:
        return None, ()
    if not remote.parameters:
        return None, (*notes, note("checkpoint.hub_dtype"))
    stored, more = _most_common_dtype(Counter(remote.parameters))
    return stored, (*notes, *more)


def _most_common_dtype(
    numbers: Counter[str],
) -> tuple[Dtype | None, tuple[str, ...]]:
    most = numbers.most_common(1)[0][0]
    if most in _SAFETENSORS_DTYPES:
        return _SAFETENSORS_DTYPES[most], ()
    return None, (note("checkpoint.untrainable_dtype", dtype=most),)


def head_notes(model: "PreTrainedModel", weights: tuple[Path, ...]) -> tuple[str, ...]:
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
    why = words("checkpoint.no_head")
    if any(name in stored for name in head):
        why = words("checkpoint.other_head")
    num_labels = model.config.num_labels
    return (note("checkpoint.head", names=list(head), num_labels=num_labels, why=why),)


def dtype_name(
    dtype: "torch.dtype | str | None",
) -> Dtype | None:
    """One of those that weights are trained in, by its name; None: another."""
    name = str(dtype).removeprefix("torch.")
    return next((known for known in _SAFETENSORS_DTYPES.values() if known == name), None)
