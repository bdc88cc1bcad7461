"""Liger kernels on fake tensors: what `use_liger_kernel` has Trainer put in the model's place.

Read in liger-kernel 0.8.5 (`transformers/monkey_patch.py`, `transformers/model/*.py`, and
`rms_norm.py`, `swiglu.py`, `geglu.py`, `rope.py` of `ops/`) with its defaults, which are Triton's
kernels, and in transformers 5.23 (`Trainer.train` patches the model, `Trainer.prediction_step` asks
an evaluation for no logits). Kernels take nothing for themselves: all memory is what the Python
around them allocates. Never measured. The loss is in liger_loss.py. `liger_kernel_config` switches
operators off and chooses the loss.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn

from advisor.errors import SimulationError, note
from advisor.plan import LigerKernels
from advisor.simulate.liger_loss import IGNORED, CrossEntropy, FusedLinearCrossEntropy
from advisor.simulate.profile import Structure
from advisor.simulate.trace import Recorder

NOTE = note("liger.read_in_source")
MOST_PROCESSORS = 192
"""Streaming multiprocessors: a norm's backward keeps a row of float32 for each; no card of today
has more (188 of an RTX PRO 6000), so that this is an upper bound of a few MiB."""


@dataclass(frozen=True, kw_only=True)
class _Patch:
    """What `apply_liger_kernel_to_*` does to a built model of one type, beside rope and loss."""

    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Norms of a decoder layer that are replaced."""
    overwrites: bool = True
    """The backward of those norms writes into the gradient it is given."""
    last_overwrites: bool = True
    """That of the norm after the layers does."""
    packed: bool = False
    """Gate and up projection are one matrix."""
    fused_loss: bool = True
    """fused_linear_cross_entropy; else cross_entropy, of the model's own logits."""
    mlp: str = "swiglu"
    """The switch of the gated MLP."""


_AROUND = ("post_attention_layernorm", "post_feedforward_layernorm")
_HEADS = ("self_attn.q_norm", "self_attn.k_norm")
_GEMMA = ("input_layernorm", "pre_feedforward_layernorm", *_AROUND)
PATCHES = {
    "gemma": _Patch(mlp="geglu"),
    "gemma2": _Patch(norms=_GEMMA, overwrites=False, last_overwrites=False, mlp="geglu"),
    "gemma3_text": _Patch(
        norms=(*_GEMMA, *_HEADS), overwrites=False, last_overwrites=False, mlp="geglu"
    ),
    "granite": _Patch(fused_loss=False),
    "llama": _Patch(),
    "mistral": _Patch(),
    "olmo2": _Patch(norms=_AROUND, overwrites=False),
    "phi3": _Patch(packed=True),
    "qwen2": _Patch(),
    "qwen3": _Patch(norms=("input_layernorm", "post_attention_layernorm", *_HEADS)),
    "smollm3": _Patch(),
}
"""Model types whose patch was read; all have rope, gated MLP and a loss of Liger's on."""


def check(structure: Structure) -> None:
    """Refuse what Liger does not run on and what was not read.

    Raises:
        SimulationError: a CPU or a card that Triton has no code for, FSDP2, another task than
            causal-lm, another model type or a choice of losses that Liger refuses.
    """
    if structure.device == "cpu" or (structure.compute_capability or (0, 0)) < (7, 0):
        raise SimulationError("liger.card")
    if structure.task != "causal-lm":
        raise SimulationError("liger.task", task=structure.task)
    if structure.sharding is not None:
        raise SimulationError("liger.sharded")
    model_type = structure.config_dict().get("model_type")
    if model_type not in PATCHES:
        raise SimulationError("liger.model_type", model_type=model_type, known=tuple(PATCHES))
    patch = PATCHES[model_type]
    on = _Switches.of(patch, structure.liger_kernels)
    if on.fused_loss and (on.cross_entropy or not patch.fused_loss):
        raise SimulationError("liger.losses", model_type=model_type)


@dataclass(frozen=True, kw_only=True)
class _Switches:
    """What is on for one model type."""

    rope: bool
    rms_norm: bool
    mlp: bool
    cross_entropy: bool
    fused_loss: bool

    @staticmethod
    def of(patch: _Patch, given: LigerKernels) -> "_Switches":
        def chosen(name: str, default: bool) -> bool:
            value = getattr(given, name)
            return default if value is None else value

        return _Switches(
            rope=chosen("rope", True),
            rms_norm=chosen("rms_norm", True),
            mlp=chosen(patch.mlp, True),
            cross_entropy=chosen("cross_entropy", not patch.fused_loss),
            fused_loss=chosen("fused_linear_cross_entropy", patch.fused_loss),
        )


