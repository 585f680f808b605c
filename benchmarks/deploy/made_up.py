"""An inventory of made-up hosts that become what they should be when they are activated; all else just succeeds.

pyinfra executes this file. `RBEE_BENCH_FLEET` names a file of JSON: `secrets`, the number of `hosts`, `delay` in
seconds per command, and `answers`: for each host what it says of itself `before` and `after`.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from rbee_deploy.inventory import fleet, host

QUESTION = "echo @machine"
"""Stands in the one fact's script and in no other command."""

_ACTIVATION = ("activator activate", "systemctl restart")
"""A part of the command after which a host is as it should be."""

_FOLLOWED = "activator workers"
_NO_WORKERS = '{"problem": "", "workers": 0}'
"""What the queen says who is asked whether workers were replaced."""

CLOCK = "clock_unix="


def answer(connector: Any, command: str) -> tuple[bool, CommandOutput]:
    """Answer a question with the state of the moment."""
    if QUESTION not in command:
        if any(part in command for part in _ACTIVATION):
            _done.add(connector.host.name)
        return True, CommandOutput([OutputLine("stdout", _NO_WORKERS)] if _FOLLOWED in command else [])
    known = _wanted["answers"][connector.host.name]
    lines: list[str] = known["after" if connector.host.name in _done else "before"]
    return True, CommandOutput([OutputLine("stdout", line) for line in _at_this_moment(lines)])


def _at_this_moment(lines: list[str]) -> Iterator[str]:
    return (f"{CLOCK}{time.time():.0f}" if line.startswith(CLOCK) else line for line in lines)


def _made_up(entry: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the same host behind the fake connector."""
    name, data = entry
    return f"@fake/{name}", {"rbee": data["rbee"], "fake_delay": _wanted["delay"], "fake_delay_jitter": 0}


_done: set[str] = set()
_wanted = json.loads(Path(os.environ["RBEE_BENCH_FLEET"]).read_text(encoding="utf-8"))
FakeConnector._lookup_response = answer  # noqa: SLF001 - the one place that knows the command

_queen, _hives = fleet(
    "made-up",
    hosts=[
        host(f"box{number}", address=f"192.0.2.{number}", queen=number == 1, engines=[])
        for number in range(1, _wanted["hosts"] + 1)
    ],
    client_endpoint="plain-http",
    secrets_dir=_wanted["secrets"],
)
hives = [_made_up(entry) for entry in _hives]
