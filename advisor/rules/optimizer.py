"""Which optimizer, and what it does to the learning rate: R-LR-02, R-LR-10, R-LR-11.

AdamW is recommended. Others that need less memory are tried where AdamW does not fit, or where the
goal is the smallest plan. SGD is never recommended for transformers: it needs a pin.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from advisor.locale import Message
from advisor.plan import Method
from advisor.rules.facts import Facts

DEFAULT = "adamw_torch_fused"
EIGHT_BIT = "adamw_bnb_8bit"
ADAFACTOR = "adafactor"
T5_FAMILY = frozenset({"t5", "mt5", "umt5", "longt5"})
STATE_BYTES = {"adamw_torch": None, DEFAULT: None, EIGHT_BIT: 2.0, "adamw_8bit": 2.0}
"""Bytes of state for each trained parameter; None: two of the weights' dtype; absent: next to 0."""
_LION = 5.0
"""AdamW's rate over Lion's: the paper (arXiv 2302.06675) says 3 to 10."""

_PACKAGES = {
    "bitsandbytes": (
        *(EIGHT_BIT, "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"),
        *("ademamix", "ademamix_8bit", "paged_ademamix_8bit", "paged_ademamix_32bit"),
        *("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit"),
        *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
    ),
    "torchao": ("adamw_torch_4bit", "adamw_torch_8bit"),
    "galore_torch": (
        *("galore_adamw", "galore_adamw_8bit", "galore_adafactor"),
        *("galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise"),
    ),
    "apollo_torch": ("apollo_adamw", "apollo_adamw_layerwise"),
    "lomo_optim": ("lomo", "adalomo"),
    "grokadamw": ("grokadamw",),
    "schedulefree": ("schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd"),
    "optimi": ("stable_adamw",),
    "torchdistx": ("adamw_anyprecision",),
    "torch_xla": ("adamw_torch_xla",),
    "torch_npu": ("adamw_torch_npu_fused",),
}
"""Module -> optimizers that Trainer imports from it (transformers/trainer_optimizer.py, 5.23)."""

Kind = Literal["adam", "adafactor_t5", "sgd", "lion"]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why an optimizer stands in the plan, and where that was read."""

    message: Message
    rule: str | None
    reference: str


def package_of(optim: str) -> str | None:
    """The module beside torch and transformers that Trainer imports it from; None: no other."""
    return next((name for name, optims in _PACKAGES.items() if optim in optims), None)


def needs_bitsandbytes(optim: str) -> bool:
    """Whether Trainer takes it from the package bitsandbytes."""
    return package_of(optim) == "bitsandbytes"


def kind(facts: Facts, optim: str) -> Kind:
    """Whose recipe for the learning rate holds.

    Trainer switches Adafactor's scaling by parameter size off, so that its updates are about as
    large as Adam's; T5 alone has a recipe of its own with it.
    """
    if optim == "sgd":
        return "sgd"
    if "lion" in optim:
        return "lion"
    if optim == ADAFACTOR and facts.model.model_type in T5_FAMILY:
        return "adafactor_t5"
    return "adam"


def factor(which: Kind, ratio: float) -> float:
    """What a batch `ratio` times the recipe's makes of the rate: linear for SGD, else the root."""
    if which == "sgd":
        return ratio
    return ratio**0.5 / (_LION if which == "lion" else 1.0)


def smaller(facts: Facts, method: Method, pins: Mapping[str, Any]) -> tuple[str, ...]:
    """Optimizers to try for less memory than AdamW's, nearest to its recipe first.

    None where one is pinned, for adapters (their states are small) and for shards.
    """
    if "optim" in pins or method != "full" or pins.get("fsdp"):
        return ()
    return (EIGHT_BIT, ADAFACTOR) if facts.quantises() else (ADAFACTOR,)


def choices(facts: Facts, method: Method) -> tuple[str, ...]:
    """Values worth offering beside the recommended one."""
    return (DEFAULT, "adamw_torch", *smaller(facts, method, {}))


def reason(optim: str) -> Reason:
    """Why."""
    if needs_bitsandbytes(optim):
        return Reason(
            message=Message(id="optim.bitsandbytes"),
            rule=None,
            reference="Dettmers et al. 2022 (arXiv 2110.02861); package bitsandbytes",
        )
    if optim == ADAFACTOR:
        return Reason(
            message=Message(id="optim.adafactor"),
            rule="R-LR-11",
            reference="Shazeer and Stern 2018 (arXiv 1804.04235); Adafactor of transformers",
        )
    if optim == "sgd":
        return Reason(
            message=Message(id="optim.sgd"),
            rule="R-LR-02",
            reference="Zhang et al. 2020 (arXiv 1912.03194), 2024 (arXiv 2402.16788)",
        )
    return Reason(message=Message(id="why.optim"), rule=None, reference="torch.optim.AdamW")
