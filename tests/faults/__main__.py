"""`make faults-PART`: run every row of a part's table at full length, and print what held and what did not."""

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

from tests.faults.rows import PARTS, ROOT, Row, read

Figures = dict[str, dict[str, str]]
"""What tests recorded, by row and name; of a test with parameters the last word counts."""


def main(argv: list[str]) -> int:
    """Return the exit status: 0 when every row passed."""
    options = _parser().parse_args(argv)
    rows = read(options.part)
    unknown = [name for name in options.rows if name not in rows]
    if unknown:
        sys.stderr.write(f"faults-{options.part}: there is no row {', '.join(unknown)}; known: {', '.join(rows)}\n")
        return 2
    chosen = [rows[name] for name in options.rows or rows]
    begun = time.monotonic()
    try:
        report = run(sorted({node for row in chosen for node in row.full}))
    except KeyboardInterrupt:
        sys.stderr.write(f"\nfaults-{options.part}: interrupted; name rows to run only those: {', '.join(rows)}\n")
        return 130
    verdicts, seen = judge(chosen, parse(report)), figures(chosen, report)
    print(table(chosen, verdicts, seen))
    print(line(options.part, verdicts, seen, seconds=time.monotonic() - begun))
    return 0 if set(verdicts.values()) == {"passed"} else 1


def run(nodes: Iterable[str]) -> str:
    """Run pytest once over these nodes; return its report in XML."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-o", "junit_family=xunit1", *nodes]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"RBEE_FAULTS": "full"}, check=False)
        return report.read_text() if report.exists() else "<testsuites/>"


def parse(report: str) -> dict[str, str]:
    """Return outcomes from pytest's XML; of a test with parameters the worst counts."""
    found: dict[str, str] = {}
    for case in ET.fromstring(report).iter("testcase"):
        node = _node(case)
        bad = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
        found[node] = "failed" if "failed" in (found.get(node), _word(bad)) else _word(bad)
    return found


def judge(rows: Iterable[Row], found: Mapping[str, str]) -> dict[str, str]:
    """Return the verdict by row: passed only if every test of it ran and passed."""
    return {
        row.id: "passed" if all(found.get(_flat(node)) == "passed" for node in row.full) else "failed" for row in rows
    }


def figures(rows: Iterable[Row], report: str) -> Figures:
    """Return what the tests of each row recorded with `record_property`."""
    found: dict[str, dict[str, str]] = {}
    for case in ET.fromstring(report).iter("testcase"):
        said = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        found.setdefault(_node(case), {}).update(said)
    seen = {row.id: dict(pair for node in row.full for pair in found.get(_flat(node), {}).items()) for row in rows}
    return {name: said for name, said in seen.items() if said}


def table(rows: Iterable[Row], verdicts: Mapping[str, str], seen: Mapping[str, Mapping[str, str]]) -> str:
    """Return one line per row for a person, and one more for its figures."""
    chosen = list(rows)
    width = max((len(row.id) for row in chosen), default=0)
    lines = [(f"{row.id:<{width}} {verdicts[row.id]:<7} {row.promise}", seen.get(row.id, {})) for row in chosen]
    return "\n".join(part for line, said in lines for part in (line, *_indented(said, width)))


def line(part: str, verdicts: Mapping[str, str], seen: Mapping[str, Mapping[str, str]], *, seconds: float) -> str:
    """Return the result as one line of JSON."""
    passed = sum(verdict == "passed" for verdict in verdicts.values())
    counts = {"passed": passed, "failed": len(verdicts) - passed, "seconds": round(seconds)}
    return json.dumps({"bench": f"faults-{part}", **counts, "rows": dict(verdicts), "figures": seen})


def _indented(said: Mapping[str, str], width: int) -> Iterable[str]:
    if said:
        yield f"{'':<{width + 9}}{', '.join(f'{name} {value}' for name, value in said.items())}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("part", choices=PARTS, help="whose table")
    known = "; ".join(f"{part}: {', '.join(read(part))}" for part in PARTS)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows to run (default: all): {known}")
    return parser


def _node(case: ET.Element) -> str:
    return f"{case.get('file', '')}::{case.get('name', '').partition('[')[0]}"


def _word(tag: str) -> str:
    return tag if tag == "passed" else "failed"


def _flat(node: str) -> str:
    """Return a node id without the class that a test may be in; XML names the file and the function."""
    path, _, rest = node.partition("::")
    return f"{path}::{rest.rpartition('::')[2]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
