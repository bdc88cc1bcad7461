"""Whether a model keeps the rows of a flattened batch apart, which padding-free training rests on.

No torch: it looks at a model somebody else built, the simulator's and the trainer's alike.
"""

import inspect
from typing import Any

_ATTENTION = {"full_attention", "sliding_attention"}
"""Layer types whose flash attention takes the borders of rows from position_ids."""


def keeps_rows_apart(model: Any) -> bool:
    """Whether position_ids that start anew are borders to every layer (read in transformers 5.23).

    Not for models without position_ids (BART), with states or convolutions that run through the
    row (Mamba, LFM2), or whose positions do not start at 0 (RoBERTa).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = set(getattr(base.config, "layer_types", None) or _ATTENTION)
    return (
        "position_ids" in inspect.signature(base.forward).parameters
        and not getattr(base, "_is_stateful", False)
        and layers <= _ATTENTION
        and not any(hasattr(m, "create_position_ids_from_input_ids") for m in base.modules())
    )
