"""The package flash-attn on fake tensors: what transformers calls for `flash_attention_2`.

Its kernels allocate what PyTorch's own flash kernel does (both are Dao's flash attention 2: output,
float32 log-sum-exp, and in the backward dq, dk, dv with float32 accumulators), so that operator
stands for them. Read in flash-attn 2.8 (`flash_attn_interface.py`, `flash_api.cpp`) and
transformers 5.23 (`modeling_flash_attention_utils.py`). Of the runs in the error table the A100
verdicts alone were measured with it.
"""

from typing import Any

import torch

from advisor.errors import SimulationError
from advisor.simulate.profile import Structure

NAME = "flash_attention_2"
_HALF = ("float16", "bfloat16")


def check(structure: Structure) -> None:
    """Refuse what flash-attn refuses.

    Raises:
        SimulationError: a CPU, a card before compute capability 8.0, or float32 throughout.
    """
    if structure.device == "cpu" or (structure.compute_capability or (0, 0)) < (8, 0):
        raise SimulationError("flash.card")
    if structure.dtype not in _HALF and structure.autocast is None:
        raise SimulationError("flash.dtype")


def switch_on(model: Any) -> None:
    """Have a model that was built for SDPA call flash-attn; building it so asks for the package.

    Raises:
        SimulationError: the class has no flash attention.
    """
    if not model._supports_flash_attn:
        raise SimulationError("flash.unsupported", name=type(model).__name__)
    model.config._attn_implementation = NAME


def functions(*_args: Any, **_kwargs: Any) -> tuple[Any, ...]:
    """What `_lazy_imports` returns when flash-attn is installed."""
    from transformers import modeling_flash_attention_utils as utils

    return flash_attn_func, flash_attn_varlen_func, None, utils._pad_input, utils._unpad_input


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    **_kwargs: Any,
) -> torch.Tensor:
    """Attention of (batch, length, heads, width); widths are padded to a multiple of 8."""
    width, pad = v.shape[-1], -q.shape[-1] % 8
    scale = softmax_scale if softmax_scale is not None else q.shape[-1] ** -0.5
    if pad:
        q, k, v = (torch.nn.functional.pad(t, (0, pad)) for t in (q, k, v))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, dropout_p, causal, False, scale=scale
    )[0].transpose(1, 2)
    return out[..., :width] if pad else out


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,  # noqa: ARG001 - transformers passes it by name
    max_seqlen_q: int,  # noqa: ARG001
    max_seqlen_k: int,  # noqa: ARG001
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),  # noqa: ARG001
    softcap: float = 0.0,  # noqa: ARG001
    deterministic: bool = False,  # noqa: ARG001
) -> torch.Tensor:
    """Attention of all rows' tokens in one row, (tokens, heads, width); rows are equally long.

    The real backward rounds its float32 accumulators up by 128 tokens a row, not to 128.
    """
    rows = cu_seqlens_q.shape[0] - 1
    q, k, v = (t.unflatten(0, (rows, -1)) for t in (q, k, v))
    return flash_attn_func(q, k, v, dropout_p, softmax_scale, causal).flatten(0, 1)


def unpad_data(attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """`_get_unpad_data` of a batch whose longest row fills it; every token counts as real."""
    rows = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = torch.nonzero(attention_mask.flatten(), as_tuple=False).flatten()
    ends = torch.nn.functional.pad(torch.cumsum(rows, dim=0, dtype=torch.int32), (1, 0))
    return indices, ends, attention_mask.shape[-1]
