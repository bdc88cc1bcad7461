"""Which models keep the rows of a flattened batch apart, which padding-free training rests on."""

from typing import Any

ROWS_APART = frozenset(
    (
        "apertus", "arcee", "bitnet", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2",
        "gemma3_text", "glm", "glm4", "gpt2", "gpt_neox", "granite", "granitemoe", "helium",
        "hunyuan_v1_dense", "llama", "ministral3", "mistral", "mixtral", "nemotron", "olmo",
        "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "seed_oss",
        "smollm3", "stablelm", "starcoder2",
    )
)  # fmt: skip
"""Model types whose every layer hands position_ids to the attention function (transformers 5.23).

Others have states that run through the row (Mamba, LFM2), positions of their own (BART, RoBERTa),
or take position_ids and keep them from the attention (gpt_bigcode, gptj, persimmon).
"""


def keeps_rows_apart(model: Any) -> bool:
    """Whether position_ids that start anew are borders to every layer of a built model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.config.model_type in ROWS_APART
