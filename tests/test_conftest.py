"""The tables that tests make of themselves."""

from pathlib import Path

pytest_plugins = ["pytester"]


def test_rows_of_passed_tests_become_tables_that_a_file_carries(pytester):
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(
        """
        def test_good(table_row):
            table_row("security", "a | b", "done", "<i>\\nrefused")
            table_row("faults", "f", "d", "s", "l")

        def test_bad(table_row):
            table_row("security", "never shown", "x", "y")
            assert False
        """
    )
    carried = pytester.path / "carried.md"
    carried.write_text("a\n<!-- security: start -->\nold\n<!-- security: end -->\nb\n")
    done = pytester.runpytest_subprocess("-q", "--write-tables", carried)
    assert "| a \\| b | done | &lt;i> refused |" in done.outlines
    text = carried.read_text()
    assert "old" not in text
    assert "never shown" not in text
    assert text.startswith("a\n<!-- security: start -->\n| attack |")
    assert "\nb\n\n<!-- faults: start -->" in text
