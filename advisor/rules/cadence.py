"""How often to log, evaluate and save, and how to load the data: R-EV, R-DL, R-SV."""

from typing import Any

from advisor.rules.facts import Facts


def logging_steps(updates: int) -> int:
    """A two-hundredth of the run, 1 to 50, at most a tenth of it."""
    return max(1, min(50, updates // 200, max(updates // 10, 1)))


def evaluation(facts: Facts, updates: int, batch: int) -> dict[str, Any]:
    """Every twentieth of the run; rarer where evaluation would cost more than 5 % of it.

    At least five times.
    """
    rows = facts.rows()
    if rows is None or rows.num_eval_rows == 0:
        return {"eval_strategy": "no", "eval_steps": None}
    by_cost = rows.num_eval_rows / (0.15 * batch)
    steps = max(updates / 20, by_cost)
    return {"eval_strategy": "steps", "eval_steps": max(1, min(round(steps), max(updates // 5, 1)))}


def saving(updates: int, eval_steps: int | None) -> dict[str, Any]:
    """Four times a run, at an evaluation; the last two are kept."""
    every = eval_steps or max(1, updates // 4)
    steps = max(every, round(updates / 4 / every) * every)
    return {"save_strategy": "steps", "save_steps": steps, "save_total_limit": 2}


def loading(facts: Facts, updates: int, padding: float) -> dict[str, Any]:
    """Tokenised text in memory needs few workers; a CPU that trains has none to spare."""
    cores = facts.machine.cpu.usable_cores or 2
    on_gpu = facts.gpu() is not None
    workers = min(2, max(cores // 2, 1)) if on_gpu and updates >= 1000 else 0
    return {
        "dataloader_num_workers": workers,
        "dataloader_pin_memory": on_gpu,
        "dataloader_prefetch_factor": 2 if workers else None,
        "dataloader_persistent_workers": workers > 0,
        "train_sampling_strategy": "group_by_length" if padding > 0.1 else "random",
    }
