"""The built-in demo: a small model and a data file, written once under home; stdlib only.

The model is a config and a byte tokenizer without weights: a run starts from random ones.
The data are functions and classes of the Python standard library that runs this program, so the
demo needs no download and is real text with a real distribution of lengths.
"""

import ast
import hashlib
import json
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advisor import home as home_module
from advisor.errors import InputError

NAME = "demo"
"""What a user writes instead of a path."""
_VERSION = 1
"""Part of the folder's name: raise it whenever a byte of the files below changes."""

_PAD, _EOS = "<pad>", "<eos>"
_VOCAB_SIZE = 256 + 2

_NUM_ROWS = 1500
_MIN_ROWS = 200
"""Fewer rows than this make no run worth showing (a Python with hardly any sources)."""
_ROW_BYTES = (64, 900)
_LONG_ROW_BYTES = 1000
_LONG_ROW_SHARE = 0.03
_SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages")
)


@dataclass(frozen=True, kw_only=True)
class DemoPaths:
    """Where the demo lies on this disk."""

    model: Path
    """Directory with config.json and a byte tokenizer, no weights."""
    data: Path
    """JSON Lines file of {"text": ...}."""


def materialise(home: Path | None = None) -> DemoPaths:
    """Write the demo's files unless they are there; safe when two processes do it at once.

    Args:
        home: the program's directory; `advisor.home.home()` by default.

    Raises:
        InputError: this Python has no standard library sources to make the data from.
    """
    root = (home or home_module.home()) / "demo"
    folder = root / f"v{_VERSION}"
    if not _is_complete(folder):
        root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".v{_VERSION}-", dir=root))
        try:
            for name, text in _files().items():
                path = building / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            _put_in_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return DemoPaths(model=folder / "model", data=folder / "demo.jsonl")


def resolve(path: str, kind: Literal["model", "data"]) -> Path:
    """The path a user means: "demo" is the demo's model or data file, anything else a path.

    A file or folder of one's own that is called demo is written "./demo".
    """
    if path == NAME:
        return getattr(materialise(), kind)
    return Path(path).expanduser()


def is_demo(path: Path) -> bool:
    """Whether `path` is the demo's model directory or data file (of the home in use)."""
    folder = home_module.home() / "demo" / f"v{_VERSION}"
    return path in (folder / "model", folder / "demo.jsonl")


_FILES = ("model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "demo.jsonl")


def _files() -> dict[str, str]:
    rows = (json.dumps({"text": text}, ensure_ascii=False) for text in _select_rows())
    contents = (
        _pretty(_config()),
        _pretty(_tokenizer()),
        _pretty(_tokenizer_config()),
        "".join(f"{row}\n" for row in rows),
    )
    return dict(zip(_FILES, contents, strict=True))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _put_in_place(building: Path, folder: Path) -> None:
    """Rename the finished folder; where one is there already, add the files it lacks."""
    try:
        building.replace(folder)
    except OSError:
        if not folder.is_dir():
            raise
        for name in _FILES:
            if not (folder / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                (building / name).replace(folder / name)


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-05,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pad_token_id": 256,
        "bos_token_id": None,
        "eos_token_id": 257,
        "use_cache": True,
        "dtype": "float32",
    }


def _byte_symbols() -> list[str]:
    """The printable character that byte-level BPE writes for each byte value (GPT-2's table)."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) if byte in kept else chr(256 + moved.index(byte)) for byte in range(256)]


def _tokenizer() -> dict[str, Any]:
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    special = [
        {
            "id": 256 + i,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, content in enumerate((_PAD, _EOS))
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {symbol: byte for byte, symbol in enumerate(_byte_symbols())},
            "merges": [],
        },
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _PAD,
        "eos_token": _EOS,
        "model_max_length": 1024,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }


def _select_rows() -> list[str]:
    """Rows in an order that depends on the sources alone, from modules all over the library."""
    rows: list[str] = []
    seen: set[str] = set()
    num_long = 0
    stdlib = Path(sysconfig.get_path("stdlib"))
    for source in _sources(stdlib):
        for text in _definitions(source):
            num_bytes = len(text.encode())
            if num_bytes < _ROW_BYTES[0] or num_bytes > _LONG_ROW_BYTES or text in seen:
                continue
            if num_bytes > _ROW_BYTES[1]:
                if num_long >= _LONG_ROW_SHARE * _NUM_ROWS:
                    continue
                num_long += 1
            seen.add(text)
            rows.append(text)
        if len(rows) >= _NUM_ROWS:
            return rows[:_NUM_ROWS]
    if len(rows) < _MIN_ROWS:
        raise InputError("demo.few_sources", path=stdlib, found=len(rows), needed=_MIN_ROWS)
    return rows


def _sources(stdlib: Path) -> Iterator[str]:
    """Texts of the library's modules, in the order of their names' hashes."""
    if not stdlib.is_dir():
        return
    names = [
        path.relative_to(stdlib)
        for path in stdlib.rglob("*.py")
        if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(stdlib).parts)
    ]
    for name in sorted(names, key=lambda n: hashlib.sha256(n.as_posix().encode()).digest()):
        try:
            yield (stdlib / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # one unreadable module is no reason to have no demo


def _definitions(source: str) -> Iterator[str]:
    """Top-level functions and classes with their decorators, as written."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return  # templates and modules of another Python version lie among the sources
    lines = source.split("\n")  # as ast counts them: splitlines also splits at form feeds
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield "\n".join(lines[first - 1 : node.end_lineno]).rstrip()
