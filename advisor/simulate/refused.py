"""Every `optim` name of TrainingArguments that is not simulated, and why. No torch."""

from advisor.errors import words
from advisor.locale import Message

_LAYERWISE = words("refused.layerwise")
_SVD = words("refused.svd")
_COMPILED = words("refused.compiled")
REFUSED: dict[str, Message] = {
    "adamw_torch_xla": words("refused.xla"),
    "adamw_torch_npu_fused": words("refused.npu"),
    "adamw_torch_4bit": _COMPILED,
    "adamw_torch_8bit": _COMPILED,
    "galore_adamw": _SVD,
    "galore_adamw_8bit": _SVD,
    "galore_adafactor": _SVD,
    "galore_adamw_layerwise": _LAYERWISE,
    "galore_adamw_8bit_layerwise": _LAYERWISE,
    "galore_adafactor_layerwise": _LAYERWISE,
    "apollo_adamw_layerwise": _LAYERWISE,
    "lomo": _LAYERWISE,
    "adalomo": _LAYERWISE,
}
"""`optim` -> why it is not simulated."""
