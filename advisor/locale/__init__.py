"""Message catalogues: an id and parameters become a sentence in English or Chinese, at the edge.

A catalogue is a flat JSON file {id: template}. Places are named and carry the unit they are shown
in: `{peak:gib}` (`{peak:GiB}` with the unit), `{rate:lr}`, `{tokens:count}`, `{step:int}`,
`{share:percent}`, `{duration:duration}`. Lists are joined by `{names:list}`, `{names:or}` and
`{names:and}`.

Reasons and labels are in `en.json` and `zh_CN.json`, errors in `errors_en.json` and
`errors_zh_CN.json`.
"""

import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from advisor import units

LANGUAGES: dict[str, str] = {"en": "en", "zh": "zh_CN"}
"""Language as the CLI and the URL spell it -> name of its catalogue file."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A sentence before it has a language."""

    id: str
    params: dict[str, Any] = field(default_factory=dict)


@cache
def catalogue(package: str, lang: str) -> Mapping[str, str]:
    """All templates of a package's catalogue in one language."""
    name = f"{LANGUAGES[lang]}.json"
    return json.loads(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def render(message: Message, lang: str = "en", package: str = "advisor.locale") -> str:
    """The sentence in `lang`.

    Raises:
        KeyError: the catalogue lacks the id or the message a parameter; a test keeps both complete.
    """
    template = catalogue(package, lang)[message.id]
    return _Formatter(lang).vformat(template, (), message.params)


@cache
def error_catalogue(lang: str) -> Mapping[str, str]:
    """All templates of errors and of their parts in one language."""
    path = resources.files("advisor.locale").joinpath(f"errors_{LANGUAGES[lang]}.json")
    return json.loads(path.read_text(encoding="utf-8"))


def sentence(message: Message, lang: str = "en") -> str:
    """An error, or a part of one, in `lang`; an id that no catalogue holds stands for itself."""
    template = error_catalogue(lang).get(message.id)
    if template is None:
        return message.id
    return _Formatter(lang).vformat(template, (), message.params)


def format_duration(seconds: float | None, lang: str = "en") -> str:
    """Seconds as a person says them: 4.5 ms, 45 s, 12 min, 2 h 05 min, 3 d 4 h."""
    if seconds is None:
        return {"en": units.UNKNOWN, "zh": "未知"}[lang]
    ms, s, m, h, d = {
        "en": ("ms", "s", "min", "h", "d"),
        "zh": ("毫秒", "秒", "分", "小时", "天"),
    }[lang]
    if seconds == 0:
        return f"0 {s}"
    if 0 < seconds < 0.00995:
        return f"{1000 * seconds:.2g} {ms}"
    if 0 < seconds < 0.9995:
        return f"{1000 * seconds:.0f} {ms}"
    if seconds < 9.95:
        return f"{seconds:.1f} {s}"
    if seconds < 99.5:
        return f"{seconds:.0f} {s}"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} {m}"
    if minutes < 48 * 60:
        return f"{minutes // 60} {h} {minutes % 60:02d} {m}"
    return f"{minutes // 1440} {d} {minutes % 1440 // 60} {h}"


class _Formatter(string.Formatter):
    """str.format with our units as format specifications; unknown values stay readable."""

    def __init__(self, lang: str) -> None:
        self.lang = lang

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return {"en": units.UNKNOWN, "zh": "未知"}[self.lang]
        if isinstance(value, Message):
            return sentence(value, self.lang)
        match format_spec:
            case "list" | "or" | "and":
                return self._joined(value, format_spec)
            case "gib":
                return units.format_gib(value)
            case "GiB":
                return units.format_in_gib(value)
            case "bytes":
                return units.format_bytes(value)
            case "lr":
                return units.format_learning_rate(value)
            case "count":
                return self._count(value)
            case "int":
                return f"{value:,.0f}"
            case "percent":
                return f"{100 * value:.0f} %"
            case "duration":
                return format_duration(value, self.lang)
            case "number":
                return f"{value:g}"
        return super().format_field(value, format_spec)

    def _joined(self, values: Iterable[Any], how: str) -> str:
        joint = {
            "en": {"list": ", ", "or": " or ", "and": " and "},
            "zh": {"list": "、", "or": " 或 ", "and": " 和 "},
        }[self.lang][how]
        texts = [self.format_field(value, "") for value in values]
        return joint.join(texts) or {"en": "none", "zh": "无"}[self.lang]

    def _count(self, value: float) -> str:
        if self.lang == "zh" and abs(value) >= 1e8:
            return f"{value / 1e8:.1f} 亿"
        return units.format_count(value)
