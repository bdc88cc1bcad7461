"""What an operator over lists of tensors writes in place, and how many kernels CUDA makes of it."""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

# What one launch of multi_tensor_apply takes: tensors by number of lists, blocks, elements a block
# (ATen/native/cuda/MultiTensorApply.cuh of torch 2.13 before CUDA 13; builds for CUDA 13 take seven
# times as many). Read in source.
_TENSORS = (110, 64, 48, 36, 30)
_BLOCKS = 320
_ELEMENTS_A_BLOCK = 65536


def written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """What an operator without a result changes in place.

    A fused optimizer writes gradients only to unscale them.
    """
    tensors: list[torch.Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        changed = argument.alias_info is not None and argument.alias_info.is_write
        if not changed or (argument.name == "grads" and kwargs.get("grad_scale") is None):
            continue
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        tensors += [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]
    return tensors


_SEVERAL = {
    "embedding_dense_backward": 6,
    "index_put": 8,
    "_index_put_impl_": 8,
    "nonzero": 4,
    "sort": 4,
    "topk": 3,
    "native_layer_norm_backward": 2,
    "_scaled_dot_product_flash_attention_backward": 3,
    "_scaled_dot_product_efficient_attention_backward": 2,
    "convolution_backward": 2,
}
"""Kernels of operators that are more than one (ATen/native/cuda of torch 2.13)."""


def on_cuda(func: Any, args: Any, *, by_list: bool) -> int:
    """Launches of an operator; `by_list`: it has no result and may work on lists in place."""
    if by_list:
        return multi_tensor(func, args)
    number = len(args[0]) if args and isinstance(args[0], (list, tuple)) else 1
    name = func._schema.name.removeprefix("aten::")
    if name.startswith("_foreach"):  # a result for each tensor
        return -(-number // _TENSORS[1])
    return 1 if name in ("cat", "stack") else _SEVERAL.get(name, number)


def multi_tensor(func: Any, args: Any) -> int:
    """Launches of an in-place operator over lists: one as soon as tensors or blocks are full."""
    lists = [a for a in args if isinstance(a, (list, tuple)) and a]
    lists = [a for a in lists if isinstance(a[0], torch.Tensor)]
    if not lists:
        return 1
    depth = len(lists) - 1 if "_fused_" in str(func) else len(lists)  # the steps ride along
    most = _TENSORS[min(depth, len(_TENSORS)) - 1]
    launches = tensors = blocks = 0
    for tensor in lists[0]:
        tensors += 1
        blocks += -(-tensor.numel() // _ELEMENTS_A_BLOCK)
        while blocks > _BLOCKS:
            launches, tensors, blocks = launches + 1, 1, blocks - _BLOCKS
        if tensors == most or blocks == _BLOCKS:
            launches, tensors, blocks = launches + 1, 0, 0
    return launches + (blocks > 0)
