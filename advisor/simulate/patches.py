"""Every change made to torch and transformers for a simulation, in one table.

Only the worker applies them.

Each patch is in force inside `applied(...)` alone, so that nothing leaks into real training or into
a trace that must not have it. `missing()` is asked when the worker starts: a symbol that is gone
means the simulator does not know this version, and the answer is "unknown", not a wrong number.
"""

import contextlib
import pydoc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from advisor.simulate import flash, quantized


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One replaced symbol."""

    module: str
    """A module or a class."""
    symbol: str
    why: str
    replacement: Callable[[Any, "Conditions"], Any]
    """(original, conditions) -> the object that stands in its place."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the replaced functions need to know of the question."""

    padded: bool
    """The batch holds padding: its mask is not all ones."""
    expand_kv: bool = False
    """K and V heads are repeated before SDPA, as some scripts do."""
    compute_capability: tuple[int, int] | None = None
    """Of the card; None: a CPU."""


def _fast_all(original: Callable[..., Any], conditions: Conditions) -> Callable[..., Any]:
    def fast_all(tensor: Any) -> Any:
        result = original(tensor)  # its kernels run and allocate as they would
        return False if conditions.padded else result

    return fast_all


def _bidirectional(original: Callable[..., bool], conditions: Conditions) -> Callable[..., bool]:
    def ignore(padding_mask: Any, *args: Any, **kwargs: Any) -> bool:
        result = original(padding_mask, *args, **kwargs)  # its kernels likewise
        return result and (padding_mask is None or not conditions.padded)

    return ignore


def _sdpa(original: Callable[..., Any], conditions: Conditions) -> Callable[..., Any]:
    if not conditions.expand_kv:
        return original

    def scaled_dot_product_attention(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        if k.size(-3) != q.size(-3):
            groups = q.size(-3) // k.size(-3)
            k, v = k.repeat_interleave(groups, dim=-3), v.repeat_interleave(groups, dim=-3)
            kwargs.pop("enable_gqa", None)
        return original(q, k, v, *args, **kwargs)

    return scaled_dot_product_attention


def _save_on_host(*_args: Any, **_kwargs: Any) -> Any:
    """save_on_cpu of a card: the tensor is gone until its backward brings it back."""
    import torch

    def pack(tensor: Any) -> tuple[Any, ...]:
        return tensor.size(), tensor.stride(), tensor.dtype

    def unpack(packed: tuple[Any, ...]) -> Any:
        size, stride, dtype = packed
        return torch.empty_strided(size, stride, dtype=dtype)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _masks(original: Any) -> Any:
    """The table of masks, where flash attention keeps the mask it was given."""
    masks = type(original)()
    masks["flash_attention_2"] = lambda *_args, attention_mask=None, **_kwargs: attention_mask
    return masks


def _can_use_grouped_mm(
    original: Callable[..., bool], conditions: Conditions
) -> Callable[..., bool]:
    if conditions.compute_capability is None:
        return original
    return lambda *_args, **_kwargs: conditions.compute_capability >= (8, 0)


def _to(original: Callable[..., Any], _conditions: Conditions) -> Callable[..., Any]:
    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and all(p.dtype == args[0] for p in self.parameters()):
            return self
        return original(self, *args, **kwargs)

    return to


def _format(original: Callable[..., str], _conditions: Conditions) -> Callable[..., str]:
    def formatted(self: Any, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else original(self, spec)

    return formatted


PATCHES = (
    Patch(
        module="transformers.masking_utils",
        symbol="is_tracing",
        why="fake tensors count as tracing there, and masks that a real run skips would be built "
        "(measured SDPA rows were over by exactly batch * length**2 bytes)",
        replacement=lambda _original, _conditions: lambda *_args, **_kwargs: False,
    ),
    Patch(
        module="transformers.masking_utils",
        symbol="fast_all",
        why="whether the mask is all ones is a fact of the data, not of a fake tensor",
        replacement=_fast_all,
    ),
    Patch(
        module="transformers.masking_utils",
        symbol="_ignore_bidirectional_mask_sdpa",
        why="an encoder asks the mask itself whether it is all ones: the same fact",
        replacement=_bidirectional,
    ),
    Patch(
        module="transformers.integrations.moe",
        symbol="_can_use_grouped_mm",
        why="it asks the device: grouped_mm from compute capability 8.0 on, else a loop over "
        "experts in one operator (read in source, transformers 5.23)",
        replacement=_can_use_grouped_mm,
    ),
    Patch(
        module="torch.nn.Module",
        symbol="to",
        why="a module that has the dtype already stays as it is; fake parameters cannot be swapped "
        "(the router of switch_transformers)",
        replacement=_to,
    ),
    Patch(
        module="torch.Tensor",
        symbol="__format__",
        why="a single number is formatted as such; a fake one is not recognised (experts of "
        "nllb-moe are looked up by name)",
        replacement=_format,
    ),
    Patch(
        module="torch",
        symbol="is_autocast_enabled",
        why="asked without a device it means CUDA, where the imitated run has its autocast "
        "(peft's quantised layers cast their input only outside of it)",
        replacement=lambda original, _conditions: lambda device="cpu": original(device),
    ),
    Patch(
        module="peft.tuners.lora.dora",
        symbol="dequantize_module_weight",
        why="DoRA takes the norm of the whole weight in every forward, and bitsandbytes' operators "
        "need its binary",
        replacement=lambda original, _conditions: quantized.whole_weight(original),
    ),
    Patch(
        module="transformers.modeling_utils",
        symbol="save_on_cpu",
        why="what checkpointing offloads leaves the card; fake CPU tensors would stay",
        replacement=lambda original, conditions: (
            original if conditions.compute_capability is None else _save_on_host
        ),
    ),
    Patch(
        module="transformers.modeling_flash_attention_utils",
        symbol="_lazy_imports",
        why="the package flash-attn needs a CUDA device; its operators are PyTorch's own here",
        replacement=lambda _original, _conditions: flash.functions,
    ),
    Patch(
        module="transformers.modeling_flash_attention_utils",
        symbol="_loaded_implementation",
        why="what was imported last is remembered there, and must be forgotten with the patch",
        replacement=lambda _original, _conditions: None,
    ),
    Patch(
        module="transformers.modeling_flash_attention_utils",
        symbol="_get_unpad_data",
        why="the longest row of a padded batch is a fact of the data",
        replacement=lambda _original, _conditions: flash.unpad_data,
    ),
    Patch(
        module="transformers.masking_utils",
        symbol="ALL_MASK_ATTENTION_FUNCTIONS",
        why="whether a padded batch needs its mask under flash attention, likewise",
        replacement=lambda original, conditions: (
            _masks(original) if conditions.padded else original
        ),
    ),
    Patch(
        module="torch.nn.functional",
        symbol="scaled_dot_product_attention",
        why="SPEC's loop.expand_kv: K and V repeated before SDPA, where the kernel takes no groups",
        replacement=_sdpa,
    ),
)


def missing() -> tuple[str, ...]:
    """Symbols of PATCHES that the installed versions lack."""
    return tuple(
        f"{p.module}.{p.symbol}" for p in PATCHES if not hasattr(pydoc.locate(p.module), p.symbol)
    )


@contextlib.contextmanager
def applied(conditions: Conditions) -> Iterator[None]:
    """All patches in force inside the block."""
    with contextlib.ExitStack() as stack:
        for patch in PATCHES:
            module = pydoc.locate(patch.module)
            original = getattr(module, patch.symbol)
            stack.callback(setattr, module, patch.symbol, original)
            setattr(module, patch.symbol, patch.replacement(original, conditions))
        yield
