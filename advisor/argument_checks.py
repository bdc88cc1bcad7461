"""Check an arguments file before anything heavy reads it: names, types, ranges, pairs, secrets.

Reads the file it is given. transformers itself checks only names and a few pairs.
"""

import difflib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advisor import hub, own_arguments, training_arguments
from advisor.errors import InputError, UnknownNameError, words
from advisor.locale import Message
from advisor.plan import check_batches
from advisor.tasks import find_task

NEVER_WRITTEN = ("hub_token", "parallelism_config", "local_rank")
"""A secret, an object that JSON cannot hold, and the launcher's business."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the user's; NaN and Infinity come through for the check to name.

    Raises:
        InputError: not readable, not UTF-8, not JSON (with line and column), a name given twice,
            or not an object.
    """
    data = parse_json(read_bytes(path), str(path))
    if not isinstance(data, dict):
        raise InputError("argument_checks.file_no_object", path=path, got=shown(data))
    return data


def read_bytes(path: Path) -> bytes:
    """The content of a file of the user's.

    Raises:
        InputError: not readable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("argument_checks.unreadable", path=path, reason=error.strerror) from error


def parse_json(raw: bytes, path: str) -> Any:
    """The JSON value of a file's content; `path` is how it is called in messages.

    Raises:
        InputError: not UTF-8, not JSON (with line and column), or a name given twice.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InputError("argument_checks.byte_order_mark", path=path)
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InputError(
            "argument_checks.not_utf8",
            path=path,
            byte=f"{raw[error.start]:#04x}",
            offset=error.start,
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            "argument_checks.not_json",
            path=path,
            line=error.lineno,
            column=error.colno,
            reason=error.msg,
        ) from error
    except _TwiceError as error:
        raise InputError("argument_checks.twice", path=path, name=error) from error
    except (ValueError, RecursionError) as error:
        raise InputError("argument_checks.refused", path=path, reason=error) from error


