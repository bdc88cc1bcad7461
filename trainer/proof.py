"""Proofs: a few real steps with the longest batch of the data set, to check a prediction.

A proof is a run of kind "proof" in a directory of its own: the real trainer on the arguments of the
run it stands for, less evaluating and saving. Reads and writes that directory; stdlib only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.errors import InputError
from advisor.units import format_in_gib
from trainer import record, runs

if TYPE_CHECKING:
    import datasets

KIND = "proof"
STEPS = 3
"""Steps of a proof unless asked otherwise: the first one warms up, two are timed."""
_CHANGES = {
    "eval_strategy": "no",
    "eval_on_start": False,
    "do_eval": False,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "report_to": "none",
    # Rows come in the order `longest_batches` puts them, in batches of the size that was planned.
    "train_sampling_strategy": "sequential",
    "auto_find_batch_size": False,
    "output_dir": runs.DEFAULT_OUTPUT_DIR,
}
"""What a proof does otherwise than its run; nothing here changes what a step allocates."""


def create(
    slug: str,
    *,
    plan: Mapping[str, Any] | None,
    arguments: Mapping[str, Any],
    steps: int = STEPS,
    run_dir: Path | None = None,
) -> Path:
    """A run directory that proves `arguments`, ready to be trained in.

    Args:
        slug: readable part of the name.
        plan: content of plan.json, None when nothing was predicted.
        arguments: of the run that is to be proved.
        steps: optimizer steps, each with all its micro-batches.
        run_dir: an empty place for it; a new one under the user's runs when left out.

    Raises:
        InputError: no step is asked for, or the directory holds a run or cannot be made.
    """
    if steps < 1:
        raise InputError("trainer.prove_steps", got=steps, field="prove")
    proving = {**arguments, **_CHANGES, "max_steps": steps}
    extra = {"kind": KIND, "num_steps": steps, "predicted": predictions(plan)}
    if run_dir is None:
        return runs.create_run(f"{slug}-proof", plan=plan, arguments=proving, extra=extra)
    if (run_dir / record.RECORD).exists():
        raise InputError("trainer.prove_run_dir", path=run_dir, field="run_dir")
    runs.make_directory(run_dir, may_exist=True)
    runs.initialise(run_dir, plan=plan, arguments=proving, extra=extra)
    return run_dir


def predictions(plan: Mapping[str, Any] | None) -> dict[str, Any]:
    """What plan.json promises of these steps: the peak of the run, the time of its longest step."""
    known = runs.predictions(plan)
    if not known:
        return {}
    interval = dict(known["interval"])
    interval.pop("total_seconds", None)
    around, mean = interval.pop("step_seconds", None), known["step_seconds"]
    longest = ((plan or {}).get("time") or {}).get("longest_step_seconds")
    if around and mean and longest:
        interval["step_seconds"] = [longest * end / mean for end in around]
    unknown = dict.fromkeys(("total_seconds", "tokens_per_second", "num_steps"))
    return {**known, **unknown, "step_seconds": longest, "interval": interval}


def is_proof(run_dir: Path) -> bool:
    """Whether the directory holds a proof."""
    return (record.read_object(run_dir / record.RECORD) or {}).get("kind") == KIND


def longest_batches(
    rows: "datasets.Dataset", batch: int, times: int
) -> "tuple[datasets.Dataset, int]":
    """The `batch` longest rows, `times` over, and the tokens of the longest.

    A data set with fewer rows than a batch gives some of them again: the batch is as planned.
    """
    import numpy as np

    lengths = np.asarray(rows.with_format("numpy")["length"][:])
    order = np.argsort(-lengths, kind="stable")[:batch]
    chosen = np.resize(order, batch)
    longest: Any = rows.select(np.tile(chosen, times))
    return longest, int(lengths[order[0]])


def report(run_dir: Path) -> str:
    """Predicted beside measured, a line each; for the shell."""
    status = runs.read_status(run_dir)
    found = record.read_object(run_dir / record.RECORD) or {}
    batch = found.get("proof") or {}
    lines = [
        f"proof: {status.step or 0} of {found.get('num_steps') or '?'} steps with the longest "
        f"batch, {batch.get('batch_rows', '?')} x {batch.get('longest_tokens', '?')} tokens"
    ]
    predicted, measured = status.predicted, status.measured
    for name in ("process_bytes", "reserved_bytes", "allocated_bytes", "step_seconds"):
        expected, found_value = predicted.get(name), measured.get(name)
        if found_value is None and (expected is None or name != "process_bytes"):
            continue
        words = f"predicted {_words(name, expected)}, measured {_words(name, found_value)}"
        if expected and found_value:
            words += f" ({100 * (found_value / expected - 1):+.1f} %)"
        lines.append(f"{name}: {words}")
    if measured.get("out_of_memory"):
        free = format_in_gib(predicted.get("capacity_bytes"))
        lines.append(
            f"out of memory at step {(status.step or 0) + 1}: {free} were free when it was planned"
        )
    return "\n".join(lines)


def _words(name: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    return format_in_gib(value) if name.endswith("_bytes") else f"{value:.3g} s"
