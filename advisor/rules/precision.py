"""Which dtype the weights are loaded in, and whether autocast runs: R-PR-01, R-PR-02, R-PR-11."""

from typing import Any

from advisor.hardware.machine import Gpu
from advisor.locale import Message
from advisor.plan import Dtype, Method, Quantization
from advisor.rules.facts import Facts
from advisor.rules.optimizer import T5_FAMILY

CPU_BF16_MIN = 50_000_000
"""Parameters below which bfloat16 attention on a CPU was slower than float32; a judgement."""
OVERFLOW = frozenset({*T5_FAMILY, "gemma2", "gemma3", "gemma3_text"})
"""Model types whose activations exceed what float16 holds (transformers issue 9295 for T5)."""
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
    if _fast_dtype(facts) == "float16":
        # What is trained is float32 (adapters.py), as GradScaler wants it.
        return {**off, "dtype": "float32" if method == "full" else "float16", "fp16": True}
    return {**off, "dtype": "float32"}


def computes_float16(gpu: Gpu) -> bool:
    """Whether float16 pays: tensor cores from Volta on, which the GTX 16 cards lack."""
    return (gpu.compute_capability or (0, 0)) >= (7, 0) and "GTX" not in gpu.name


def quantization(facts: Facts) -> Quantization:
    """nf4 with double quantisation (arXiv 2305.14314); computes in what the card computes well."""
    return Quantization(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_fast_dtype(facts),
    )


def _fast_dtype(facts: Facts) -> Dtype:
    """The shortest dtype that the card computes fast and that holds the model's activations."""
    gpu = facts.gpu()
    if gpu is None:
        return "float32"
    if (gpu.compute_capability or (0, 0)) >= (8, 0):
        return "bfloat16"
    fits = computes_float16(gpu) and facts.model.model_type not in OVERFLOW
    return "float16" if fits else "float32"


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
    overflows = facts.model.model_type in OVERFLOW and computes_float16(gpu)
    if field == "dtype":
        if method != "full" and values(facts, method)["dtype"] != "float32":
            return Message(id="precision.base")
        return Message(id="precision.master")
    if capability >= (8, 0):
        return Message(id="precision.bf16", params={"name": gpu.name})
    if overflows:
        return Message(id="precision.overflow", params={"type": facts.model.model_type})
    if computes_float16(gpu):
        key = "precision.scaler" if field == "fp16" else "precision.fp16"
        return Message(id=key, params={"name": gpu.name})
    return Message(id="precision.none", params={"name": gpu.name})
