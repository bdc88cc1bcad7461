"""What kind of work an operator is, and how many bytes it moves."""

from functools import cache, lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry


def moved(tensor: torch.Tensor) -> int:
    """Bytes read or written: a broadcast dimension counts once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()


_BEGINNINGS = (
    ("sum mean amax amin max min _softmax _log_softmax native_layer_norm native_group_norm "
     "native_batch_norm nll_loss norm linalg_vector_norm _foreach_norm var std cumsum logsumexp "
     "argmax any all _fused_rms_norm prod", "reduce"),
    ("_to_copy copy_ clone cat stack constant_pad repeat roll flip", "copy"),
    ("embedding_dense_backward index_put _index_put_impl_ index_add scatter select_backward "
     "slice_backward sort topk arange tril triu nonzero masked_select", "copy"),
    ("embedding index gather", "gather"),
)  # fmt: skip
"""Kinds by how a name begins, the first that fits; all others are elementwise."""
_TWO_MATRICES = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
"""Matmuls, and which argument is the first factor."""


@cache
def kind_of(func: Any) -> str:
    """One of KINDS, or "view" for what launches no kernel."""
    name = name_of(func)
    if "attention" in name:
        return "attention"
    if func._overloadpacket in flop_registry:
        return "matmul"
    if is_view(func) or name.startswith("empty"):
        return "view"
    return _kind_by_name(name)


@lru_cache(maxsize=4096)
def _kind_by_name(name: str) -> str:
    return next((kind for words, kind in _BEGINNINGS if name.startswith(tuple(words.split()))),
                "elementwise")  # fmt: skip


def is_view(func: Any) -> bool:
    """Whether an operator returns what it was given, seen another way."""
    returns = func._schema.returns
    if returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns):
        return True
    return name_of(func) in ("detach", "alias", "_unsafe_view")


def dims_of(func: Any, kind: str, args: Any) -> tuple[int, ...]:
    """Shape of a matmul or of attention; zeros where there is none.

    Returns:
        (matrices, m, n, k) of a product of (m, k) and (k, n); (rows times heads, length of the
        queries, of the keys, width of a head) of attention.
    """
    name = name_of(func)
    if kind == "attention":
        q, k = args[1:3] if "backward" in name else args[:2]
        if q.dim() == 4 and k.dim() == 4:
            return q.shape[0] * q.shape[1], q.shape[2], k.shape[2], q.shape[3]
    if kind == "matmul" and name in _TWO_MATRICES:
        a, b = args[_TWO_MATRICES[name] : _TWO_MATRICES[name] + 2]
        if a.dim() == 3:
            return a.shape[0], a.shape[1], b.shape[2], a.shape[2]
        rows = a.shape[0] if a.dim() == 2 else 1
        return 1, rows, b.shape[1] if b.dim() == 2 else 1, b.shape[0]
    return 0, 0, 0, 0


def name_of(func: Any) -> str:
    """Name of an operator without namespace and overload."""
    return func._schema.name.removeprefix("aten::")


def is_causal(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an attention operator was called with is_causal."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == "is_causal":
            return bool(args[i] if i < len(args) else kwargs.get("is_causal", False))
    return False
