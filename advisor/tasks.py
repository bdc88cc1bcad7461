"""Each task as data: what a new task needs besides one module in `trainer/tasks/`."""

from dataclasses import dataclass

from advisor.errors import UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Values that worked at a known batch, to scale from; `reference` says where they were read."""

    learning_rate: float
    effective_batch_size: int
    num_train_epochs: float
    warmup_steps: float
    """Below 1 a share of all steps."""
    lr_scheduler_type: str
    weight_decay: float
    max_grad_norm: float
    reference: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of training."""

    slug: str
    auto_class: str
    """Class of transformers that builds the model, e.g. AutoModelForCausalLM."""
    text_columns: tuple[str, ...]
    """Names a text column is looked for under, most likely first."""
    batch: tuple[str, ...]
    """Tensors of a batch, each (batch, length) int64."""
    metric: str
    greater_is_better: bool


TASKS: dict[str, Task] = {
    task.slug: task
    for task in (
        Task(
            slug="causal-lm",
            auto_class="AutoModelForCausalLM",
            text_columns=("text", "content", "document", "sentence", "prompt"),
            batch=("input_ids", "attention_mask", "labels"),
            metric="eval_loss",
            greater_is_better=False,
        ),
    )
}


def find_task(slug: str) -> Task:
    """The task named `slug`.

    Raises:
        UnknownNameError: no such task; names the ones there are.
    """
    if slug not in TASKS:
        raise UnknownNameError("tasks.unknown", got=slug, nearest=tuple(TASKS), field="task")
    return TASKS[slug]
