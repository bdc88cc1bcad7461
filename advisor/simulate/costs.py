"""What kind of work an operator is, and how many bytes it moves."""

import functools
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry


def moved(tensor: torch.Tensor) -> int:
    """Bytes read or written: a broadcast dimension counts once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()


_KIND_BY_NAME = {
    "embedding": "gather",
    "index": "gather",
    "gather": "gather",
    "embedding_dense_backward": "copy",
    "clone": "copy",
    "copy_": "copy",
    "_to_copy": "copy",
    "cat": "copy",
    "mean": "reduce",
    "sum": "reduce",
    "_softmax": "reduce",
    "_log_softmax": "reduce",
    "_softmax_backward_data": "reduce",
    "_log_softmax_backward_data": "reduce",
    "native_layer_norm": "reduce",
    "native_layer_norm_backward": "reduce",
}


@functools.cache
def kind_of(func: Any) -> str:
    """One of KINDS."""
    name = func._schema.name.removeprefix("aten::")
    if "attention" in name:
        return "attention"
    if func._overloadpacket in flop_registry:
        return "matmul"
    returns = func._schema.returns
    if returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns):
        return "view"
    if name in ("detach", "alias", "_unsafe_view") or name.startswith("empty"):
        return "view"
    return _KIND_BY_NAME.get(name, "elementwise")


def is_causal(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an attention operator was called with is_causal."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == "is_causal":
            return bool(args[i] if i < len(args) else kwargs.get("is_causal", False))
    return False
