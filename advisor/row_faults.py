"""Finds the line of a data file that the reader stumbled on. Reads the file again; light."""

import csv
import json
import sys
from pathlib import Path

from advisor.errors import InputError


def find_fault(file: Path, format_: str) -> str | None:
    """The line at fault in words, or None when every line is well-formed.

    Args:
        file: the data file.
        format_: jsonl, json, csv or txt.
    """
    find = {
        "jsonl": _find_jsonl_fault,
        "json": find_json_fault,
        "csv": _find_csv_fault,
        "txt": _find_encoding_fault,
    }[format_]
    try:
        return find(file)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror or error}; check its permissions."


def as_input_error(file: Path, format_: str, fault: str | None, error: BaseException) -> InputError:
    """The error for a file that could not be read: its fault, else the words of the reader."""
    words = f"{file} cannot be read as {format_}: {root_cause(error)}; correct it."
    return InputError(fault or words, field="data")


def root_cause(error: BaseException) -> str:
    """The words of the first error in a chain, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def find_json_fault(file: Path) -> str | None:
    """What is wrong with a file that should be one JSON value."""
    fault = _find_encoding_fault(file)
    if fault:
        return fault
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        return f"{file}, line {error.lineno}: not valid JSON ({error.msg}); correct the file."
    if isinstance(rows, list):
        for number, row in enumerate(rows, 1):
            if not isinstance(row, type(rows[0])) or not isinstance(row, (dict, str)):
                return (
                    f"{file}, item {number} of the array: expected "
                    f"{'text' if isinstance(rows[0], str) else 'a JSON object'}, got "
                    f"{_kind(row)}; make every item an object."
                )
    return None


def _find_encoding_fault(file: Path) -> str | None:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_utf8(file, number, error)
    return None


def _not_utf8(file: Path, number: int, error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"{file}, line {number}: the byte 0x{byte:02x} is not UTF-8; save the file as UTF-8."


def _find_jsonl_fault(file: Path) -> str | None:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text) if text else {}
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeDecodeError as error:
                return _not_utf8(file, number, error)
            except UnicodeEncodeError:
                return (
                    f"{file}, line {number}: a \\ud800 to \\udfff escape stands alone, which is no "
                    "character; correct or remove the line."
                )
            except json.JSONDecodeError as error:
                return (
                    f"{file}, line {number}: not valid JSON ({error.msg}, column {error.colno}); "
                    "correct or remove the line."
                )
            if not isinstance(row, dict):
                return (
                    f"{file}, line {number}: expected a JSON object, got {_kind(row)}; "
                    "put one object on each line."
                )
    return None


def _find_csv_fault(file: Path) -> str | None:
    fault = _find_encoding_fault(file)
    if fault:
        return fault
    limit = csv.field_size_limit(sys.maxsize)
    start = 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            start = reader.line_num + 1
            num_rows = 0
            for fields in reader:
                if len(fields) > len(header):
                    return (
                        f"{file}, line {start}: {len(fields)} fields where the header has "
                        f"{len(header)}; quote fields that hold commas."
                    )
                num_rows += bool(fields)
                start = reader.line_num + 1
    except csv.Error as error:
        return (
            f"{file}, line {start}: not valid CSV ({error}); close and double the quotes in fields."
        )
    finally:
        csv.field_size_limit(limit)
    return None if num_rows else f"{file} holds a header and no rows; give a file with rows."


def _kind(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
