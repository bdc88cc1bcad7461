"""Finds the line of a data file that the reader stumbled on. Reads the file again; light."""

import csv
import json
import sys
from pathlib import Path

from advisor.errors import InputError, words
from advisor.locale import Message


def find_fault(file: Path, format_: str, name: str | Path | None = None) -> Message | None:
    """The line at fault in words, or None when every line is well-formed.

    Args:
        file: the data file.
        format_: jsonl, json, csv, tsv, txt or parquet.
        name: how the file is called in words, where it is a copy.
    """
    name = name or file
    try:
        match format_:
            case "jsonl":
                return _find_jsonl_fault(file, name)
            case "json":
                return find_json_fault(file, name)
            case "csv" | "tsv":
                return _find_csv_fault(file, name, "," if format_ == "csv" else "\t")
            case "txt":
                return _find_encoding_fault(file, name)
    except OSError as error:
        return words("row_faults.unreadable", path=name, reason=error.strerror or error)
    except RecursionError:
        return words("row_faults.deep", path=name)
    return None


def as_input_error(
    name: str | Path, format_: str, fault: Message | None, error: BaseException
) -> InputError:
    """The error for a file that could not be read: its fault, else the words of the reader."""
    if fault is not None:
        return InputError("row_faults.fault", fault=fault, field="data")
    reason = root_cause(error)
    return InputError("row_faults.reader", path=name, format=format_, reason=reason, field="data")


def root_cause(error: BaseException) -> str:
    """The words of the first error in a chain, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    words_ = " ".join(str(error).split()).rstrip(".")
    return (words_ if len(words_) <= 300 else f"{words_[:297]}...") or type(error).__name__


def find_json_fault(file: Path, name: str | Path | None = None) -> Message | None:
    """What is wrong with a file that should be one JSON value."""
    name = name or file
    fault = _find_encoding_fault(file, name)
    if fault:
        return fault
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        return words("row_faults.not_json", path=name, line=error.lineno, reason=error.msg)
    except ValueError as error:  # a number of more digits than Python reads
        return words("row_faults.value", path=name, reason=error)
    except RecursionError:
        return words("row_faults.deep", path=name)
    if isinstance(rows, list):
        for number, row in enumerate(rows, 1):
            if not isinstance(row, type(rows[0])) or not isinstance(row, (dict, str)):
                wanted = words("words.text") if isinstance(rows[0], str) else words("words.object")
                return words(
                    "row_faults.item", path=name, number=number, wanted=wanted, got=_kind(row)
                )
    return None


def _find_encoding_fault(file: Path, name: str | Path) -> Message | None:
    offset = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_utf8(name, number, offset, error)
            offset += len(line)
    return None


def _not_utf8(name: str | Path, number: int, offset: int, error: UnicodeDecodeError) -> Message:
    byte = f"0x{error.object[error.start]:02x}"
    at = offset + error.start
    return words("row_faults.not_utf8", path=name, line=number, byte=byte, offset=at)


def _find_jsonl_fault(file: Path, name: str | Path) -> Message | None:
    offset = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            # what a byte order mark takes is no part of a line, but of the offset
            skipped = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
            try:
                text = line[skipped:].decode("utf-8").strip()
                row = json.loads(text) if text else {}
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeDecodeError as error:
                return _not_utf8(name, number, offset + skipped, error)
            except UnicodeEncodeError:
                return words("row_faults.surrogate", path=name, line=number)
            except json.JSONDecodeError as error:
                return words(
                    "row_faults.line_not_json",
                    path=name,
                    line=number,
                    reason=error.msg,
                    column=error.colno,
                )
            except (ValueError, RecursionError) as error:
                return words("row_faults.line_value", path=name, line=number, reason=error)
            if not isinstance(row, dict):
                return words("row_faults.line_no_object", path=name, line=number, got=_kind(row))
            offset += len(line)
    return None


def _find_csv_fault(file: Path, name: str | Path, delimiter: str) -> Message | None:
    fault = _find_encoding_fault(file, name)
    if fault:
        return fault
    limit = csv.field_size_limit(sys.maxsize)
    start = 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True, delimiter=delimiter)
            header = next(reader, [])
            start = reader.line_num + 1
            num_rows = 0
            for fields in reader:
                if len(fields) > len(header):
                    return words(
                        "row_faults.fields",
                        path=name,
                        line=start,
                        fields=len(fields),
                        header=len(header),
                    )
                num_rows += bool(fields)
                start = reader.line_num + 1
    except csv.Error as error:
        return words("row_faults.not_csv", path=name, line=start, reason=error)
    finally:
        csv.field_size_limit(limit)
    return None if num_rows else words("row_faults.only_header", path=name)


def short_rows(file: Path, delimiter: str) -> tuple[int, int, int] | None:
    """How many rows of a readable CSV have fewer fields than its header, of how many, and a line.

    None without any; the line is where the first begins.
    """
    limit = csv.field_size_limit(sys.maxsize)
    count = rows = first = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            header = next(reader, [])
            start = reader.line_num + 1
            for fields in reader:
                rows += bool(fields)
                if 0 < len(fields) < len(header):
                    count += 1
                    first = first or start
                start = reader.line_num + 1
    except (csv.Error, UnicodeDecodeError):
        return None
    finally:
        csv.field_size_limit(limit)
    return (count, rows, first) if count else None


def _kind(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
