"""What `make faults-hive` and its like make of pytest's report."""

import json

import pytest

from tests.faults.__main__ import figures, judge, line, main, parse, table
from tests.faults.rows import Row

CASE = '<testcase file="t/a.py" name="{}">{}</testcase>'
MEASURED = '<properties><property name="seconds" value="2.1"/></properties>'
ROW = Row("R1", "It holds.", ("t/a.py::one", "t/a.py::Class::two"), ())


def report(**cases: str) -> str:
    return f"<testsuites>{''.join(CASE.format(name, inside) for name, inside in cases.items())}</testsuites>"


@pytest.mark.parametrize(
    ("cases", "verdict"),
    [
        ({"one": "", "two": ""}, "passed"),
        ({"one": "", "two": "<failure/>"}, "failed"),
        ({"one": "", "two": "<error/>"}, "failed"),
        ({"one": "", "two": "<skipped/>"}, "failed"),
        ({"one": ""}, "failed"),
        ({"one[a]": "<failure/>", "one[b]": "", "two": ""}, "failed"),
        ({"one[a]": "", "one[b]": "", "two[c]": ""}, "passed"),
    ],
    ids=["all", "one failed", "one broke", "one skipped", "one did not run", "one of several", "several"],
)
def test_a_row_passes_when_all_its_tests_ran_and_passed(cases: dict[str, str], verdict: str) -> None:
    """What was skipped or never ran counts as failed."""
    assert judge([ROW], parse(report(**cases))) == {"R1": verdict}


def test_the_last_line_counts_the_rows() -> None:
    """The line of JSON has the name of the run, both counts, every row and what was measured."""
    seen = {"R1": {"seconds": "2.1"}}
    said = json.loads(line("deploy", {"R1": "passed", "C1": "failed"}, seen, seconds=1.4))
    assert said == {
        "bench": "faults-deploy",
        "passed": 1,
        "failed": 1,
        "seconds": 1,
        "rows": {"R1": "passed", "C1": "failed"},
        "figures": seen,
    }


def test_what_tests_recorded_stands_below_their_row() -> None:
    """A property that any test of the row recorded is among its figures, and has a line in the table."""
    seen = figures([ROW], report(**{"one[a]": MEASURED, "two": ""}))
    assert seen == {"R1": {"seconds": "2.1"}}
    assert table([ROW], {"R1": "passed"}, seen).split("\n")[1].strip() == "seconds 2.1"


def test_help_is_a_usage_line_and_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` runs nothing; it names what can be run."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    # Where lines are broken depends on the names of all rows.
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("usage: python -m tests.faults [-h]")
    assert "R1, R2" in said
    assert "S6" in said
