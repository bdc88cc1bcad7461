"""Which task a model and a data set are for, where nobody said. Reads both; the worker's."""

import json
from pathlib import Path
from typing import Any

from advisor import demo, hub
from advisor.errors import InputError
from advisor.rows import column_names
from advisor.tasks import TASKS, trainable_tasks

DEFAULT = "causal-lm"
_MADE_FOR = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForSemanticSegmentation": "semantic-segmentation",
    "ForCTC": "automatic-speech-recognition",
}
"""End of a class's name -> its one task; ForMaskedLM and bare models do for several."""


def infer_task(model_path: str, data_path: str | None, label_column: str | None = None) -> str:
    """The slug of the task.

    A model made for one task decides. An encoder is for classes where the rows have them; a model
    that generates text is for text where they have none.

    Raises:
        InputError: another case; names the tasks to choose from.
    """
    if demo.NAME in (model_path, data_path):
        return DEFAULT
    where = hub.model_directory(model_path) if hub.is_model_id(model_path) else model_path
    config = _config(demo.resolve(where, "model"))
    if not config:
        return DEFAULT
    architectures = _architectures(config)
    for name in architectures:
        for end, task in _MADE_FOR.items():
            if name.endswith(end):
                return task
    if data_path is None:
        return DEFAULT
    found = column_names(data_path)
    with_classes = tuple(
        slug
        for slug in trainable_tasks()
        if label_column is not None or set(TASKS[slug].label_columns) & set(found)
        if TASKS[slug].has_labels
    )
    is_encoder = _is_encoder(config)
    if is_encoder and len(with_classes) == 1:
        return with_classes[0]
    if not is_encoder and not with_classes:
        return DEFAULT
    model = ", ".join(architectures) or str(config.get("model_type"))
    names, there = trainable_tasks(), found or ("-",)
    if is_encoder:
        raise InputError("infer.encoder", model=model, columns=there, names=names, field="task")
    raise InputError("infer.ambiguous", model=model, columns=there, names=names, field="task")


def _config(location: Path) -> dict[str, Any]:
    """Empty where it cannot be read: whoever describes the model says why."""
    file = location / "config.json" if location.is_dir() else location
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _architectures(config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("architectures")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _is_encoder(config: dict[str, Any]) -> bool:
    """Whether tokens see what comes after them, so that it cannot learn to generate."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in _architectures(config)):
        return False
    kind = config.get("model_type")
    return kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and config.get("is_decoder") is not True
