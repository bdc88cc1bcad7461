"""The fault and the security table: tests that pass record a row, the end of the session prints it.

Rows travel in `user_properties`, which reach the reporting process from any worker.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

TABLES = {
    "faults": ("fault", "what was done", "what is said", "lost"),
    "security": ("attack", "what was done", "what happens"),
}


@pytest.fixture
def table_row(record_property) -> Callable[..., None]:
    """Adds a row to a table of TABLES, if the test passes; cells in the order of its columns."""

    def add(table: str, *cells: str) -> None:
        assert len(cells) == len(TABLES[table])
        record_property(f"table:{table}", [" ".join(str(cell).split()) for cell in cells])

    return add


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-tables",
        type=Path,
        metavar="FILE",
        help="replace the fault and security tables between the marks of this Markdown file",
    )


def pytest_terminal_summary(terminalreporter) -> None:
    if "not full" in terminalreporter.config.getoption("markexpr"):
        return  # the tables would be a sample
    found = _rows(terminalreporter.stats.get("passed", []))
    for table, rows in found.items():
        terminalreporter.section(f"{table}: {len(rows)} rows")
        terminalreporter.write_line(markdown(table, rows))
    path = terminalreporter.config.getoption("--write-tables")
    if path is not None:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for table, rows in found.items():
            text = splice(text, table, markdown(table, rows))
        path.write_text(text, encoding="utf-8")


def _rows(reports) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for report in reports:
        for name, cells in report.user_properties:
            if name.startswith("table:"):
                rows = found.setdefault(name.removeprefix("table:"), [])
                if cells not in rows:  # the cases of one test may say the same
                    rows.append(list(cells))
    return {table: sorted(found[table]) for table in TABLES if table in found}


def markdown(table: str, rows: list[list[str]]) -> str:
    """A Markdown table."""
    columns = TABLES[table]
    lines = [columns, ["---"] * len(columns), *rows]
    escaped = ([cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def splice(text: str, table: str, new: str) -> str:
    """The text with the block of a table replaced; one without its marks gets them at the end."""
    start, end = f"<!-- {table}: start -->", f"<!-- {table}: end -->"
    if start not in text:
        text = f"{text.rstrip()}\n\n{start}\n{end}\n".lstrip()
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{new}\n{end}{after}"
