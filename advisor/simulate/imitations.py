"""Optimizers of packages that are not installed, as sequences of the allocations they make.

Each class states the package, the version and the file it was read from. Nothing here is measured:
all of it is "read in source", for CUDA. What an update kernel keeps in registers allocates nothing;
such a kernel is only reported (`launched`), for the time estimate.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

Launched = Callable[[Iterable[torch.Tensor], Iterable[torch.Tensor]], None]
"""(tensors read, tensors written): one kernel that no torch operator stands for."""
_HALF = (torch.float16, torch.bfloat16)


class Imitation(torch.optim.Optimizer):
    """Parameter groups and states of a foreign optimizer; `update` makes its allocations."""

    def __init__(self, groups: list[dict[str, Any]], launched: Launched) -> None:
        super().__init__(groups, {})
        self.launched = launched

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        del closure
        self.update_all()

    def update_all(self) -> None:
        """Group after group; what one frame keeps alive over all groups is written there."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if trained:
                self.update(group, trained)

    def pairs(self) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """Every parameter that has a gradient, with its group."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield group, p

    def update(self, group: dict[str, Any], trained: list[torch.Tensor]) -> None:
        """The allocations of one group's update."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BlockwiseKind:
    """Which states a bitsandbytes optimizer keeps for an element."""

    bits: int = 32
    """8 quantises the states; of embeddings and small tensors they stay float32."""
    first: int = 1
    """Copies of the first state (AdEMAMix keeps two averages in it)."""
    second: bool = True
    """Whether there is a second state."""
    paged: bool = False


