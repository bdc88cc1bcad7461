"""One module per task: features, collator, metrics."""

import importlib
from types import ModuleType

from advisor.tasks import find_trainable_task


def task_module(task: str) -> ModuleType:
    """The module of `trainer.tasks` that prepares this task's rows."""
    return importlib.import_module(
        f"trainer.tasks.{find_trainable_task(task).slug.replace('-', '_')}"
    )
