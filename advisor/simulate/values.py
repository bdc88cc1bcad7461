"""Real numbers beside fake tensors, where the program's course depends on them.

A fake tensor has no numbers, yet models ask for some: whether labels exceed the vocabulary, which
experts were hit, how many frames a row has. What is not too large is computed
for real alongside: a factory's result is known, and so is what follows from known ones.
Where nothing is known the answer is that of an ordinary batch (see `Values.scalar`), or an error.
"""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from advisor.errors import SimulationError, note

aten = torch.ops.aten
MOST_ELEMENTS = 1 << 20
"""Larger tensors are not followed."""
ROUTING = note("values.routing")
EVERYTHING_SELECTED = note("values.everything_selected")
NO_DROP = note("values.no_drop")
_NOT_FINITE = frozenset({aten.isinf.default, aten.isnan.default})
_NEVER = frozenset({aten.isposinf.default, aten.isneginf.default}) | _NOT_FINITE


class Values:
    """The known numbers of one trace; they hang on the fake tensors themselves."""

    def __init__(self) -> None:
        self.notes: set[str] = set()
        """What had to be assumed."""
        self._spoilt: dict[int, torch.Tensor] = {}
        """Storages whose numbers are no longer right; kept, so that no other takes the address."""

    def know(self, tensor: torch.Tensor, real: torch.Tensor) -> None:
        """Say what a fake tensor holds."""
        tensor.known_value = real  # type: ignore[attr-defined]

    def give(self, tensor: torch.Tensor, real: torch.Tensor) -> None:
        """Say what an input holds; the program may write to it."""
        with torch._C._DisableTorchDispatch():
            self.know(tensor, real.clone())

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The real tensor that a fake one stands for, None: not known."""
        real = getattr(tensor, "known_value", None)
        if self._spoilt and real is not None and real.untyped_storage()._cdata in self._spoilt:
            return None
        return real

    def scalar(self, tensor: torch.Tensor) -> bool | int | float:
        """What Python control flow reads.

        Unknown bools are True (masks of ones) and unknown floats 1.0.

        Raises:
            SimulationError: a whole number that depends on numbers nobody knows.
        """
        real = self.of(tensor)
        if real is not None:
            with torch._C._DisableTorchDispatch():
                return real.item()
        if tensor.dtype == torch.bool:
            return True
        if tensor.is_floating_point():
            return 1.0
        raise SimulationError("values.number")

    def num_selected(self, mask: torch.Tensor) -> int:
        """Elements that a bool or integer mask selects; all of them where it is not known."""
        real = self.of(mask)
        if real is None:
            self.notes.add(EVERYTHING_SELECTED)
            return mask.numel()
        with torch._C._DisableTorchDispatch():
            return int(torch.count_nonzero(real))

    def positions(self, mask: torch.Tensor) -> torch.Tensor:
        """What nonzero() of a fake tensor returns."""
        result = torch.empty((self.num_selected(mask), mask.dim()), dtype=torch.long)
        real = self.of(mask)
        if real is not None:
            with torch._C._DisableTorchDispatch():
                self.know(result, torch.nonzero(real))
        return result

    def whole_indices(self, indices: Any) -> list[Any]:
        """A bool index as the integer indices it stands for."""
        result: list[Any] = []
        for index in indices:
            if index is None or index.dtype != torch.bool:
                result.append(index)
                continue
            count, real = self.num_selected(index), self.of(index)
            columns = [torch.empty((count,), dtype=torch.long) for _ in range(index.dim())]
            if real is not None:
                with torch._C._DisableTorchDispatch():
                    for column, known in zip(columns, real.nonzero(as_tuple=True), strict=True):
                        self.know(column, known)
            result += columns
        return result

    def sized_by_data(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operator whose shape depends on numbers; None: they are not known."""
        real = self._compute(func, args, kwargs)
        if real is None:
            return None

        def fake(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            result = torch.empty(value.shape, dtype=value.dtype)
            self.know(result, value)
            return result

        return tree_map(fake, real)

    def follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Compute for real what a followed result holds."""
        if isinstance(result, torch.Tensor):
            if not _is_followed(result):
                return
        elif not isinstance(result, (list, tuple)) or not any(
            isinstance(t, torch.Tensor) and _is_followed(t) for t in result
        ):
            return
        real = self._compute(func, args, kwargs)
        if real is None:
            real = self._assumed(func, args, result)
        if real is None:
            if func._schema.is_mutable:
                self._spoil(args)
            return
        for tensor, value in zip(tree_leaves(result), tree_leaves(real), strict=True):
            if isinstance(tensor, torch.Tensor) and value is not None:
                self.know(tensor, value)

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        known = True

        def real_of(value: Any) -> Any:
            nonlocal known
            if not isinstance(value, torch.Tensor):
                return value
            real = self.of(value)
            if real is None and type(value) is torch.Tensor and value.device.type == "cpu":
                real = value if value.dtype != torch.bool else None  # random masks, see below
            if real is None:
                known = False
            return real

        if args and self._is_unknown(args[0]):
            if func not in _LIKE:
                return None
            with torch._C._DisableTorchDispatch():
                shape, dtype = args[0].shape, args[0].dtype
                return func(torch.empty(shape, dtype=dtype), *args[1:], **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags or func in _EMPTY:
            return None
        args, kwargs = tree_map(real_of, (args, kwargs))
        if not known:
            return None
        with torch._C._DisableTorchDispatch():
            return func(*args, **kwargs)

    def _is_unknown(self, value: Any) -> bool:
        return type(value) is not torch.Tensor and (
            isinstance(value, torch.Tensor) and self.of(value) is None
        )

    def _assumed(self, func: Any, args: Any, result: Any) -> Any:
        """Numbers of an ordinary batch where the real ones are chance or computed from weights."""
        with torch._C._DisableTorchDispatch():
            if func in _NEVER or (func is aten.eq.Scalar and args[1] == float("inf")):
                return torch.zeros(()).bool().expand(result.shape)
            if func is aten.rand.default:  # the middle of its range: no layer is dropped
                self.notes.add(NO_DROP)
                return torch.full(result.shape, 0.5, dtype=result.dtype)
            if func is aten.topk.default and args[0].is_floating_point():
                self.notes.add(ROUTING)
                return None, _evenly(result[1].shape, args[0].shape[-1])
            if func is aten.max.dim and args[0].is_floating_point():
                return None, _evenly(result[1].shape, args[0].shape[args[1]])
            if func is aten.argmax.default and args[0].is_floating_point() and len(args) > 1:
                self.notes.add(ROUTING)
                return _evenly(result.shape, args[0].shape[args[1]])
        return None

    def _spoil(self, args: Any) -> None:
        """What is written to with unknown numbers is no longer known, nor are its views."""
        for value in tree_leaves(args):
            real = getattr(value, "known_value", None) if isinstance(value, torch.Tensor) else None
            if real is not None:
                self._spoilt[real.untyped_storage()._cdata] = real


_EMPTY = frozenset(
    {
        aten.empty.memory_format,
        aten.empty_like.default,
        aten.empty_strided.default,
        aten.new_empty.default,
        aten.new_empty_strided.default,
    }
)
"""Factories whose result holds no number."""
_LIKE = frozenset(
    {
        aten.full_like.default,
        aten.ones_like.default,
        aten.zeros_like.default,
        aten.new_full.default,
        aten.new_ones.default,
        aten.new_zeros.default,
    }
)
"""Factories that take a tensor's shape, not its numbers."""


def _is_followed(tensor: torch.Tensor) -> bool:
    return tensor.numel() <= MOST_ELEMENTS


def _evenly(shape: torch.Size, choices: int) -> torch.Tensor:
    """Whole numbers below `choices`, each as often as the others."""
    return (torch.arange(shape.numel()) % choices).reshape(shape)
