"""Frozen dataclasses to JSON and back.

One encoder and one strict decoder for every record we write.

Files from disk are somebody's input: the decoder names the field, what it got and what it wants.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from advisor.errors import InputError, words

T = TypeVar("T")


def encode(value: Any) -> Any:
    """A record (dataclass, tuple, dict, scalar) as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    return value


def decode(cls: type[T], data: Any, where: str = "") -> T:
    """Build `cls` from JSON values, checking names and types.

    Args:
        cls: a dataclass.
        data: a JSON object; fields left out take the dataclass' defaults.
        where: how the object is called in messages, e.g. "plan".

    Raises:
        InputError: an unknown field, a missing one, or a value of another type.
    """
    name = where or cls.__name__
    if not isinstance(data, Mapping):
        raise InputError("records.no_object", name=name, got=_kind(data), field=where or None)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    unknown = [k for k in data if k not in fields]
    if unknown:
        raise InputError("records.unknown_field", name=name, fields=tuple(fields), field=unknown[0])
    hints = typing.get_type_hints(cls)
    values = {k: _convert(hints[k], v, f"{where}.{k}" if where else k) for k, v in data.items()}
    missing = [
        k
        for k, f in fields.items()
        if k not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError("records.missing_field", name=name, field=missing[0])
    return cls(**values)


def convert_field(cls: type, name: str, value: Any) -> Any:
    """`value` as the field `name` of `cls` holds it.

    Raises:
        InputError: a value of another type.
    """
    return _convert(typing.get_type_hints(cls)[name], value, name)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        for option in rest[:-1]:
            try:
                return _convert(option, value, where)
            except InputError:
                continue
        return _convert(rest[-1], value, where)
    if origin is typing.Literal:
        if value in args and not (
            isinstance(value, bool) and True not in args and False not in args
        ):
            return value
        raise InputError("records.one_of", names=tuple(map(str, args)), got=value, field=where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError("records.no_list", got=_kind(value), field=where)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(args) != len(value):
            raise InputError("records.items", wanted=len(args), got=len(value), field=where)
        return tuple(
            _convert(a, v, f"{where}[{i}]")
            for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError("records.no_object", name=where, got=_kind(value), field=where)
        return {k: _convert(args[1], v, f"{where}.{k}") if args else v for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise InputError(
        "records.type", kind=_WORDS.get(hint, hint.__name__), got=_kind(value), field=where
    )


_WORDS = {
    int: words("words.integer"),
    float: words("words.number"),
    str: words("words.text"),
    bool: words("words.boolean"),
}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
