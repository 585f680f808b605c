"""What `make faults-hive` makes of pytest's report."""

import json

import pytest

from tests.faults.__main__ import judge, line, main, parse
from tests.faults.rows import Row

CASE = '<testcase file="t/a.py" name="{}">{}</testcase>'
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
    """The line of JSON has the name of the run, both counts and every row."""
    said = json.loads(line({"R1": "passed", "C1": "failed"}, seconds=1.4))
    assert said == {
        "bench": "faults-hive",
        "passed": 1,
        "failed": 1,
        "seconds": 1,
        "rows": {"R1": "passed", "C1": "failed"},
    }


def test_help_is_a_usage_line_and_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` runs nothing; it names what can be run."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m tests.faults [-h] [ROW")
    assert "R1, R2" in said
