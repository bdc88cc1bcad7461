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

from advisor import own_arguments, training_arguments
from advisor.errors import InputError, UnknownNameError

NEVER_WRITTEN = ("hub_token", "parallelism_config", "local_rank")
"""A secret, an object that JSON cannot hold, and the launcher's business."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the user's; NaN and Infinity come through for the check to name.

    Raises:
        InputError: not readable, not UTF-8, not JSON (with line and column), a name given twice,
            or not an object.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a JSON file.") from error
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InputError(
            f"{path}, line 1, column 1: starts with a UTF-8 byte order mark; save it without one."
        )
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} must be UTF-8, got byte {raw[error.start]:#04x} at offset {error.start}; "
            "save it as UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: "
            f"{error.msg}; mend it there."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a JSON object, got {shown(data)}; start it with {{.")
    return data


class _TwiceError(ValueError):
    """A name stands twice in one JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"{twice} is given twice; keep one")
    return result


def check_arguments(data: Any, source: str = "args.json", *, training_only: bool = False) -> None:
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
        raise InputError(f"{source} must be a JSON object, got {shown(data)}.")
    for name, value in data.items():
        _refuse_code_and_secrets(name, value, source)
    own = {} if training_only else own_arguments.fields()
    for name, value in data.items():
        known = own.get(name) or training_arguments.fields().get(name)
        if name in training_arguments.RENAMED and not _is_mirror(name, value, data):
            raise InputError(
                f"{source}: {name} is not a name of transformers "
                f"{training_arguments.TRANSFORMERS_VERSION}, got {shown(value)}; "
                f"{training_arguments.RENAMED[name]}.",
                field=name,
            )
        if known is None:
            raise _unknown(name, (*own, *training_arguments.fields()), source)
        if name in NEVER_WRITTEN and value not in (None, known.default):
            raise InputError(
                f"{source}: {name} is not read from a file, got {shown(value)}; remove it.",
                field=name,
            )
        if name in NEVER_WRITTEN:
            continue
        wrong = training_arguments.problem(name, value, known.type, known.choices, known.default)
        if wrong:
            raise InputError(f"{source}: {name} {wrong}.", field=name)
    _check_pairs(data, source)
    if not training_only:
        _check_own(data, source)


_SECRET = re.compile(r"token(?!s|iz)|passw|secret|credential|api_?key")
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def _refuse_code_and_secrets(name: str, value: Any, source: str) -> None:
    plain = re.sub(r"[^a-z]", "", name.lower())
    if plain == "trustremotecode":
        raise InputError(
            f"{source}: {name} is refused, got {shown(value)}: "
            "this program never runs code from a model repository; remove it.",
            field=name,
        )
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_code_and_secrets(str(key), inner, source)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code_and_secrets(name, inner, source)
    elif value is not None and (
        _SECRET.search(name.lower()) or (isinstance(value, str) and _SECRET_VALUE.search(value))
    ):
        # The value is not repeated: this sentence ends up in logs.
        raise InputError(
            f"{source}: {name} holds a secret, which no arguments file may; remove it "
            "and log in with `hf auth login`.",
            field=name,
        )


def _is_mirror(name: str, value: Any, data: Mapping[str, Any]) -> bool:
    """Whether a deprecated name only repeats the new one, as to_dict() writes it."""
    new = name.replace("gradient_", "activation_")
    return new != name and new in data and data[new] == value


def _unknown(name: str, names: tuple[str, ...], source: str) -> UnknownNameError:
    nearest = tuple(difflib.get_close_matches(name, names, n=3, cutoff=0.6))
    do = f"did you mean {' or '.join(nearest)}?" if nearest else "remove it."
    return UnknownNameError(
        f"{source}: {name} is not an argument; {do}", nearest=nearest, field=name
    )


def _check_pairs(data: Mapping[str, Any], source: str) -> None:
    def got(name: str) -> Any:
        return data.get(name, training_arguments.fields()[name].default)

    def refuse(name: str, sentence: str) -> None:
        raise InputError(f"{source}: {sentence}.", field=name)

    workers = got("dataloader_num_workers")
    evaluate, save = got("eval_strategy"), got("save_strategy")
    if got("bf16") and got("fp16"):
        refuse("fp16", "bf16 and fp16 exclude each other, got both; set one to false")
    if got("bf16_full_eval") and got("fp16_full_eval"):
        refuse("fp16_full_eval", "bf16_full_eval and fp16_full_eval exclude each other; keep one")
    for name in ("fp16", "fp16_full_eval", "fsdp"):
        if got("use_cpu") and got(name):
            refuse(name, f"{name} silently does nothing with use_cpu, got both; remove {name}")
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if not workers and got(name):
            refuse(name, f"{name} needs dataloader_num_workers above 0, got {workers}; raise it")
    if got("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy") and evaluate == "no":
        refuse(
            "lr_scheduler_type",
            f'{got("lr_scheduler_type")} needs evaluation, got eval_strategy "no"; '
            'set it to "steps" or "epoch"',
        )
    if not got("load_best_model_at_end") or save == "best":
        return
    if evaluate != save:
        refuse(
            "load_best_model_at_end",
            f'load_best_model_at_end needs equal strategies, got eval_strategy "{evaluate}" '
            f'and save_strategy "{save}"; set both to one',
        )
    every = got("eval_steps") or got("logging_steps")
    if evaluate == "steps" and not _is_multiple(got("save_steps"), every):
        refuse(
            "save_steps",
            "load_best_model_at_end needs save_steps to be a multiple of eval_steps, "
            f"got {got('save_steps')} and {every}; set them equal",
        )


def _is_multiple(value: float, unit: float) -> bool:
    if (value < 1) != (unit < 1):
        return False
    ratio = value / unit
    return math.isclose(ratio, round(ratio), rel_tol=1e-9)


def _check_own(data: Mapping[str, Any], source: str) -> None:
    if data.get("train_file") is None:
        raise InputError(
            f"{source} needs train_file, the training rows; add it.", field="train_file"
        )
    given = [n for n in ("model_name_or_path", "config_name") if data.get(n) is not None]
    if len(given) != 1:
        raise InputError(
            f"{source} needs one of model_name_or_path (with weights) and config_name (random "
            f"weights), got {' and '.join(given) or 'neither'}; give one.",
            field="model_name_or_path",
        )
    bits = [n for n in ("load_in_4bit", "load_in_8bit") if data.get(n)]
    if (len(bits) == 1) != (data.get("method") == "qlora") or len(bits) == 2:
        raise InputError(
            f"{source}: method qlora goes with exactly one of load_in_4bit and load_in_8bit, "
            f'got method "{data.get("method", "full")}" and {" and ".join(bits) or "neither"}; '
            "set both to match.",
            field="method",
        )


def shown(value: Any) -> str:
    """A JSON value in a sentence, cut at 60 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
