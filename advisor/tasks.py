"""Each task as data: what a new task needs, besides one module in `trainer/tasks/` to train it."""

import math
from dataclasses import dataclass
from typing import Literal

from advisor.errors import InputError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Values that worked at a known batch, to scale from; `reference` says where they were read."""

    learning_rates: tuple[tuple[float, float], ...]
    """(parameters up to, rate), ascending."""
    effective_batch_size: int
    epochs: tuple[tuple[float, float], ...]
    """(training rows below, passes over them), ascending."""
    warmup_steps: float
    """Below 1 a share of all steps."""
    lr_scheduler_type: str
    weight_decay: float
    max_grad_norm: float = 1.0
    reference: str

    def learning_rate(self, num_parameters: float) -> float:
        """For a model of this size, at `effective_batch_size`."""
        return next(rate for most, rate in self.learning_rates if num_parameters <= most)

    def num_train_epochs(self, num_rows: float) -> float:
        """For so many training rows."""
        return next(passes for below, passes in self.epochs if num_rows < below)


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """One for each way to train."""

    scratch: Recipe
    full: Recipe
    lora: Recipe
    """Of qlora too."""


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
    text_pairs: tuple[tuple[str, str], ...] = ()
    """Names of two columns whose texts are one row together; looked for before `text_columns`."""
    label_columns: tuple[str, ...] = ()
    """Names a row's class is looked for under; without any a row is its text alone."""
    ends_texts: bool = False
    """An end-of-text token follows each text: a language model learns to stop."""
    batch: tuple[BatchTensor, ...]
    """As transformers' example script for the task has it."""
    metric: str
    greater_is_better: bool
    peft_type: str = "CAUSAL_LM"
    """Name in `peft.TaskType`: SEQ_CLS trains the head whole beside the adapters."""
    takes_loss: bool = False
    """The trainer takes the loss of the logits, in the place of the model: `task_losses.py`."""
    recipes: Recipes | None = None
    """Of a trainable task."""
    trainable: bool = False
    """Whether there is a module in `trainer/tasks/`; all tasks can be estimated."""

    @property
    def has_labels(self) -> bool:
        """Whether a row has a class."""
        return bool(self.label_columns)

    @property
    def predicts(self) -> bool:
        """Whether the evaluation keeps what the model answers, for a metric beside the loss."""
        return self.metric != "eval_loss"

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
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
"""As GLUE names them, and what is usual beside it."""
_SEQ_TO_SEQ = (_IDS, _MASK, _LABELS, BatchTensor("decoder_input_ids", _ROW))

_INF = math.inf
_GENERATION = Recipes(
    scratch=Recipe(
        learning_rates=(
            (100e6, 1e-3), (200e6, 6e-4), (500e6, 3e-4), (1e9, 2.5e-4), (2e9, 2e-4),
            (5e9, 1.6e-4), (10e9, 1.2e-4), (_INF, 1e-4),
        ),
        effective_batch_size=16,
        epochs=((100_000, 2.0), (_INF, 1.0)),
        warmup_steps=0.03,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        reference="Brown et al. 2020 (arXiv 2005.14165) table 2.1; SmolLM recipes below 100 M",
    ),
    full=Recipe(
        learning_rates=((0.5e9, 1e-3), (2e9, 3e-4), (10e9, 1e-5), (_INF, 5e-6)),
        effective_batch_size=64,
        epochs=((10_000, 3.0), (1_000_000, 2.0), (_INF, 1.0)),
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        reference="alignment-handbook, LLaMA-Factory, ms-swift and Tulu 3 recipes",
    ),
    lora=Recipe(
        learning_rates=((30e9, 2e-4), (_INF, 1e-4)),
        effective_batch_size=16,
        epochs=((10_000, 3.0), (100_000, 2.0), (_INF, 1.0)),
        warmup_steps=0.03,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        reference="QLoRA (arXiv 2305.14314), unsloth, axolotl; LoRA Without Regret (2025)",
    ),
)  # fmt: skip
"""Epochs by rows: Muennighoff et al. 2023, Zhang et al. 2021, Tulu 3."""
_CLASSIFICATION = Recipes(
    scratch=Recipe(
        learning_rates=((50e6, 5e-4), (_INF, 1e-4)),
        effective_batch_size=32,
        epochs=((10_000, 10.0), (100_000, 5.0), (_INF, 3.0)),
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        reference="google-research/bert (1e-4 from random weights); the rest is a judgement",
    ),
    full=Recipe(
        learning_rates=((10e6, 3e-4), (50e6, 1e-4), (200e6, 2e-5), (500e6, 1e-5), (_INF, 5e-6)),
        effective_batch_size=32,
        epochs=((1_000, 10.0), (1_000_000, 3.0), (_INF, 2.0)),
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        reference="google-research/bert, run_glue.py, RoBERTa and DeBERTa recipes; "
        "few rows: Zhang et al. 2021 (arXiv 2006.05987)",
    ),
    lora=Recipe(
        learning_rates=((200e6, 4e-4), (2e9, 3e-4), (30e9, 2e-4), (_INF, 1e-4)),
        effective_batch_size=32,
        epochs=((1_000, 20.0), (10_000, 10.0), (100_000, 5.0), (_INF, 3.0)),
        warmup_steps=0.06,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        reference="LoRA (arXiv 2106.09685), GLUE; above 2 B parameters QLoRA (arXiv 2305.14314)",
    ),
)

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
            ends_texts=True,
            recipes=_GENERATION,
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
            text_columns=(*_TEXT, "review", "question", "sentence1"),
            text_pairs=_PAIRS,
            label_columns=("label", "labels", "class", "category", "target"),
            batch=(_IDS, _TYPES, _MASK, _LABEL),
            metric="eval_accuracy",
            greater_is_better=True,
            peft_type="SEQ_CLS",
            takes_loss=True,
            recipes=_CLASSIFICATION,
            trainable=True,
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
