"""A layer's experts as transformers built them before 5.0: linear layers, one after another.

Read in `modeling_mixtral.py` of transformers 4.45 and 4.57 and in `modeling_qwen2_moe.py`,
`modeling_qwen3_moe.py` and `modeling_olmoe.py` of the same time. The router is a linear layer too.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from advisor.errors import note
from advisor.simulate.profile import Structure

NAMES = {"mixtral": ("w1", "w3", "w2")}
"""Gate, up and down projection of an expert, by model type."""
_USUAL_NAMES = ("gate_proj", "up_proj", "down_proj")


class Expert(nn.Module):
    """MixtralBlockSparseTop2MLP, Qwen2MoeMLP, Qwen3MoeMLP, OlmoeMLP."""

    def __init__(self, fused: Any, names: tuple[str, str, str]) -> None:
        super().__init__()
        width, hidden = fused.intermediate_dim, fused.hidden_dim
        dtype = fused.down_proj.dtype
        self.names = names
        for name, size in zip(
            names, ((hidden, width), (hidden, width), (width, hidden)), strict=True
        ):
            self.add_module(name, nn.Linear(*size, bias=False, dtype=dtype))
        self.act_fn = fused.act_fn

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Down(act(gate) * up)."""
        gate, up, down = (getattr(self, name) for name in self.names)
        return down(self.act_fn(gate(hidden_states)) * up(hidden_states))


class SparseBlock(nn.Module):
    """MixtralSparseMoeBlock and its kin: expert after expert, on the tokens that it is given."""

    def __init__(self, fused: Any, names: tuple[str, str, str]) -> None:
        super().__init__()
        router, experts = fused.gate, fused.experts
        self.top_k = router.top_k
        self.num_experts = experts.num_experts
        self.normalises = getattr(router, "norm_topk_prob", True)
        self.jitter_noise = getattr(fused, "jitter_noise", 0.0)
        shape = (experts.hidden_dim, self.num_experts)
        self.gate = nn.Linear(*shape, bias=False, dtype=router.weight.dtype)
        self.experts = nn.ModuleList(Expert(experts, names) for _ in range(self.num_experts))
        self.shared_expert: nn.Module | None = getattr(fused, "shared_expert", None)
        self.shared_expert_gate: nn.Module | None = getattr(fused, "shared_expert_gate", None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What the block returned first; the router's logits beside it died with the layer."""
        shape = hidden_states.shape
        if self.training and self.jitter_noise > 0:
            noise = torch.empty_like(hidden_states)
            hidden_states *= noise.uniform_(1.0 - self.jitter_noise, 1.0 + self.jitter_noise)
        hidden_states = hidden_states.view(-1, shape[-1])
        router_logits = self.gate(hidden_states)
        weights = functional.softmax(router_logits, dim=1, dtype=torch.float)
        weights, selected = torch.topk(weights, self.top_k, dim=-1)
        if self.normalises:
            weights /= weights.sum(dim=-1, keepdim=True)
        weights = weights.to(hidden_states.dtype)
        final = torch.zeros(hidden_states.shape, dtype=hidden_states.dtype)
        mask = functional.one_hot(selected, num_classes=self.num_experts).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            which, tokens = torch.where(mask[number])
            current = hidden_states[None, tokens].reshape(-1, shape[-1])
            current = expert(current) * weights[tokens, which, None]
            final.index_add_(0, tokens, current.to(hidden_states.dtype))
        if self.shared_expert is not None and self.shared_expert_gate is not None:
            shared = self.shared_expert(hidden_states)
            final = final + functional.sigmoid(self.shared_expert_gate(hidden_states)) * shared
        return final.reshape(shape)


def separate(model: nn.Module) -> None:
    """Replace every block whose experts are fused."""
    names = NAMES.get(model.config.model_type, _USUAL_NAMES)  # type: ignore[union-attr]
    for name, module in list(model.named_modules()):
        experts = getattr(module, "experts", None)
        if isinstance(getattr(experts, "gate_up_proj", None), nn.Parameter):
            with torch.device("meta"):
                model.set_submodule(name, SparseBlock(module, names))


@contextlib.contextmanager
def targets_as_named() -> Iterator[None]:
    """Inside the block, peft leaves LoRA's targets as they are named.

    By the model's type it turns names of separate experts into those of fused parameters.
    """
    from peft.utils import transformers_weight_conversion as conversion

    original = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_args, **_kwargs: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = original


def unquantised_note(model: nn.Module, structure: Structure) -> tuple[str, ...]:
    """Said where quantisation passes by the experts.

    bitsandbytes replaces linear layers, and peft's preparation then casts what is left to float32.
    """
    if structure.quantization is None:
        return ()
    if all(p.dim() != 3 for p in model.parameters()):
        return ()
    return (note("experts.unquantised"),)
