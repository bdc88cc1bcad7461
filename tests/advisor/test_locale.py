import re
from pathlib import Path

import pytest

import advisor
from advisor.locale import LANGUAGES, Message, catalogue, format_duration, render

PLACES = re.compile(r"{(\w+)(?::(\w+))?}")
SOURCES = Path(advisor.__file__).parent


def test_catalogues_have_the_same_ids_and_places():
    english, chinese = (catalogue("advisor.locale", lang) for lang in LANGUAGES)
    assert english.keys() == chinese.keys()
    for key in english:
        assert sorted(PLACES.findall(english[key])) == sorted(PLACES.findall(chinese[key])), key


def test_every_id_in_the_code_is_in_the_catalogue():
    known = catalogue("advisor.locale", "en")
    for path in SOURCES.rglob("*.py"):
        for name in re.findall(r'id="([a-z_.]+)"', path.read_text(encoding="utf-8")):
            assert name in known, (path.name, name)


def test_reasons_are_short_and_start_in_lower_case():
    for key, text in catalogue("advisor.locale", "en").items():
        if key.startswith(("why.", "precision.", "method.", "checkpointing.", "length.", "rate.")):
            assert len(text) <= 80, key
            assert text[0].islower() or text[0] == "{" or text[0].isdigit(), key


def test_unknown_is_said_in_words():
    message = Message(id="other.larger", params={"value": 8, "peak": None})
    assert "unknown" in render(message)
    assert "未知" in render(message, "zh")


def test_short_durations_are_never_zero():
    assert [format_duration(s) for s in (0, 0.0042, 0.0123, 0.85, 0.9996)] == [
        "0 s",
        "4.2 ms",
        "12 ms",
        "850 ms",
        "1.0 s",
    ]
    assert format_duration(0.0123, "zh") == "12 毫秒"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_unknown_has_no_unit(lang):
    for package, name, params in (
        ("app.locale", "start.body", {"name": "x", "device": "y", "steps": 1, "time": 2.0}),
        ("app.locale", "live.memory.text", {"highest": None}),
        ("app.locale", "machines.peak", {"free": None}),
        ("app.locale", "verdict.unknown.text", {"free": None}),
        ("advisor.console", "unknown", {"capacity": None}),
    ):
        said = render(Message(id=name, params={"peak": None, **params}), lang, package)
        assert "GiB" not in said
        assert {"en": "unknown", "zh": "未知"}[lang] in said


def test_durations_read_as_a_person_says_them():
    assert [format_duration(s) for s in (3.21, 45, 720, 7500, 300_000)] == [
        "3.2 s",
        "45 s",
        "12 min",
        "2 h 05 min",
        "3 d 11 h",
    ]
