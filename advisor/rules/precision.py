"""Which dtype the weights are loaded in, and whether autocast runs: R-PR-01, R-PR-02, R-PR-11."""

from typing import Any

from advisor.locale import Message
from advisor.plan import Method, Quantization
from advisor.rules.facts import Facts

CPU_BF16_MIN = 50_000_000
"""Parameters below which bfloat16 attention on a CPU was slower than float32; a judgement."""
REFERENCE = "NVIDIA capability tables; transformers 5.23 loads dtype='auto' by default"


def values(facts: Facts, method: Method) -> dict[str, Any]:
    """dtype, bf16, fp16, tf32 for this machine and method."""
    gpu = facts.gpu()
    off: dict[str, Any] = {"bf16": False, "fp16": False, "tf32": None}
    if gpu is None:
        native = bool(facts.machine.cpu.bf16_native)
        return {
            **off,
            "dtype": "float32",
            "bf16": native and facts.model.num_parameters >= CPU_BF16_MIN,
        }
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


def quantization(facts: Facts) -> Quantization:
    """nf4 with double quantisation (arXiv 2305.14314); computes in what the card computes well."""
    gpu = facts.gpu()
    capability = (gpu.compute_capability if gpu else None) or (0, 0)
    return Quantization(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16" if capability >= (8, 0) else "float16",
    )


def _cpu_reason(facts: Facts, field: str) -> Message:
    if field == "fp16":
        return Message(id="precision.fp16_cpu")
    if field == "dtype":
        return Message(id="precision.master")
    if not facts.machine.cpu.bf16_native:
        return Message(id="precision.cpu")
    autocast = values(facts, "full")["bf16"]
    return Message(id="precision.cpu_native" if autocast else "precision.cpu_small")


def reason(facts: Facts, method: Method, field: str) -> Message:
    """Why."""
    gpu = facts.gpu()
    if gpu is None:
        return _cpu_reason(facts, field)
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
