"""CUDA semantics for fake CPU tensors.

Kernels registered where CUDA's composite operators differ from the CPU's.

A CPU build of torch cannot hold fake CUDA tensors, so the step runs on fake CPU tensors, and the
operators below are replaced at the AutogradCPU key (above autograd: what they call builds the graph
that CUDA would build) and at AutocastCPU (CUDA's lists are longer). `semantics(...)` registers them
for the length of one trace. The evidence stands beside each entry.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_map

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def semantics(compute_capability: tuple[int, int], sdpa: str = "auto") -> Iterator[None]:
    """CPU operators behave as on a card of this compute capability inside the block.

    Args:
        compute_capability: (major, minor).
        sdpa: "auto" takes the kernel the card would; "flash", "efficient" and "math" force one.
    """
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("softmax.int", _softmax(aten._softmax), "AutogradCPU")
        library.impl("log_softmax.int", _softmax(aten._log_softmax), "AutogradCPU")
        library.impl("dropout", _dropout, "AutogradCPU")
        library.impl(
            "scaled_dot_product_attention", _attention(compute_capability, sdpa), "AutogradCPU"
        )
        for names, wrap in (
            (AUTOCAST_FLOAT32, _cast_arguments),
            (AUTOCAST_FLOAT32_RESULT, _set_dtype),
        ):
            for name in names:
                # what the CPU's own float32 list holds needs no second kernel
                if not torch._C._dispatch_has_kernel_for_dispatch_key(
                    f"aten::{name}", "AutocastCPU"
                ):
                    library.impl(name, wrap(_operator(name)), "AutocastCPU")
        yield
    finally:
        library._destroy()


def _softmax(operator: Any) -> Callable[..., Any]:
    """at::softmax fuses half -> float32 for float16 only; bfloat16 gets a float32 copy first.

    Read in source, SoftMax.cpp (`scalar_type() == Half`); the float16 half is measured (eager T4
    rows).
    """

    def kernel(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        if dtype == torch.float32 and x.dtype == torch.float16:
            return operator(x, dim, True)
        return operator(x.to(dtype) if dtype is not None else x, dim, False)

    return kernel


def _dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """CUDA takes native_dropout and saves a bool mask.

    The CPU multiplies by a float one (Dropout.cpp). Read in source.
    """
    if not train or p == 0:
        return x
    return aten.native_dropout(x, p, True)[0]


def choose_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, masked: bool, capability: tuple[int, int]
) -> str:
    """The kernel scaled_dot_product_attention takes on the card (sdp_utils.cpp). Read in source.

    flash: 16-bit, no mask, head size up to 256, compute capability 8.0 and up; takes grouped K/V.
    efficient: no grouped K/V; bfloat16 from 8.0 on. Everything else falls to math.
    """
    if q.dim() != 4:
        return "math"
    grouped = q.shape[1] != k.shape[1]
    ampere = capability >= (8, 0)
    same_width = v.shape[-1] == q.shape[-1]
    if ampere and q.dtype in _HALF and not masked and q.shape[-1] <= 256 and same_width:
        return "flash"
    if not grouped and (ampere or q.dtype != torch.bfloat16):
        return "efficient"
    return "math"


def _attention(capability: tuple[int, int], forced: str) -> Callable[..., Any]:
    def kernel(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: ARG001 - the shapes say it
    ) -> torch.Tensor:
        choice = forced
        if forced == "auto" or q.dim() != 4:
            choice = choose_attention(q, k, v, attn_mask is not None, capability)
        scale = scale if scale is not None else q.shape[-1] ** -0.5
        if choice == "flash":
            return _flash(q, k, v, dropout_p, is_causal, scale)
        if choice == "efficient":
            return _efficient(q, k, v, attn_mask, dropout_p, is_causal, scale)
        return _math(q, k, v, attn_mask, dropout_p, is_causal, scale)

    return kernel


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float, causal: bool, scale: float
) -> torch.Tensor:
    """Head sizes are padded to a multiple of 8 (attention.cpp, pad_last_dim). Read in source."""
    width, pad = v.shape[-1], -q.shape[-1] % 8
    if pad:
        q, k, v = (torch.nn.functional.pad(t, (0, pad)) for t in (q, k, v))
    out = aten._scaled_dot_product_flash_attention(q, k, v, dropout, causal, False, scale=scale)[0]
    return out[..., :width] if pad else out


def _efficient(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """A bool mask becomes additive; its last dimension is padded to 16 (attention.cpp, pad_bias).

    Read in source.
    """
    if mask is not None:
        mask = _additive(mask, q.dtype)
        pad = -mask.shape[-1] % 16
        if pad:
            mask = torch.nn.functional.pad(mask, (0, pad))[..., : mask.shape[-1]]
        mask = mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    needs_grad = any(t.requires_grad for t in (q, k, v))
    return aten._scaled_dot_product_efficient_attention(
        q, k, v, mask, needs_grad, dropout, causal, scale=scale
    )[0]


def _math(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """_scaled_dot_product_attention_math: the full (length x length) scores.

    Read in source, attention.cpp.
    """
    if q.shape[-3] != k.shape[-3]:
        groups = q.shape[-3] // k.shape[-3]
        k, v = k.repeat_interleave(groups, -3), v.repeat_interleave(groups, -3)
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    root = scale**0.5
    scores = (q * root) @ (k * root).transpose(-2, -1)
    if mask is not None:
        scores = scores + _additive(mask, q.dtype)
    scores = torch.softmax(scores, -1)
    if dropout:
        scores = torch.nn.functional.dropout(scores, dropout, True)
    return scores @ v


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))


# CUDA's autocast lists, aten/src/ATen/autocast_mode.h (torch 2.13). The CPU's own
# lower-precision list
# (matmul, linear, convolutions, attention) is the same where it matters.
AUTOCAST_FLOAT32 = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal",
    "rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus",
    "layer_norm", "native_layer_norm", "group_norm", "norm.Scalar", "norm.ScalarOpt_dim",
    "cosine_similarity", "nll_loss", "nll_loss2d", "kl_div", "l1_loss", "smooth_l1_loss",
    "huber_loss", "mse_loss", "soft_margin_loss", "binary_cross_entropy_with_logits", "dist",
    "cdist", "logsumexp",
)  # fmt: skip
AUTOCAST_FLOAT32_RESULT = (
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum",
    "linalg_vector_norm", "sum", "sum.dim_IntList",
)  # fmt: skip


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def _without_autocast() -> Any:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    return torch._C._ExcludeDispatchKeyGuard(key)


def _cast_arguments(operator: Any) -> Callable[..., Any]:
    """AUTOCAST_FLOAT32: 16-bit arguments become float32. Read in source."""

    def to_float32(x: Any) -> Any:
        return x.float() if isinstance(x, torch.Tensor) and x.dtype in _HALF else x

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _without_autocast():
            args, kwargs = tree_map(to_float32, (args, kwargs))
            return operator(*args, **kwargs)

    return kernel


def _set_dtype(operator: Any) -> Callable[..., Any]:
    """fp32_set_opt_dtype: 16-bit input gets dtype=float32 instead of a copy. Read in source."""
    position = [a.name for a in operator._schema.arguments].index("dtype") - 1

    def kernel(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with _without_autocast():
            if x.dtype in _HALF and kwargs.get("dtype") is None:
                if len(args) <= position:
                    kwargs["dtype"] = torch.float32
                elif args[position] is None:
                    args = (*args[:position], torch.float32, *args[position + 1 :])
            return operator(x, *args, **kwargs)

    return kernel
