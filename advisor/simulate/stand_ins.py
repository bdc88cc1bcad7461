"""What CUDA operators return that fake tensors cannot run: shapes and dtypes alone.

Each entry maps an operator to a function of (operator, arguments). What an operator takes for as
long as it runs is in temporaries.py.
"""

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


def _grouped_mm(func: Any, args: tuple[Any, ...]) -> torch.Tensor:
    """The meta kernel knows bfloat16 alone; others fill one result, expert by expert.

    Nothing beside it: products are written into its slices (_grouped_mm_fallback of
    GroupedMMUtils.h, which bfloat16 takes as well below compute capability 9.0). Read in source.
    """
    if args[0].dtype == torch.bfloat16:
        return func(*args)
    half = [a.to(torch.bfloat16) if _is_float(a) else a for a in args]
    return torch.empty(func(*half).shape, dtype=args[0].dtype)


def _ctc_loss(_func: Any, args: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and log_alpha (batch, time, 2 * longest target + 1), in LossCTC.cu.

    Targets lie one after another, each row's as long as the longest: no padding. Read in source.
    """
    log_probs, targets = args[0], args[1]
    time, batch = log_probs.shape[0], log_probs.shape[1]
    longest = targets.shape[1] if targets.dim() == 2 else targets.shape[0] // batch
    return log_probs.new_empty((batch,)), log_probs.new_empty((batch, time, 2 * longest + 1))


def _ctc_loss_backward(_func: Any, args: tuple[Any, ...]) -> torch.Tensor:
    """The gradient of all log probabilities, in LossCTC.cu. Read in source."""
    return torch.empty_like(args[1])


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


STAND_INS: dict[Any, Callable[[Any, tuple[Any, ...]], Any]] = {
    aten._grouped_mm.default: _grouped_mm,
    aten._ctc_loss.Tensor: _ctc_loss,
    aten._ctc_loss.default: _ctc_loss,
    aten._ctc_loss_backward.Tensor: _ctc_loss_backward,
    aten._ctc_loss_backward.default: _ctc_loss_backward,
}
