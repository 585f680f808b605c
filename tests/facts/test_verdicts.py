"""Hosts of every kind that is supported, and some that are not: what preflight and setup make of what they print."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbee_deploy import packages
from rbee_deploy.facts.state import RbeeState
from rbee_deploy.inventory import host
from rbee_deploy.preflight import HostFacts, Needs, check
from tests.unit.deploy.sites import site_of

READ = {path.stem: yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("state.RbeeState/*.yaml")}
VERDICTS = [(name, verdict) for name, case in sorted(READ.items()) for verdict in case.get("verdicts", ())]
NEEDS = Needs(release_bytes=50 << 20, engine_bytes=100 << 20, model_bytes=2 << 30, engine_cpu="x86_64_v3")


def judge(raw: dict[str, Any], declared: dict[str, Any]) -> dict[str, list[str]]:
    """Return the sentences and the packages of a host that is a whole fleet; its clock is right."""
    site = site_of(host("box1", address="192.0.2.10", queen=True, **declared))
    needs = NEEDS if site.queen.engines else replace(NEEDS, engine_cpu="")
    found = check(site, site.queen, HostFacts.parse(raw), raw["clock_unix"], needs)
    refused = [f"{problem.cause}; {problem.fix}" for problem in found if problem.fatal]
    return {
        "refused": refused,
        "hints": [f"{problem.cause}; {problem.fix}" for problem in found if not problem.fatal],
        "installs": [] if refused else list(packages.missing(raw)),
    }


@pytest.mark.parametrize(("name", "verdict"), VERDICTS, ids=[f"{name}-{v['host'] or 'plain'}" for name, v in VERDICTS])
def test_a_recorded_host_gets_its_verdict(name: str, verdict: dict[str, Any]) -> None:
    """The host is refused with exactly these sentences, or taken with these hints and packages."""
    raw = RbeeState().process(READ[name]["output"].splitlines())
    assert judge(raw, verdict["host"]) == {key: verdict[key] for key in ("refused", "hints", "installs")}


def test_every_supported_system_has_a_recording() -> None:
    """Each family of distributions, a refused one and an ARM host are among the recordings."""
    systems = {(case["fact"]["os_id"], case["fact"]["arch"]) for case in READ.values() if "verdicts" in case}
    families = {(name, "x86_64") for name in ("debian", "ubuntu", "fedora", "rocky", "rhel")}
    assert systems == families | {("debian", "aarch64")}