class _TwiceError(ValueError):
    """A name stands twice in one JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(twice)
    return result


def check_arguments(
    data: Any, source: str | Message = "args.json", *, training_only: bool = False
) -> None:
    """Check names, types, ranges and pairs of an arguments object, without transformers.

    Args:
        data: a JSON value.
        source: how the file is called in messages.
        training_only: the object holds TrainingArguments fields alone.

    Raises:
        InputError: the first thing wrong, with its field.
        UnknownNameError: a field that no class has, with the nearest names.
    """
    if not isinstance(data, Mapping):
        raise InputError("argument_checks.no_object", source=source, got=shown(data))
    for name, value in data.items():
        _refuse_code_and_secrets(name, value, source)
    own = {} if training_only else own_arguments.fields()
    for name, value in data.items():
        known = own.get(name) or training_arguments.fields().get(name)
        if name in training_arguments.RENAMED and not _is_mirror(name, value, data):
            raise InputError(
                "argument_checks.renamed",
                source=source,
                version=training_arguments.TRANSFORMERS_VERSION,
                got=shown(value),
                do=training_arguments.RENAMED[name],
                field=name,
            )
        if known is None:
            raise _unknown(name, (*own, *training_arguments.fields()), source)
        if name in NEVER_WRITTEN and value not in (None, known.default):
            raise InputError(
                "argument_checks.not_from_file", source=source, got=shown(value), field=name
            )
        if name in NEVER_WRITTEN:
            continue
        wrong = training_arguments.problem(name, value, known.type, known.choices, known.default)
        if wrong:
            raise InputError(
                "argument_checks.wrong_value", source=source, problem=wrong, field=name
            )
    _check_pairs(data, source)
    if not training_only:
        _check_own(data, source)


_SECRET = re.compile(r"token(?!s|iz)|passw|secret|credential|api_?key")
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def _refuse_code_and_secrets(name: str, value: Any, source: str | Message) -> None:
    if is_code(name):
        raise InputError("argument_checks.code", source=source, got=shown(value), field=name)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_code_and_secrets(str(key), inner, source)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code_and_secrets(name, inner, source)
    elif is_secret(name, value):
        # The value is not repeated: this sentence ends up in logs.
        raise InputError("argument_checks.secret", source=source, field=name)


def is_code(name: str) -> bool:
    """Whether the name, in any spelling, asks for code from a model repository."""
    return re.sub(r"[^a-z]", "", name.lower()) == "trustremotecode"


def is_secret(name: str, value: Any) -> bool:
    """Whether a value is a secret by its name or its looks, or holds one."""
    if isinstance(value, Mapping):
        return any(is_secret(str(key), inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(is_secret(name, inner) for inner in value)
    looks = isinstance(value, str) and _SECRET_VALUE.search(value)
    return value is not None and bool(_SECRET.search(name.lower()) or looks)


def _is_mirror(name: str, value: Any, data: Mapping[str, Any]) -> bool:
    """Whether a deprecated name only repeats the new one, as to_dict() writes it."""
    new = name.replace("gradient_", "activation_")
    return new != name and new in data and data[new] == value


def nearest_names(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """At most three names that look like `name`, best first."""
    return tuple(difflib.get_close_matches(name, names, n=3, cutoff=0.6))


def _unknown(name: str, names: tuple[str, ...], source: str | Message) -> UnknownNameError:
    nearest = nearest_names(name, names)
    remove = words("argument_checks.remove")
    do = words("argument_checks.did_you_mean", names=nearest) if nearest else remove
    return UnknownNameError(
        "argument_checks.unknown", source=source, do=do, nearest=nearest, field=name
    )


def _check_pairs(data: Mapping[str, Any], source: str | Message) -> None:
    def got(name: str) -> Any:
        return data.get(name, training_arguments.fields()[name].default)

    workers = got("dataloader_num_workers")
    evaluate, save = got("eval_strategy"), got("save_strategy")
    if got("bf16") and got("fp16"):
        raise InputError("argument_checks.bf16_fp16", source=source, field="fp16")
    if got("bf16_full_eval") and got("fp16_full_eval"):
        raise InputError("argument_checks.full_eval", source=source, field="fp16_full_eval")
    for name in ("fp16", "fp16_full_eval", "fsdp"):
        if got("use_cpu") and got(name):
            raise InputError("argument_checks.use_cpu", source=source, field=name)
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if not workers and got(name):
            raise InputError("argument_checks.workers", source=source, workers=workers, field=name)
    scheduler = got("lr_scheduler_type")
    if scheduler in ("reduce_lr_on_plateau", "greedy") and evaluate == "no":
        raise InputError(
            "argument_checks.needs_evaluation",
            source=source,
            scheduler=scheduler,
            field="lr_scheduler_type",
        )
    if not got("load_best_model_at_end") or save == "best":
        return
    if evaluate != save:
        raise InputError(
            "argument_checks.strategies",
            source=source,
            evaluate=evaluate,
            save=save,
            field="load_best_model_at_end",
        )
    every = got("eval_steps") or got("logging_steps")
    if evaluate == "steps" and not is_multiple(got("save_steps"), every):
        raise InputError(
            "argument_checks.multiple",
            source=source,
            save=got("save_steps"),
            evaluate=every,
            field="save_steps",
        )


def is_multiple(value: float, unit: float) -> bool:
    """Whether `value` is a whole multiple of `unit`; a share of all steps is none of a number."""
    if (value < 1) != (unit < 1):
        return False
    ratio = value / unit
    return math.isclose(ratio, round(ratio), rel_tol=1e-9)


_BATCHES = ("packing", "padding_free", "task", "attn_implementation")


def _check_own(data: Mapping[str, Any], source: str | Message) -> None:
    if data.get("train_file") is None:
        raise InputError("argument_checks.train_file", source=source, field="train_file")
    given = [n for n in ("model_name_or_path", "config_name") if data.get(n) is not None]
    if len(given) != 1:
        raise InputError(
            "argument_checks.which_model",
            source=source,
            given=_given(given),
            field="model_name_or_path",
        )
    revision, model = data.get("model_revision"), str(data[given[0]])
    if revision is not None and hub.is_model_id(model) and hub.parse_model_id(model)[1]:
        raise InputError(
            "argument_checks.two_revisions", name=model, got=revision, field="model_revision"
        )
    has_labels = find_task(data.get("task", "causal-lm")).has_labels
    for name in ("text_column_names", "label_column_name"):
        if data.get(name) is not None and not has_labels:
            raise InputError("argument_checks.no_labels", source=source, field=name)
    check_batches(
        **{n: data.get(n, f.default) for n, f in own_arguments.fields().items() if n in _BATCHES}
    )
    bits = [n for n in ("load_in_4bit", "load_in_8bit") if data.get(n)]
    if (len(bits) == 1) != (data.get("method") == "qlora") or len(bits) == 2:
        raise InputError(
            "argument_checks.qlora",
            source=source,
            method=data.get("method", "full"),
            given=_given(bits),
            field="method",
        )


def _given(names: list[str]) -> Message:
    return words("argument_checks.given", names=names) if names else words("words.neither")


def shown(value: Any) -> str:
    """A JSON value in a sentence, cut at 60 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
