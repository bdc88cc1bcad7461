"""Which dtype the weights are loaded in, and whether autocast runs: R-PR-01, R-PR-02, R-PR-11."""

from typing import Any

from advisor.locale import Message
from advisor.plan import Method
from advisor.rules.facts import Facts

REFERENCE = "NVIDIA capability tables; transformers 5.23 loads dtype='auto' by default"


def values(facts: Facts, method: Method) -> dict[str, Any]:
    """dtype, bf16, fp16, tf32 for this machine and method."""
    gpu = facts.gpu()
    off: dict[str, Any] = {"bf16": False, "fp16": False, "tf32": None}
    if gpu is None:
        native = bool(facts.machine.cpu.bf16_native)
        return {**off, "dtype": "float32", "bf16": native and facts.model.num_parameters >= 50e6}
    capability = gpu.compute_capability or (0, 0)
    if capability >= (8, 0):
        dtype = "float32" if method == "full" else "bfloat16"
        return {**off, "dtype": dtype, "bf16": True, "tf32": True}
    if capability >= (7, 0):
        return {
            **off,
            "dtype": "float32" if method == "full" else "float16",
            "fp16": method == "full",
        }
    return {**off, "dtype": "float32"}


def reason(facts: Facts, method: Method, field: str) -> Message:
    """Why."""
    gpu = facts.gpu()
    if gpu is None:
        native = bool(facts.machine.cpu.bf16_native)
        return Message(id="precision.cpu_native" if native else "precision.cpu")
    capability = gpu.compute_capability or (0, 0)
    if field == "dtype":
        if method != "full":
            return Message(id="precision.base")
        return Message(id="precision.master")
    if capability >= (8, 0):
        return Message(id="precision.bf16", params={"name": gpu.name})
    if capability >= (7, 0):
        return Message(id="precision.fp16", params={"name": gpu.name})
    return Message(id="precision.none", params={"name": gpu.name})
