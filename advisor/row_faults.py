"""Finds the line of a data file that the reader stumbled on. Reads the file again; light."""

import csv
import json
import sys
from pathlib import Path

from advisor.errors import InputError, words
from advisor.locale import Message


def find_fault(file: Path, format_: str) -> Message | None:
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
        return words("row_faults.unreadable", path=file, reason=error.strerror or error)


def as_input_error(
    file: Path, format_: str, fault: Message | None, error: BaseException
) -> InputError:
    """The error for a file that could not be read: its fault, else the words of the reader."""
    if fault is not None:
        return InputError("row_faults.fault", fault=fault, field="data")
    reason = root_cause(error)
    return InputError("row_faults.reader", path=file, format=format_, reason=reason, field="data")


def root_cause(error: BaseException) -> str:
    """The words of the first error in a chain, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def find_json_fault(file: Path) -> Message | None:
    """What is wrong with a file that should be one JSON value."""
    fault = _find_encoding_fault(file)
    if fault:
        return fault
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        return words("row_faults.not_json", path=file, line=error.lineno, reason=error.msg)
    if isinstance(rows, list):
        for number, row in enumerate(rows, 1):
            if not isinstance(row, type(rows[0])) or not isinstance(row, (dict, str)):
                wanted = words("words.text") if isinstance(rows[0], str) else words("words.object")
                return words(
                    "row_faults.item", path=file, number=number, wanted=wanted, got=_kind(row)
                )
    return None


def _find_encoding_fault(file: Path) -> Message | None:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_utf8(file, number, error)
    return None


def _not_utf8(file: Path, number: int, error: UnicodeDecodeError) -> Message:
    byte = f"0x{error.object[error.start]:02x}"
    return words("row_faults.not_utf8", path=file, line=number, byte=byte)


def _find_jsonl_fault(file: Path) -> Message | None:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text) if text else {}
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeDecodeError as error:
                return _not_utf8(file, number, error)
            except UnicodeEncodeError:
                return words("row_faults.surrogate", path=file, line=number)
            except json.JSONDecodeError as error:
                return words(
                    "row_faults.line_not_json",
                    path=file,
                    line=number,
                    reason=error.msg,
                    column=error.colno,
                )
            if not isinstance(row, dict):
                return words("row_faults.line_no_object", path=file, line=number, got=_kind(row))
    return None


def _find_csv_fault(file: Path) -> Message | None:
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
                    return words(
                        "row_faults.fields",
                        path=file,
                        line=start,
                        fields=len(fields),
                        header=len(header),
                    )
                num_rows += bool(fields)
                start = reader.line_num + 1
    except csv.Error as error:
        return words("row_faults.not_csv", path=file, line=start, reason=error)
    finally:
        csv.field_size_limit(limit)
    return None if num_rows else words("row_faults.only_header", path=file)


def _kind(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
