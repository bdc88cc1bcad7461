"""What a run gave, for the shell: its evaluation, where the model is, how it is loaded. Light."""

import json
from collections.abc import Mapping
from typing import Any

MAX_NAMED_CLASSES = 20
"""With more classes, only their number is written into the code."""
_NOT_SAID = ("_runtime", "_per_second")


def load_code(auto_class: str, model: Any, path: str) -> str:
    """Python that loads the trained model and its tokenizer.

    Args:
        auto_class: of transformers, by the task.
        model: that was trained; an adapter is loaded onto the weights it was trained on.
        path: the saved model's directory.
    """
    place = json.dumps(path, ensure_ascii=False)
    library, name, more = "transformers", auto_class, ""
    if hasattr(model, "peft_config"):
        library, name = "peft", auto_class.replace("AutoModel", "AutoPeftModel", 1)
        if auto_class.endswith("SequenceClassification"):
            more = _classes(model.config.id2label)  # an adapter's directory keeps no config
    return "\n".join(
        [
            f"from {library} import {name}",
            "from transformers import AutoTokenizer",
            f"model = {name}.from_pretrained({place}{more})",
            f"tokenizer = AutoTokenizer.from_pretrained({place})",
        ]
    )


def _classes(names: Mapping[int, str]) -> str:
    if len(names) > MAX_NAMED_CLASSES:
        return f", num_labels={len(names)}"
    numbers = {name: number for number, name in names.items()}
    return f", id2label={dict(names)!r}, label2id={numbers!r}"


def lines(
    evaluation: Mapping[str, Any] | None,
    *,
    model_path: str | None,
    code: str | None,
    checkpoint: str | None,
) -> list[str]:
    """The answer in lines: what was learned, where it is.

    Args:
        evaluation: the last one's metrics with `step` and `rows`; None where none was made.
        model_path: of the trained model; None where training did not reach its end.
        code: loads it.
        checkpoint: what a run that did not reach its end has saved.
    """
    said = []
    if evaluation:
        said.append(f"evaluation  {_evaluation(evaluation)}")
    if model_path:
        said.append(f"model       {model_path}")
    elif checkpoint:
        said.append(f"checkpoint  {checkpoint}")
    if model_path and code:
        said += ["load it with", *(f"    {line}" for line in code.splitlines())]
    return said


def _evaluation(values: Mapping[str, Any]) -> str:
    names = [n for n in values if n.startswith("eval_") and not n.endswith(_NOT_SAID)]
    names.sort(key=lambda name: name == "eval_loss")  # the task's own metric comes first
    metrics = [
        f"{name.removeprefix('eval_')} {values[name]:.4g}"
        for name in names
        if isinstance(values[name], (int, float))
    ]
    where = [f"after step {values.get('step')}"]
    if values.get("rows"):
        where.append(f"on {values['rows']:,} rows")
    return f"{', '.join(metrics)} ({', '.join(where)})"
