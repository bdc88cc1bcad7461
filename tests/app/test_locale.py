"""The pages' catalogues: same ids, same places in both languages; every id in use exists."""

import ast
import string
from pathlib import Path

import pytest

import app
from advisor.locale import LANGUAGES, catalogue
from app.forms import FIELDS

APP = Path(app.__file__).parent


def places(template):
    return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name)


def test_both_languages_have_the_same_ids():
    en, zh = catalogue("app.locale", "en"), catalogue("app.locale", "zh")
    assert list(en) == list(zh)


def test_both_languages_have_the_same_places_with_the_same_units():
    en, zh = catalogue("app.locale", "en"), catalogue("app.locale", "zh")
    different = {key for key in en if places(en[key]) != places(zh[key])}
    assert not different


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_text_is_empty(lang):
    assert all(text.strip() for text in catalogue("app.locale", lang).values())


def test_chinese_is_translated():
    """What reads the same in both languages is a name or a value, never a sentence."""
    en, zh = catalogue("app.locale", "en"), catalogue("app.locale", "zh")
    same = {key for key in en if en[key] == zh[key] and " " in en[key]}
    assert {k for k in same if not k.startswith(("field.", "value."))} == set()


def literal_ids():
    """First arguments of t(...) that are plain strings, over all modules of app/."""
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "t":
                continue
            for part in ast.walk(node.args[0]):
                is_choice = part is node.args[0] or isinstance(node.args[0], ast.IfExp)
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and is_choice:
                    yield path.name, part.value


def test_every_id_in_the_code_exists():
    known = catalogue("app.locale", "en")
    found = list(literal_ids())
    assert len(found) > 50
    assert [(name, key) for name, key in found if key not in known] == []


def test_every_editable_field_has_a_name():
    known = catalogue("app.locale", "en")
    assert [name for name in FIELDS if f"field.{name}" not in known] == []
