"""Arguments that change memory or time and are predicted without: the answer names each."""

from collections.abc import Mapping
from typing import Any, Literal

from advisor import training_arguments
from advisor.errors import note
from advisor.locale import Message

Figure = Literal["memory", "time"]

_BOTH: frozenset[Figure] = frozenset(("memory", "time"))
_MEMORY: frozenset[Figure] = frozenset(("memory",))
_TIME: frozenset[Figure] = frozenset(("time",))

CHANGES: dict[str, frozenset[Figure]] = {
    **dict.fromkeys(training_arguments.OUTSIDE_THE_PLAN, _BOTH),
    "accelerator_config": _BOTH,  # split_batches divides the batch
    "label_smoothing_factor": _BOTH,  # a loss of its own, of all logits
    "neftune_noise_alpha": _BOTH,
    "torch_empty_cache_steps": _BOTH,
    "full_determinism": _BOTH,
    "use_cache": _BOTH,
    "prediction_loss_only": _MEMORY,  # false keeps an evaluation's logits on the device
    "eval_accumulation_steps": _MEMORY,
    "include_for_metrics": _MEMORY,
    "batch_eval_metrics": _MEMORY,
    "resume_from_checkpoint": _MEMORY,  # the old states are read beside the new ones
    "dataloader_drop_last": _TIME,
    "debug": _TIME,
    "ddp_broadcast_buffers": _TIME,
    "eval_delay": _TIME,
    "eval_on_start": _TIME,
    "skip_memory_metrics": _TIME,
}
"""What a value other than the default changes, read in transformers 5.23 (Trainer)."""


def is_outside(name: str, value: Any) -> bool:
    """Whether this value of an argument is predicted without."""
    if name not in CHANGES:
        return False
    default = training_arguments.fields()[name].default
    if name == "prediction_loss_only":  # set for each task; the default is what costs
        return not value
    return value != default and (bool(value) or bool(default))


def assumptions(pins: Mapping[str, Any], figure: Figure) -> tuple[str, ...]:
    """A sentence for each of the user's values that the figure leaves out."""
    return tuple(
        note("not_simulated.argument", name=name)
        for name, value in pins.items()
        if is_outside(name, value) and figure in CHANGES[name]
    )


def reason(name: str, value: Any) -> Message:
    """What the row of a pin that no plan holds says."""
    return Message(id="why.unseen" if is_outside(name, value) else "why.set")
