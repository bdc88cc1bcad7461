"""A model and an estimate for tests of what is decided from them. The numbers are test data."""

from advisor.memory import MemoryEstimate, verdict
from advisor.model import ModelDescription


def model(parameters, *, weights=True, context=4096):
    return ModelDescription(
        name="m",
        path="/m",
        config={"model_type": "llama"},
        model_type="llama",
        architecture="LlamaForCausalLM",
        num_parameters=int(parameters),
        max_position_embeddings=context,
        has_weights=weights,
        has_tokenizer=True,
    )


def memory_of(peak, machine):
    """The estimate of a peak that is known to the byte."""
    capacity = machine.capacity_bytes()
    return MemoryEstimate(
        allocated_bytes=peak,
        reserved_bytes=peak,
        process_bytes=peak,
        interval={"process_bytes": (peak, peak)},
        capacity_bytes=capacity,
        verdict=verdict(peak, capacity),
    )
