"""Formats and compressions of data files by name, and what their first bytes say. Reads disk.

A compressed file is unpacked once under `advisor.home.cache_dir()`; everything else reads the copy.
"""

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

from advisor import row_faults
from advisor.errors import InputError
from advisor.home import cache_dir

Format = Literal["jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow"]
"""arrow: a directory that `save_to_disk` wrote."""

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
DELIMITERS = {"csv": ",", "tsv": "\t"}

_BLANK = b"\xef\xbb\xbf \t\r\n"
_PACKED = (
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"BZh91AY&SY",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"Rar!\x1a\x07",
    b"7z\xbc\xaf",
)
"""First bytes of archives, which `datasets` would unpack whatever the name."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_COPY_BYTES = 2**20
_START_BYTES = 2**20


def split_name(name: str) -> tuple[Format | None, str]:
    """The format that a file's name tells, and its compression's suffix or ""."""
    path = Path(name)
    packed = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    if packed:
        path = path.with_suffix("")
    return SUFFIXES.get(path.suffix.lower()), packed


def unpacking(stream: BinaryIO, packed: str) -> BinaryIO:
    """The content of a compressed stream, to be read from its start to its end."""
    if packed == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if packed == ".bz2":
        return cast("BinaryIO", bz2.BZ2File(stream))
    if packed == ".xz":
        return cast("BinaryIO", lzma.LZMAFile(stream))
    if packed == ".zst":
        import pyarrow as pa

        return cast("BinaryIO", io.BufferedReader(_Raw(pa.CompressedInputStream(stream, "zstd"))))
    return stream


class _Raw(io.RawIOBase):
    """Arrow's stream as one of Python's."""

    def __init__(self, source: "io.RawIOBase") -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        data = self._source.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def reading(file: str | Path, field: str) -> Iterator[None]:
    """What goes wrong while a file is opened or unpacked, as one sentence."""
    try:
        yield
    except _BROKEN as error:
        raise InputError("file_formats.broken", path=file, reason=error, field=field) from error
    except OSError as error:
        # bz2, and Arrow's zstd, say by an OSError without a number that the data are broken
        if error.errno is None:
            raise InputError("file_formats.broken", path=file, reason=error, field=field) from error
        raise InputError(
            "rows.cannot_open", path=file, reason=error.strerror, field=field
        ) from error


def plain_file(file: Path, field: str) -> Path:
    """The file itself, or the unpacked copy of a compressed one.

    Raises:
        InputError: not there, not a file, not readable, or broken inside.
    """
    if not file.exists():
        raise InputError("rows.absent", path=file, field=field)
    if not file.is_file():
        raise InputError("rows.no_file", path=file, field=field)
    _, packed = split_name(file.name)
    if not packed:
        return file
    with reading(file, field):
        stat = file.stat()
        key = json.dumps([str(file.absolute()), stat.st_size, stat.st_mtime_ns])
        folder = cache_dir() / "unpacked" / hashlib.sha256(key.encode()).hexdigest()[:24]
        target = folder / file.name[: -len(packed)]
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as stream, unpacking(stream, packed) as source:
                write_once(target, iter(lambda: source.read(_COPY_BYTES), b""))
    return target


def write_once(target: Path, blocks: Iterator[bytes]) -> None:
    """Write a file that is there whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=".", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            for block in blocks:
                out.write(block)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def format_of(file: Path, field: str, name: str | None = None) -> Format:
    """Of an unpacked file's suffix; what JSON it is, its first character decides.

    Args:
        file: the file.
        field: of the error.
        name: how the file is called in sentences, where it is a copy.

    Raises:
        InputError: another suffix, an empty file, or not UTF-8.
    """
    shown = name or str(file)
    format_ = SUFFIXES.get(file.suffix.lower())
    if format_ is None:
        suffixes = (*SUFFIXES, *(f".jsonl{packed}" for packed in COMPRESSIONS))
        raise InputError("rows.suffix", suffixes=suffixes, name=Path(shown).name, field=field)
    with reading(shown, field), file.open("rb") as stream:
        head = stream.read(10)
        stream.seek(0)
        if format_ == "parquet":
            if not head:
                raise InputError("rows.empty", path=shown, field=field)
            if head[:4] != b"PAR1":
                raise InputError("rows.no_parquet", path=shown, field=field)
            return format_
        if head.startswith(_PACKED):
            raise InputError("file_formats.packed", path=shown, field=field)
        start = _first_line(stream)
    if head[:2] in _UTF16:
        raise InputError("rows.utf16", path=shown, field=field)
    if not start:
        raise InputError("rows.empty", path=shown, field=field)
    if format_ in ("json", "jsonl"):
        return _json_format(file, format_, start.lstrip(_BLANK), shown, field)
    return format_


def _first_line(stream: BinaryIO) -> bytes:
    """The first line that is not blank, of a long one its start; b"" without any."""
    while line := stream.readline(_START_BYTES):
        if line.strip(_BLANK):
            return line
    return b""


def _json_format(file: Path, format_: Format, start: bytes, shown: str, field: str) -> Format:
    if start.startswith(b"["):
        return "json"
    if format_ == "json" and len(start) < _START_BYTES and not _is_json(start):
        fault = row_faults.find_json_fault(file)
        if fault is not None:
            raise InputError("row_faults.fault", fault=fault, field=field)
        raise InputError("rows.one_object", path=shown, field=field)
    return "jsonl"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
