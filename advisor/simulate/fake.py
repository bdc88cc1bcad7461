"""Fake tensors whose known results are found faster.

FakeTensorMode remembers what an operator returned for tensors of the same shapes; to look it up
and to make the tensor anew takes most of a trace, because both serve symbolic shapes and subclasses
too. Here plain tensors take a shorter way; for all else torch's own code stays in charge, and it
alone decides what is remembered.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    _BypassDispatchCache,
    _CacheKeyState,
    _DispatchCacheKey,
    _DispatchCacheValidEntry,
    in_kernel_invocation_manager,
)

_PLAIN = frozenset(
    {
        bool,
        float,
        int,
        str,
        type(None),
        torch.device,
        torch.dtype,
        torch.layout,
        torch.memory_format,
    }
)
"""Types of arguments that are what they are; 1 and 1.0 differ by theirs."""
_EFFICIENT_BACKWARD = torch.ops.aten._scaled_dot_product_efficient_attention_backward.default


def _has_wider_storage(func: Any, args: Any) -> bool:
    """Whether a result lies in a wider storage: what is remembered is as wide as the result.

    The gradient of an attention bias is padded to 16 columns (Swin's, of 49).
    """
    return func is _EFFICIENT_BACKWARD and len(args) > 10 and bool(args[10][3])  # grad_input_mask


class QuickFakeMode(FakeTensorMode):
    """FakeTensorMode, and nothing else: the same results, sooner."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._fresh: dict[torch.device, dict[str, Any]] = {}
        """What a fake tensor without a history holds, by device."""
        self._no_symbols = _CacheKeyState(None)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: the guard against it costs as much as a look-up."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = MappingProxyType({})
    ) -> Any:
        key = self._short_key(func, args, kwargs or {})
        if key is not None:
            known = FakeTensorMode.cache.get(key)
            if isinstance(known, _DispatchCacheValidEntry):
                return self._output_from_cache_entry(self._no_symbols, known, key, func, args)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _cache_key(self, state: Any, func: Any, args: Any, kwargs: Any) -> Any:
        if _has_wider_storage(func, args):
            raise _BypassDispatchCache("wider storage")
        short = self._short_key(func, args, kwargs)
        return super()._cache_key(state, func, args, kwargs) if short is None else short

    def _short_key(self, func: Any, args: Any, kwargs: Any) -> _DispatchCacheKey | None:
        """None: something in the arguments is not plain."""
        if self.shape_env is not None or torch.is_inference_mode_enabled():
            return None
        if _has_wider_storage(func, args):
            return None
        parts: list[Any] = [QuickFakeMode, func, torch.get_default_dtype(), len(args), *kwargs]
        is_plain = self._describe(parts, args) and self._describe(parts, kwargs.values())
        return _DispatchCacheKey(tuple(parts)) if is_plain else None

    def _describe(self, parts: list[Any], values: Iterable[Any]) -> bool:
        """Append what the result depends on; False: one of the values is not plain."""
        for value in values:
            kind = type(value)
            parts.append(kind)
            if kind is FakeTensor:
                if (
                    value.fake_mode is not self
                    or value.constant is not None
                    or value.layout is not torch.strided
                    or value.is_conj()
                    or value.is_neg()
                    or value.is_quantized
                ):
                    return False
                parts += (
                    value.dtype,
                    value.shape,
                    value.stride(),
                    value.storage_offset(),
                    value.untyped_storage().nbytes(),
                    value.fake_device,
                    value.requires_grad,
                )
            elif kind in _PLAIN:
                parts.append(value)
            elif kind is list or kind is tuple:
                parts.append(len(value))
                if not self._describe(parts, value):
                    return False
            else:
                return False
        return True

    def _get_output_tensor_from_cache_entry(
        self, state: Any, entry: Any, key: Any, func: Any, args: Any
    ) -> Any:
        known = entry.metadata
        if (
            known is None
            or entry.inplace_idx is not None
            or key.key[0] is not QuickFakeMode  # the others may hold symbols
            or known.layout is not torch.strided
            or known.is_conj
            or known.is_neg
        ):
            return super()._get_output_tensor_from_cache_entry(state, entry, key, func, args)
        storage = args[entry.view_idx].untyped_storage() if func.is_view else None
        with in_kernel_invocation_manager(self):
            empty = torch.empty_strided(
                known.shape,
                known.stride,
                dtype=known.dtype,
                device="meta",
                requires_grad=known.requires_grad,
            )
            if storage is not None:
                empty.set_(storage, known.storage_offset, known.shape, known.stride)
        return self._fake(empty, known.device)

    def _fake(self, empty: torch.Tensor, device: torch.device) -> torch.Tensor:
        """FakeTensor(self, empty, device), whose attributes were set once for the device."""
        fresh = self._fresh.get(device)
        if fresh is None:
            made = FakeTensor(self, empty, device)
            self._fresh[device] = dict(made.__dict__)
            return made
        made = torch.Tensor._make_subclass(
            FakeTensor,
            empty,
            empty.requires_grad,
            dispatch_device=True,
            device_for_backend_keys=device,
        )
        if self._allow_unsafe_data_ptr_access:
            torch._C._set_warn_deprecated_on_mutable_data_ptr(made)
        else:
            torch._C._set_throw_on_mutable_data_ptr(made)
        made.__dict__.update(fresh)
        return made
