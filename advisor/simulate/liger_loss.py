"""Liger's losses on fake tensors: of hidden states without logits, and of logits in place.

Read in liger-kernel 0.8.5 (`ops/fused_linear_cross_entropy.py`, `ops/cross_entropy.py`;
`transformers/model/loss_utils.py` calls the first without an accumulation dtype). Never measured.
"""

from typing import Any

import torch

from advisor.simulate import temporaries
from advisor.simulate.trace import Recorder

IGNORED = -100
_HALF = (torch.float16, torch.bfloat16)


class FusedLinearCrossEntropy(torch.autograd.Function):
    """LigerFusedLinearCrossEntropyFunction: the forward makes the gradients, chunk by chunk.

    x is (tokens, hidden), weight (vocabulary, hidden), target (tokens,); the loss is a scalar. The
    input's gradient is allocated in an evaluation too, the weight's only where the weight is
    trained (not under adapters), in the weight's own dtype.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, recorder: Recorder
    ) -> torch.Tensor:
        """See the class."""
        of_input = torch.zeros_like(x)
        trained = x.requires_grad and weight.requires_grad
        of_weight = torch.zeros_like(weight) if trained else None
        losses = torch.zeros(x.shape[0], dtype=torch.float32)
        counted = target != IGNORED
        counted.sum()
        chunks = _Chunks(x, weight, of_weight, recorder)
        recorder.in_head, before = True, recorder.time_it
        recorder.time_it = False
        chunks.run()
        recorder.in_head, recorder.time_it = False, before
        chunks.write_kernels()
        loss = losses.sum()
        ctx.save_for_backward(of_input, of_weight)
        ctx.recorder = recorder
        del counted
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        """The gradients that the forward made, scaled in place."""
        of_input, of_weight = ctx.saved_tensors
        torch.eq(gradient, torch.ones_like(gradient)).all()
        for tensor in (of_input, of_weight):
            if tensor is not None:
                ctx.recorder.launched((tensor,), (tensor,))
        return of_input, of_weight, None, None


class CrossEntropy(torch.autograd.Function):
    """LigerCrossEntropyFunction: the gradient overwrites the logits, (tokens, vocabulary)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, recorder: Recorder
    ) -> torch.Tensor:
        """See the class."""
        losses = torch.zeros(logits.shape[0], dtype=logits.dtype)
        counted = target != IGNORED
        counted.sum()
        (target * counted).max()
        (target * counted).min()
        recorder.launched((logits,), (logits,))
        ctx.save_for_backward(logits.detach())
        ctx.recorder = recorder
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        """What the forward made, scaled in place."""
        (logits,) = ctx.saved_tensors
        torch.eq(gradient, torch.ones_like(gradient)).all()
        ctx.recorder.launched((logits,), (logits,))
        return logits, None, None


class _Chunks:
    """The loop over chunks of tokens, of which two passes stand for any number above one.

    The second differs from the first (autocast keeps a copy of a trained weight by then); those
    after it hold what the second does or, in the last, less.
    """

    def __init__(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        of_weight: torch.Tensor | None,
        recorder: Recorder,
    ) -> None:
        self.x, self.weight, self.of_weight, self.recorder = x, weight, of_weight, recorder
        lower = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        self.dtype = lower or x.dtype
        """Of the matrix products."""
        self.into_buffers = x.dtype == weight.dtype == self.dtype
        """Products are written to where they belong (`out=`)."""

    def run(self) -> None:
        """Allocate and free what the passes do."""
        vocabulary, hidden = self.weight.shape
        buffer = self._rows(0, vocabulary) if self.into_buffers else None
        for number in range(1 if vocabulary <= hidden else 2):
            logits = self._logits(number) if buffer is None else buffer
            if buffer is None and self.x.requires_grad:
                with self._sized(number, hidden):
                    product = torch.matmul(logits, self.weight)
                del product
            if self.of_weight is not None:
                self._add_to(self.of_weight, number)
            del logits

    def _logits(self, number: int) -> torch.Tensor:
        """Autocast's copies of both factors live until their product is there."""
        copies: list[torch.Tensor | None] = []
        if self.weight.dtype != self.dtype:  # its transpose is no leaf, so that nothing is cached
            copies.append(torch.empty(self.weight.shape, dtype=self.dtype))
        copies.append(self._copy(number))
        return self._rows(number, self.weight.shape[0])

    def _add_to(self, total: torch.Tensor, number: int) -> None:
        """In place from compute capability 8.0 on where the product is a half one."""
        copy = self._copy(number)
        accumulates = self.dtype in _HALF and (self.recorder.capability or (0, 0)) >= (8, 0)
        if accumulates and total.dtype in (torch.float32, self.dtype):
            return
        product = torch.empty(self.weight.shape, dtype=self.dtype)
        del copy
        total += product.float()

    def _copy(self, number: int) -> torch.Tensor | None:
        """Autocast's copy of the chunk of x."""
        return None if self.x.dtype == self.dtype else self._rows(number, self.x.shape[1])

    def _rows(self, number: int, width: int) -> torch.Tensor:
        """(tokens of the pass, width), uninitialised."""
        (rows,) = temporaries.liger_chunk(*self._sizes(number, 1))
        with self._sized(number, width):
            return torch.empty(rows, width, dtype=self.dtype)

    def _sized(self, number: int, width: int) -> Any:
        rule = temporaries.liger_chunk.__name__
        return self.recorder.sized(rule, self._sizes(number, width * self.dtype.itemsize))

    def _sizes(self, number: int, row_bytes: int) -> tuple[int, int, int, int, int]:
        vocabulary, hidden = self.weight.shape
        return self.x.shape[0], vocabulary, hidden, number, row_bytes

    def write_kernels(self) -> None:
        """The matrix products over all tokens, and the cross entropy between them."""
        (tokens, hidden), vocabulary = self.x.shape, self.weight.shape[0]
        number = -(-tokens // temporaries.liger_chunk(*self._sizes(0, 1))[0])
        logits, size = tokens * vocabulary, self.dtype.itemsize
        products = 1 + self.x.requires_grad + (self.of_weight is not None)
        moved = (logits + tokens * hidden + number * vocabulary * hidden) * size
        for _ in range(products):
            self.recorder.write_kernel("matmul", self.dtype, number, 2 * logits * hidden, moved)
        self.recorder.write_kernel("reduce", self.dtype, number, 0, 3 * logits * size)
