"""`python -m rbee_runtime.devices`: what the probes see on this host, as a table, JSON or a recording."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rbee_runtime import devices
from rbee_runtime.command_line import Parser
from rbee_runtime.config import DeviceSettings
from rbee_runtime.devices import recorded
from rbee_runtime.errors import ConfigError
from rbee_runtime.protocol import DeviceReport, to_builtins

_GIB = 1024**3
_HEADINGS = ("ID", "KIND", "NAME", "TOTAL", "USED", "FOREIGN", "STATE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        options = _parser().parse_args(arguments)
        if options.command == "record":
            return _record(options.out)
        scan = asyncio.run(devices.build(DeviceSettings(recorded=options.recorded)).scan())
    except (ConfigError, OSError) as error:
        _say(f"devices: {error}", to=sys.stderr)
        return 2
    if options.json:
        problems = [{"kind": kind, "detail": said} for kind, said in scan.problems]
        _say(json.dumps({"devices": [to_builtins(each) for each in scan.devices], "problems": problems}, indent=2))
    else:
        _say("\n".join([*table(scan.devices), *(f"{kind}: {said}" for kind, said in scan.problems)]))
    return 0


def table(reports: Sequence[DeviceReport]) -> list[str]:
    """Return lines of aligned columns, each device followed by its attributes."""
    rows = [_HEADINGS, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    said = ["  " + "  ".join(f"{key}={value}" for key, value in report.attributes.items()) for report in reports]
    return [lines[0], *(line for pair in zip(lines[1:], said, strict=True) for line in pair)]


def _row(report: DeviceReport) -> tuple[str, ...]:
    sizes = (f"{size / _GIB:.1f} GiB" for size in (report.total, report.used, report.foreign))
    return (report.id, report.kind, report.name, *sizes, "healthy" if report.healthy else report.detail)


def _record(out: Path | None) -> int:
    text = json.dumps(recorded.capture(), indent=1, sort_keys=True)
    if out is None:
        _say(text)
    else:
        out.write_text(text + "\n")
        _say(f"recorded in {out}", to=sys.stderr)
    return 0


def _say(text: str, *, to: TextIO | None = None) -> None:
    (to or sys.stdout).write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m rbee_runtime.devices", description="Show what the hive sees.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--recorded", type=Path, metavar="FILE", help="of a recording instead of this host")
    commands = parser.add_subparsers(dest="command")
    record = commands.add_parser("record", help="write this host's raw readings")
    record.add_argument("--out", type=Path, metavar="FILE", help="instead of the terminal")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
