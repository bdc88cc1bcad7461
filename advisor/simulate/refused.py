"""Every `optim` name of TrainingArguments that is not simulated, and why. No torch."""

_LAYERWISE = "its updates run inside the backward and free each gradient there, which is not traced"
_SVD = "its projection is an SVD, whose cuSOLVER workspaces are not known from any source read"
_COMPILED = (
    "torchao compiles its step, and which temporaries the compiler makes cannot be read in source"
)
REFUSED: dict[str, str] = {
    "adamw_torch_xla": "it runs on XLA devices, and only CUDA devices and CPUs are simulated",
    "adamw_torch_npu_fused": "it runs on Ascend devices, and only CUDA devices and CPUs are "
    "simulated",
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
