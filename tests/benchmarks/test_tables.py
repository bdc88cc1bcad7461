"""The error table's arithmetic, on numbers that can be checked by hand."""

import pytest
import tables
from tables import Answer, Row


def _row(want, got, interval=None, **more):
    intervals = {"allocated_bytes": interval} if interval else {}
    ours = Answer(values={"allocated_bytes": got}, intervals=intervals)
    measured = {"allocated_bytes": want} | more.pop("measured", {})
    return Row(source="s", method="full", measured=measured, answers={"advisor": ours} | more)


def test_errors_are_signed_percent_of_the_measurement_and_null_is_left_out():
    rows = [_row(100, 110, (90, 120)), _row(200, 190, (195, 210)), _row(None, 5), _row(50, None)]
    found = tables.measure(rows, "advisor", "allocated_bytes")
    assert found.asked == 3
    assert found.errors == pytest.approx((10, -5))
    assert found.held == 2
    assert found.widths == pytest.approx((100 * 30 / 110, 100 * 15 / 190))


def test_p95_of_twenty_is_the_nineteenth_and_of_one_the_only():
    assert tables.percentile(range(1, 21), 95) == 19
    assert tables.percentile([7.0], 95) == 7.0


def test_times_are_a_table_of_their_own_with_a_line_over_all_rows():
    ours = Answer(values={tables.TIME: 11.0}, intervals={tables.TIME: (9, 12)})
    outside = Answer(values={tables.TIME: 12.0})
    rows = [
        Row(
            source="a",
            method="full",
            measured={tables.TIME: want},
            answers={"advisor": ours, tables.LEFT_OUT: outside},
        )
        for want in (10.0, 20.0)
    ]
    lines = tables.times([*rows, _row(1, 1)]).splitlines()
    assert len(lines) == 4
    assert lines[2] == (
        "| a | full | 2 of 2 | **27.5 %** | 45.0 % | -45.0 % | 1 of 2 | 27 % | 30.0 % | 40.0 % |"
    )
    assert lines[3].startswith("| all |  | 2 of 2 |")
    assert "time" not in tables.table(rows, [])


def test_tight_counts_as_fits_and_unknown_as_not_answered():
    def row(measured, said):
        return Row(
            source="s",
            method="full",
            measured={"verdict": measured},
            answers={"advisor": Answer(verdict=said)},
        )

    rows = [row("fits", "tight"), row("oom", "does_not_fit"), row("does_not_fit", "tight")]
    rows += [row("fits", "unknown"), row(None, "fits")]
    assert tables.verdicts(rows, "advisor") == (2, 3, 4)


def test_method_names_the_quantisation():
    assert tables.method_of({"method": "full", "quantization": None}) == "full"
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    assert tables.method_of({"method": "qlora", "quantization": nf4}) == "qlora nf4 double"
    int8 = {"method": "qlora", "quantization": {"load_in_8bit": True}}
    assert tables.method_of(int8) == "qlora int8"


def test_one_line_for_each_figure_and_one_for_verdicts():
    other = Answer(values={"allocated_bytes": 90}, verdict="does_not_fit")
    rows = [_row(100, 101, (99, 103), rule=other, measured={"verdict": "fits"}), _row(100, 99)]
    lines = tables.table(rows, ["rule"]).splitlines()
    assert lines[2] == (
        "| s | full | allocated | 2 of 2 | **1.00 %** | 1.00 % | -1.00 % | +1.00 % | 1 of 1 "
        "| 4.0 % | 10.0 % (-10.0 %), 1 answered |"
    )
    assert lines[3].startswith("| s | full | verdict | 0 of 1 | no answer |")
    assert lines[3].endswith("| 0 of 1 right |")
    assert len({line.count("|") for line in lines}) == 1


def test_splice_replaces_only_what_is_between_the_markers():
    text = f"a\n{tables.MARKERS[0]}\nold\n{tables.MARKERS[1]}\nb\n"
    assert tables.splice(text, "new") == f"a\n{tables.MARKERS[0]}\nnew\n{tables.MARKERS[1]}\nb\n"
    with pytest.raises(ValueError, match="needs the lines"):
        tables.splice("no markers", "new")
