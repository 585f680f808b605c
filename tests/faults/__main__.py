"""`make faults-hive`: run every row of the table at full length, and print what held and what did not."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.faults.rows import ROOT, Row, read


def main(argv: list[str]) -> int:
    """Return the exit status: 0 when every row passed."""
    rows = read()
    names = _parser(rows).parse_args(argv).rows
    unknown = [name for name in names if name not in rows]
    if unknown:
        sys.stderr.write(f"faults-hive: there is no row {', '.join(unknown)}; known: {', '.join(rows)}\n")
        return 2
    chosen = [rows[name] for name in names or rows]
    begun = time.monotonic()
    verdicts = judge(chosen, outcomes(sorted({node for row in chosen for node in row.full})))
    print(table(chosen, verdicts))
    print(line(verdicts, seconds=time.monotonic() - begun))
    return 0 if set(verdicts.values()) == {"passed"} else 1


def outcomes(nodes: Iterable[str]) -> dict[str, str]:
    """Run pytest once over these nodes; return the outcome by node without its parameters."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-o", "junit_family=xunit1", *nodes]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"RBEE_FAULTS": "full"}, check=False)
        return parse(report.read_text()) if report.exists() else {}


def parse(report: str) -> dict[str, str]:
    """Return outcomes from pytest's XML; of a test with parameters the worst counts."""
    found: dict[str, str] = {}
    for case in ET.fromstring(report).iter("testcase"):
        function = case.get("name", "").partition("[")[0]
        node = f"{case.get('file', '')}::{function}"
        bad = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
        found[node] = "failed" if "failed" in (found.get(node), _word(bad)) else _word(bad)
    return found


def judge(rows: Iterable[Row], found: Mapping[str, str]) -> dict[str, str]:
    """Return the verdict by row: passed only if every test of it ran and passed."""
    return {
        row.id: "passed" if all(found.get(_flat(node)) == "passed" for node in row.full) else "failed" for row in rows
    }


def table(rows: Iterable[Row], verdicts: Mapping[str, str]) -> str:
    """Return one line per row for a person."""
    return "\n".join(f"{row.id:<3} {verdicts[row.id]:<7} {row.promise}" for row in rows)


def line(verdicts: Mapping[str, str], *, seconds: float) -> str:
    """Return the result as one line of JSON."""
    passed = sum(verdict == "passed" for verdict in verdicts.values())
    counts = {"passed": passed, "failed": len(verdicts) - passed, "seconds": round(seconds)}
    return json.dumps({"bench": "faults-hive", **counts, "rows": dict(verdicts)})


def _parser(rows: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows to run (default: all): {', '.join(rows)}")
    return parser


def _word(tag: str) -> str:
    return tag if tag == "passed" else "failed"


def _flat(node: str) -> str:
    """Return a node id without the class that a test may be in; XML names the file and the function."""
    path, _, rest = node.partition("::")
    return f"{path}::{rest.rpartition('::')[2]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
