"""A fleet of a hundred made-up hosts: what the deployer itself costs when the network is slow."""

import json
import sys
from pathlib import Path

from benchmarks.deploy.results import Crowd, Run
from benchmarks.deploy.sides import timed, warm
from tests.e2e.fleets import ROOT

HOSTS, LATENCY_MS = 100, 20
INVENTORY = Path(__file__).with_name("made_up.py")
STATES = ROOT / "tests" / "fleet" / "made_up.py"
"""Knows what a host says of itself; asked in a process of its own, so that its work is not measured."""

_ASK = """
import json, runpy, sys
hosts = runpy.run_path(sys.argv[1])["hives"]
answers = {name: dict(data["fake_responses"].items()) for name, data in hosts}
print(json.dumps({name: given["@sudo ok"] for name, given in answers.items()}))
"""


def measure(scratch: Path, hosts: int = HOSTS) -> Crowd:
    """Return the seconds of a run on hosts that have nothing of rbee yet, all of them, and on hosts that are right."""
    warm(ROOT)
    secrets = scratch / "secrets"
    right = _states(secrets, hosts)
    bare = {host: _bare(lines) for host, lines in right.items()}
    common = {"secrets": str(secrets), "hosts": hosts, "delay": LATENCY_MS / 1000}
    runs = {}
    for name, before in (("full", bare), ("noop", right)):
        answers = {host: {"before": before[host], "after": lines} for host, lines in right.items()}
        file = scratch / f"{name}.json"
        file.write_text(json.dumps({**common, "answers": answers}), encoding="utf-8")
        runs[name] = _deploy(file)
    return Crowd(hosts, LATENCY_MS, runs["full"], runs["noop"])


def _bare(lines: list[str]) -> list[str]:
    """Return what a host says to which nothing was deployed: what machine it is, and nothing else."""
    return [line for line in lines[: lines.index("@listen")] if not line.startswith("current=")]


def _states(secrets: Path, hosts: int) -> dict[str, list[str]]:
    """Return what each host says of itself when it is as it should be."""
    wanted = {"secrets": str(secrets), "hosts": hosts, "faults": {}, "delay": 0}
    asked = timed(
        (sys.executable, "-c", _ASK, str(STATES)),
        cwd=ROOT,
        environment={"RBEE_MADE_UP": json.dumps(wanted), "PYTHONPATH": str(ROOT)},
    )
    states: dict[str, list[str]] = json.loads(asked.printed)
    return states


def _deploy(file: Path) -> Run:
    program = str(Path(sys.executable).with_name("rbee-deploy"))
    environment = {"RBEE_BENCH_FLEET": str(file), "PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off"}
    return timed((program, "apply", "-i", str(INVENTORY)), cwd=ROOT, environment=environment)