class BitsAndBytes(Imitation):
    """bitsandbytes 0.50.2: optim/optimizer.py and optim/ademamix.py, backends/cuda/ops.py.

    8-bit states are uint8 with a float32 maximum for each block of 256 elements and share two
    tables of 256 float32 values. Tensors below 4,096 elements keep float32 states, and so do
    embeddings, which Trainer excepts (transformers 5.23, Trainer.create_optimizer). Paged states
    of 100,000 elements and more are managed memory, which torch's allocator never sees. The update
    is one kernel in place.
    """

    BLOCK = 256
    MIN_8BIT_SIZE = 4096
    MIN_PAGED_SIZE = 100_000

    def __init__(
        self,
        groups: list[dict[str, Any]],
        launched: Launched,
        kind: BlockwiseKind,
        embeddings: Iterable[torch.Tensor],
    ) -> None:
        super().__init__(groups, launched)
        self.kind = kind
        self.whole = {id(p) for p in embeddings}
        self.tables: dict[str, torch.Tensor] = {}

    def update(self, group: dict[str, Any], trained: list[torch.Tensor]) -> None:
        """See the class."""
        del group
        for p in trained:
            state = self.state[p]
            if not state:
                self._make_states(p, state)
            assert p.grad is not None
            states = list(state.values())
            self.launched((p, p.grad, *states), (p, *states))

    def _make_states(self, p: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
        kind = self.kind
        small = p.numel() < self.MIN_8BIT_SIZE or id(p) in self.whole
        quantised = kind.bits == 8 and not small
        dtype = torch.uint8 if quantised else torch.float32
        copies = (2, *p.shape) if kind.first == 2 else tuple(p.shape)
        if quantised:
            self._tables(state)
        if quantised and kind.first == 2:  # AdEMAMix makes the maxima first
            self._maxima(p, state)
        self._buffer(p, state, "state1", copies, dtype)
        if kind.second:
            self._buffer(p, state, "state2", tuple(p.shape), dtype)
        if quantised and kind.first == 1:
            self._maxima(p, state)

    def _buffer(
        self,
        p: torch.Tensor,
        state: dict[str, torch.Tensor],
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        if self.kind.paged and p.numel() >= self.MIN_PAGED_SIZE:
            with _disable_current_modes():  # a shape for the kernel's bytes: nothing to record
                state[name] = torch.empty(shape, dtype=dtype, device="meta")
            return
        state[name] = p.new_zeros(shape, dtype=dtype)

    def _tables(self, state: dict[str, torch.Tensor]) -> None:
        names = ("dynamic", "udynamic") if self.kind.second else ("dynamic",)
        for name in names:
            if name not in self.tables:
                # no parameter's: the recorder takes what torch.empty makes for the whole model's
                self.tables[name] = torch.empty(256, dtype=torch.float32)
            state[f"qmap_{name}"] = self.tables[name]

    def _maxima(self, p: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
        blocks = -(-p.numel() // self.BLOCK)
        shape = (2, blocks) if self.kind.first == 2 else (blocks,)
        state["absmax1"] = p.new_zeros(shape, dtype=torch.float32)
        if self.kind.second:
            state["absmax2"] = p.new_zeros((blocks,), dtype=torch.float32)


class ScheduleFree(Imitation):
    """schedulefree 1.4.1: adamw_schedulefree.py, sgd_schedulefree.py, radam_schedulefree.py.

    `z` starts as a copy of the weights. The foreach path is its default on every device; the
    gradient is overwritten with the normalised one, so the only temporary is the denominator.
    RAdam is taken past its first steps, which have none.
    """

    def __init__(
        self, groups: list[dict[str, Any]], launched: Launched, *, second_moment: bool
    ) -> None:
        super().__init__(groups, launched)
        self.second_moment = second_moment

    def update_all(self) -> None:
        """See the class; a group's denominators live until the next group has its own."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            self._make_states(weights)
            gradients = [p.grad for p in weights if p.grad is not None]
            z = [self.state[p]["z"] for p in weights]
            if self.second_moment:
                moments = [self.state[p]["exp_avg_sq"] for p in weights]
                torch._foreach_mul_(moments, 0.999)
                torch._foreach_addcmul_(moments, gradients, gradients, value=0.001)
                denominators = torch._foreach_div(moments, 0.5)
                torch._foreach_sqrt_(denominators)
                torch._foreach_add_(denominators, 1e-8)
                torch._foreach_div_(gradients, denominators)
            if group["weight_decay"] != 0:
                torch._foreach_add_(gradients, weights, alpha=group["weight_decay"])
            torch._foreach_lerp_(weights, z, weight=0.1)
            torch._foreach_add_(weights, gradients, alpha=-1e-4)
            torch._foreach_sub_(z, gradients, alpha=1e-4)

    def _make_states(self, weights: list[torch.Tensor]) -> None:
        for p in weights:
            if "z" not in self.state[p]:
                self.state[p]["z"] = torch.clone(p)
                if self.second_moment:
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)


class StableAdamW(Imitation):
    """torch-optimi 0.3.3: optimi/stableadamw.py, its Triton path, the default on CUDA.

    Two kernels a parameter and one that clears a scalar. 16-bit weights get a Kahan compensation of
    their own size, others a byte; the squared epsilon and the mean square are scalars.
    """

    def update(self, group: dict[str, Any], trained: list[torch.Tensor]) -> None:
        """See the class."""
        del group
        for p in trained:
            state = self.state[p]
            if not state:
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
                state["eps_sq"] = p.new_empty(())
                half = p.dtype in _HALF
                state["kahan_comp"] = (
                    torch.zeros_like(p) if half else p.new_zeros(1, dtype=torch.uint8)
                )
                state["mean_square"] = p.new_zeros(1, dtype=torch.float32)
        for p in trained:
            state = self.state[p]
            averages = (state["exp_avg"], state["exp_avg_sq"])
            assert p.grad is not None
            self.launched((p.grad, *averages), averages)
            self.launched((p, *averages, state["kahan_comp"]), (p, state["kahan_comp"]))
            state["mean_square"].zero_()


class AnyPrecision(Imitation):
    """torchdistx, commit 0552f1b (no release): optimizers/anyprecision_optimizer.py.

    The dtypes are Trainer's: float32 averages, a compensation only where optim_args asks for it.
    The step counter and what is computed from it are host scalars.
    """

    def __init__(
        self, groups: list[dict[str, Any]], launched: Launched, *, options: dict[str, Any]
    ) -> None:
        super().__init__(groups, launched)
        self.options = options

    def update_all(self) -> None:
        """See the class."""
        options, compensate = self.options, self.options["use_kahan_summation"]
        for group, p in self.pairs():
            state, grad = self.state[p], p.grad
            if not state:
                state["exp_avg"] = torch.zeros_like(p, dtype=options["momentum_dtype"])
                state["exp_avg_sq"] = torch.zeros_like(p, dtype=options["variance_dtype"])
                if compensate:
                    dtype = options["compensation_buffer_dtype"]
                    state["compensation"] = torch.zeros_like(p, dtype=dtype)
            if group["weight_decay"]:
                p.mul_(1 - group["weight_decay"])
            state["exp_avg"].mul_(0.9).add_(grad, alpha=0.1)
            state["exp_avg_sq"].mul_(0.999).addcmul_(grad, grad, value=0.001)
            centered = (state["exp_avg_sq"].sqrt() / 0.5).add_(1e-8)
            if compensate:
                compensation = state["compensation"]
                compensation.addcdiv_(state["exp_avg"], centered, value=-1e-4)
                buffer = p.detach().clone()
                p.add_(compensation)
                compensation.add_(buffer.sub_(p))
            else:
                p.addcdiv_(state["exp_avg"], centered, value=-1e-4)


class GrokAdamW(Imitation):
    """grokadamw 0.1.2: grokadamw/grokadamw.py.

    The three states live in host memory and visit the device one parameter at a time; the copies of
    one parameter stay until the next one's replace them.
    """

    def __init__(
        self, groups: list[dict[str, Any]], launched: Launched, *, gradient_clipping: float
    ) -> None:
        super().__init__(groups, launched)
        self.gradient_clipping = gradient_clipping

    def update(self, group: dict[str, Any], trained: list[torch.Tensor]) -> None:
        """See the class."""
        for p in trained:
            exp_avg, exp_avg_sq = torch.empty_like(p), torch.empty_like(p)  # arrive from the host
            grok_ema = torch.empty_like(p)
            grad = p.grad
            assert grad is not None
            if self.gradient_clipping > 0:
                torch.nn.utils.clip_grad_norm_(p, self.gradient_clipping, foreach=True)
            grok_ema.mul_(0.98).add_(grad, alpha=0.02)
            grok_grad = grad + 2.0 * grok_ema
            exp_avg.mul_(0.9).add_(grok_grad, alpha=0.1)
            exp_avg_sq.mul_(0.999).addcmul_(grok_grad, grok_grad, value=0.001)
            p.mul_(1 - group["weight_decay"])
            p.addcdiv_(exp_avg, exp_avg_sq.sqrt().add_(1e-8), value=-1e-4)


class Apollo(Imitation):
    """apollo-torch 1.0.3: apollo_torch/apollo.py, random_projector.py, with its random projection.

    The target weights' averages live in the projected space; the projection is kept and renewed
    every update_proj_gap steps (a steady step renews none). The norm-growth limiter is taken as not
    limiting, which costs the same allocations.
    """

    def update_all(self) -> None:
        """See the class."""
        for group, p in self.pairs():
            grad, state = p.grad, self.state[p]
            assert grad is not None
            whole, dim = grad, 0
            if "rank" in group:
                dim = 0 if grad.shape[0] < grad.shape[1] else 1
                right = _projects_right(group["proj_type"], grad)
                if "projection" not in state:
                    state["projection"] = _projection(grad, group["rank"], right)
                matrix = state["projection"]
                grad = torch.matmul(grad, matrix.t()) if right else torch.matmul(matrix.t(), grad)
            if "exp_avg" not in state:
                state["exp_avg"], state["exp_avg_sq"] = (
                    torch.zeros_like(grad),
                    torch.zeros_like(grad),
                )
            exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
            exp_avg.mul_(0.9).add_(grad, alpha=0.1)
            exp_avg_sq.mul_(0.999).addcmul_(grad, grad, value=0.001)
            denominator = exp_avg_sq.sqrt().add_(1e-8)
            step = exp_avg / denominator
            if "rank" in group:
                if group["scale_type"] == "channel":
                    factor = torch.norm(step, dim=dim) / (torch.norm(grad, dim=dim) + 1e-8)
                    factor = factor.unsqueeze(1) if dim == 1 else factor
                else:
                    factor = torch.norm(step) / (torch.norm(grad) + 1e-8)
                scaled = whole * factor
                if "norm" in state:
                    norm = torch.norm(scaled)
                    (norm / (state["norm"] + 1e-8)).lt(1.01)
                    scaled = scaled / 1.0
                    state["norm"] = norm / 1.0
                else:
                    state["norm"] = torch.norm(scaled)
                step = scaled
                step *= math.sqrt(group["scale"])
            p.add_(step, alpha=-1e-4)


def _projects_right(proj_type: str, grad: torch.Tensor) -> bool:
    tall = grad.shape[0] >= grad.shape[1]
    return {"std": tall, "reverse_std": not tall, "right": True, "left": False}[proj_type]


def _projection(grad: torch.Tensor, rank: int, right: bool) -> torch.Tensor:
    """A random matrix, made in float32 and divided by the root of the rank."""
    matrix = grad.float()
    shape = (rank, matrix.shape[1]) if right else (matrix.shape[0], rank)
    return (matrix.new_empty(shape) / math.sqrt(rank)).to(grad.dtype)