@contextlib.contextmanager
def switched_on(model: Any, recorder: Recorder, given: LigerKernels) -> Iterator[None]:
    """The model with Liger's operators inside the block, as Trainer.train has it.

    Args:
        model: of a type in PATCHES, adapters on it or not.
        recorder: records the step.
        given: which operators.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    patch = PATCHES[base.config.model_type]
    on = _Switches.of(patch, given)
    for layer in base.model.layers:
        for name in patch.norms if on.rms_norm else ():
            _bind_norm(layer.get_submodule(name), recorder, overwrites=patch.overwrites)
        if on.mlp:
            layer.mlp.forward = MethodType(_mlp(recorder, packed=patch.packed), layer.mlp)
    if on.rms_norm:
        _bind_norm(base.model.norm, recorder, overwrites=patch.last_overwrites)
    module: Any = sys.modules[type(base).__module__]
    replaced: list[tuple[Any, str, Any]] = []
    if on.rope:
        replaced.append((module, "apply_rotary_pos_emb", _rope(recorder)))
    if on.fused_loss:
        base.forward = MethodType(_causal_lm(recorder), base)
    elif on.cross_entropy:
        replaced.append((nn.functional, "cross_entropy", _cross_entropy(recorder)))
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        for owner, name, ours in replaced:
            setattr(owner, name, ours)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _bind_norm(norm: nn.Module, recorder: Recorder, *, overwrites: bool) -> None:
    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        return _RMSNorm.apply(hidden_states, self.weight, recorder, overwrites)

    norm.forward = MethodType(forward, norm)  # type: ignore[method-assign]


def _mlp(recorder: Recorder, *, packed: bool) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if packed:
            both = self.gate_up_proj(x)
            gate, both = both.chunk(2, dim=-1)
            return self.down_proj(_GatedProduct.apply(gate, both, recorder))
        return self.down_proj(_GatedProduct.apply(self.gate_proj(x), self.up_proj(x), recorder))

    return forward


def _rope(recorder: Recorder) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def apply_rotary_pos_emb(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *_args: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _Rope.apply(q, k, cos, sin, recorder)

    return apply_rotary_pos_emb


def _cross_entropy(recorder: Recorder) -> Callable[..., torch.Tensor]:
    """liger_cross_entropy as the loss of a causal language model calls it."""

    def cross_entropy(source: torch.Tensor, target: torch.Tensor, **_options: Any) -> torch.Tensor:
        return CrossEntropy.apply(source, target, recorder)  # type: ignore[return-value]

    return cross_entropy


def _causal_lm(recorder: Recorder) -> Callable[..., Any]:
    """`lce_forward` of a batch with labels: no logits, in training as in evaluation."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    def forward(self: Any, labels: torch.Tensor, **kwargs: Any) -> Any:
        outputs = self.model(**kwargs)
        hidden = outputs[0]
        labels = nn.functional.pad(labels, (0, 1), value=IGNORED)
        shifted = labels[..., 1:].contiguous()
        loss = FusedLinearCrossEntropy.apply(
            hidden.view(-1, hidden.shape[-1]), self.lm_head.weight, shifted.view(-1), recorder
        )
        items = kwargs.get("num_items_in_batch")
        if items is not None:
            loss = loss / items
        return CausalLMOutputWithPast(loss=loss)

    return forward


class _RMSNorm(torch.autograd.Function):
    """LigerRMSNormFunction: keeps its input and a float32 a row."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, recorder: Recorder, overwrites: bool
    ) -> torch.Tensor:
        rows = x.contiguous().view(-1, x.shape[-1])
        y = torch.empty_like(rows)
        deviations = torch.empty(rows.shape[0], dtype=torch.float32)
        recorder.launched((rows,), (y,))
        ctx.save_for_backward(rows, weight, deviations)
        ctx.recorder, ctx.overwrites, ctx.shape = recorder, overwrites, x.shape
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        rows, weight, _deviations = ctx.saved_tensors
        gradient = gradient.contiguous().view(rows.shape)
        parts = None
        if ctx.needs_input_grad[1]:
            parts = torch.empty(MOST_PROCESSORS, rows.shape[-1], dtype=torch.float32)
        result = gradient if ctx.overwrites else torch.zeros_like(gradient)
        ctx.recorder.launched((gradient, rows), (result,))
        of_weight = None if parts is None else parts.sum(dim=0).to(weight.dtype)
        return result.view(ctx.shape), of_weight, None, None


class _GatedProduct(torch.autograd.Function):
    """LigerSiLUMulFunction and LigerGELUMulFunction: the gradients overwrite what was kept."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, gate: torch.Tensor, up: torch.Tensor, recorder: Recorder
    ) -> torch.Tensor:
        shape = gate.shape
        gate, up = (t.contiguous().view(-1, shape[-1]) for t in (gate, up))
        product = torch.empty_like(gate)
        recorder.launched((gate, up), (product,))
        ctx.save_for_backward(gate, up)
        ctx.recorder = recorder
        return product.view(shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        gradient = gradient.contiguous()
        ctx.recorder.launched((gradient, gate, up), (gate, up))
        return gate.view(gradient.shape), up.view(gradient.shape), None


class _Rope(torch.autograd.Function):
    """LigerRopeFunction: turns q and k (batch, heads, length, width) where they lie."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        recorder: Recorder,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos.contiguous(), sin.contiguous())
        ctx.recorder = recorder
        return _turned(q, k, recorder)

    @staticmethod
    def backward(ctx: Any, dq: torch.Tensor, dk: torch.Tensor) -> Any:  # type: ignore[override]
        return *_turned(dq, dk, ctx.recorder), None, None, None


def _turned(
    q: torch.Tensor, k: torch.Tensor, recorder: Recorder
) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = (t.transpose(1, 2).contiguous() for t in (q, k))
    recorder.launched((q, k), (q, k))
    return q.transpose(1, 2), k.transpose(1, 2)
