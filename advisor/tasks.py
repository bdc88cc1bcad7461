"""Each task as data: what a new task needs, besides one module in `trainer/tasks/` to train it."""

from dataclasses import dataclass
from typing import Literal

from advisor.errors import InputError, UnknownNameError


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


@dataclass(frozen=True)
class BatchTensor:
    """One tensor that the task's collator makes."""

    name: str
    """Argument of forward; "audio" stands for the class's main input."""
    shape: tuple[str, ...]
    """Dimensions that `simulate/batches.py` looks up: batch, length, or read off the config."""
    dtype: Literal["int64", "float32", "bool"] = "int64"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of training."""

    slug: str
    auto_classes: tuple[str, ...]
    """Classes of transformers that build the model, the first that knows the config's type."""
    text_columns: tuple[str, ...] = ()
    """Names a text column is looked for under, most likely first."""
    batch: tuple[BatchTensor, ...]
    """As transformers' example script for the task has it."""
    metric: str
    greater_is_better: bool
    trainable: bool = False
    """Whether there is a module in `trainer/tasks/`; all tasks can be estimated."""

    @property
    def counts_tokens(self) -> bool:
        """Whether a plan's max_length counts tokens; else simulate/batches.py says what."""
        return self.batch[0].name == "input_ids"

    @property
    def auto_class(self) -> str:
        """The usual class, e.g. AutoModelForCausalLM."""
        return self.auto_classes[0]


_ROW = ("batch", "length")
_IDS, _MASK = BatchTensor("input_ids", _ROW), BatchTensor("attention_mask", _ROW)
_TYPES = BatchTensor("token_type_ids", _ROW)
"""Left out where the config has one type only."""
_LABEL = BatchTensor("labels", ("batch",))
_LABELS = BatchTensor("labels", _ROW)
_PIXELS = BatchTensor("pixel_values", ("batch", "channels", "height", "width"), "float32")
_AUDIO = BatchTensor("audio", ("batch", "audio"), "float32")
_CHOICES = ("batch", "choices", "length")
_TEXT = ("text", "content", "document", "sentence", "prompt")
_SEQ_TO_SEQ = (_IDS, _MASK, _LABELS, BatchTensor("decoder_input_ids", _ROW))

TASKS: dict[str, Task] = {
    task.slug: task
    for task in (
        Task(
            slug="causal-lm",
            auto_classes=("AutoModelForCausalLM",),
            text_columns=_TEXT,
            batch=(_IDS, _MASK, _LABELS),
            metric="eval_loss",
            greater_is_better=False,
            trainable=True,
        ),
        Task(
            slug="masked-lm",
            auto_classes=("AutoModelForMaskedLM",),
            text_columns=_TEXT,
            batch=(_IDS, _TYPES, _MASK, _LABELS),
            metric="eval_loss",
            greater_is_better=False,
        ),
        Task(
            slug="text-classification",
            auto_classes=("AutoModelForSequenceClassification",),
            text_columns=_TEXT,
            batch=(_IDS, _TYPES, _MASK, _LABEL),
            metric="eval_accuracy",
            greater_is_better=True,
        ),
        Task(
            slug="token-classification",
            auto_classes=("AutoModelForTokenClassification",),
            text_columns=("tokens", "words"),
            batch=(_IDS, _TYPES, _MASK, _LABELS),
            metric="eval_f1",
            greater_is_better=True,
        ),
        Task(
            slug="question-answering",
            auto_classes=("AutoModelForQuestionAnswering",),
            text_columns=("context", "question"),
            batch=(
                _IDS,
                _TYPES,
                _MASK,
                BatchTensor("start_positions", ("batch",)),
                BatchTensor("end_positions", ("batch",)),
            ),
            metric="eval_f1",
            greater_is_better=True,
        ),
        Task(
            slug="multiple-choice",
            auto_classes=("AutoModelForMultipleChoice",),
            text_columns=("sent1", "question"),
            batch=(
                BatchTensor("input_ids", _CHOICES),
                BatchTensor("token_type_ids", _CHOICES),
                BatchTensor("attention_mask", _CHOICES),
                _LABEL,
            ),
            metric="eval_accuracy",
            greater_is_better=True,
        ),
        Task(
            slug="translation",
            auto_classes=("AutoModelForSeq2SeqLM",),
            text_columns=("translation",),
            batch=_SEQ_TO_SEQ,
            metric="eval_bleu",
            greater_is_better=True,
        ),
        Task(
            slug="summarization",
            auto_classes=("AutoModelForSeq2SeqLM",),
            text_columns=("document", "article", "dialogue", "text"),
            batch=_SEQ_TO_SEQ,
            metric="eval_rouge1",
            greater_is_better=True,
        ),
        Task(
            slug="image-classification",
            auto_classes=("AutoModelForImageClassification",),
            batch=(_PIXELS, _LABEL),
            metric="eval_accuracy",
            greater_is_better=True,
        ),
        Task(
            slug="masked-image-modeling",
            auto_classes=("AutoModelForMaskedImageModeling",),
            batch=(_PIXELS, BatchTensor("bool_masked_pos", ("batch", "patches"))),
            metric="eval_loss",
            greater_is_better=False,
        ),
        Task(
            slug="semantic-segmentation",
            auto_classes=("AutoModelForSemanticSegmentation",),
            batch=(_PIXELS, BatchTensor("labels", ("batch", "height", "width"))),
            metric="eval_mean_iou",
            greater_is_better=True,
        ),
        Task(
            slug="automatic-speech-recognition",
            auto_classes=("AutoModelForCTC", "AutoModelForSpeechSeq2Seq"),
            batch=(_AUDIO, BatchTensor("labels", ("batch", "transcript"))),
            metric="eval_wer",
            greater_is_better=False,
        ),
        Task(
            slug="audio-pretraining",
            auto_classes=("AutoModelForPreTraining",),
            batch=(
                _AUDIO,
                BatchTensor("mask_time_indices", _ROW, "bool"),
                BatchTensor("sampled_negative_indices", ("batch", "length", "negatives")),
            ),
            metric="eval_loss",
            greater_is_better=False,
        ),
        Task(
            slug="audio-classification",
            auto_classes=("AutoModelForAudioClassification",),
            batch=(_AUDIO, _LABEL),
            metric="eval_accuracy",
            greater_is_better=True,
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


def trainable_tasks() -> tuple[str, ...]:
    """Slugs of the tasks that can be recommended and trained."""
    return tuple(slug for slug, task in TASKS.items() if task.trainable)


def find_trainable_task(slug: str) -> Task:
    """The task named `slug`, to recommend a plan for or to train.

    Raises:
        UnknownNameError: no such task.
        InputError: it can be estimated only.
    """
    task = find_task(slug)
    if not task.trainable:
        raise InputError("tasks.estimate_only", got=slug, trainable=trainable_tasks(), field="task")
    return task
