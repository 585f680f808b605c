"""Preflight and the packages of setup on real hosts: what is found there, and what is made of a host without Python."""

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rbee_deploy import packages, pythons
from rbee_deploy.activator import places
from rbee_deploy.facts import script
from rbee_deploy.facts.state import Asked, RbeeState
from rbee_deploy.inventory import host
from rbee_deploy.preflight import HostFacts, Problem, check
from rbee_runtime.ports import QUEEN_LINK_PORT
from tests.lab import Lab, LabHost
from tests.unit.deploy.sites import site_of

pytestmark = pytest.mark.lab

IMAGES = ("trixie", "bookworm", "containers")
INSTALL_S = 300
PURGE = "dpkg --purge --force-depends $(dpkg-query -W -f '${Package} ' 'python3*' 'libpython3*' polkitd)"
DROP = f"""
nft add table inet test
nft add chain inet test input '{{ type filter hook input priority 0; }}'
nft add rule inet test input tcp dport {QUEEN_LINK_PORT} drop
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, LabHost]]:
    """Return one host of each image, of which bookworm alone reaches package sources, and one to be spoilt."""
    with Lab.create("facts") as lab:
        made = {image: lab.add_host(image, image=image, online=image == "bookworm") for image in IMAGES}
        yield {**made, "bare": lab.add_host("bare", image="trixie")}


def read(where: LabHost, queen: LabHost) -> dict[str, Any]:
    done = where.run(script.build(Asked(queen=(queen.address, QUEEN_LINK_PORT))), check=False)
    return RbeeState().process(done.stdout.splitlines())


def judged(hosts: dict[str, LabHost], image: str, raw: dict[str, Any]) -> tuple[Problem, ...]:
    """Return the problems of a host in a fleet of all of them, in which trixie is the queen."""
    site = site_of(*(host(name, address=item.address, queen=name == "trixie") for name, item in hosts.items()))
    declared = next(item for item in site.hosts if item.name == image)
    return check(site, declared, HostFacts.parse(raw), time.time())


def install(where: LabHost, raw: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Take Python and polkit away, and run what setup would run."""
    where.run(PURGE, check=False)
    bare = {**raw, "python": None, "polkit": False}
    found = packages.known(raw)
    assert found is not None
    return where.run(packages.install(packages.missing(bare), found.manager), check=False, timeout=INSTALL_S)


@pytest.mark.parametrize("image", IMAGES)
def test_a_fresh_host_is_taken(hosts: dict[str, LabHost], image: str) -> None:
    """Nothing is missing and nothing forbids it or is worth a hint."""
    raw = read(hosts[image], hosts["trixie"])
    assert packages.missing(raw) == ()
    assert raw["queen_link"] == "refused"
    assert [problem.check for problem in judged(hosts, image, raw)] == []


def test_an_activation_that_goes_on_is_told(hosts: dict[str, LabHost]) -> None:
    """Its lock says so: held, free again, and not there on a host that never had one."""
    where = hosts["trixie"]
    assert not read(where, where)["activating"]
    where.run(f"mkdir -p {places.RUN} && touch {places.LOCK}")
    assert not read(where, where)["activating"]
    where.run(f"systemd-run --unit=holder flock {places.LOCK} sleep 60")
    where.run(f"until ! flock --nonblock {places.LOCK} true; do sleep 0.05; done")
    assert read(where, where)["activating"]
    where.run("systemctl stop holder")
    assert not read(where, where)["activating"]


def test_container_tools_are_told(hosts: dict[str, LabHost]) -> None:
    """Both engines and both runtimes of the distribution come with a version."""
    found = read(hosts["containers"], hosts["trixie"])["programs"]
    assert {name for name, version in found.items() if version} == {"podman", "docker", "crun", "runc"}


def test_a_firewall_before_the_queen_is_named(hosts: dict[str, LabHost]) -> None:
    """A hive whose packets to the queen vanish is refused, with the address and the port to open."""
    hosts["trixie"].run(DROP)
    try:
        (problem, *_) = judged(hosts, "bookworm", read(hosts["bookworm"], hosts["trixie"]))
    finally:
        hosts["trixie"].run("nft delete table inet test")
    assert (problem.check, problem.fatal) == ("queen-reachable", True)
    assert f"at {hosts['trixie'].address} port {QUEEN_LINK_PORT} (no answer within 3 s)" in problem.cause


def test_a_host_without_python_gets_one(hosts: dict[str, LabHost]) -> None:
    """A host with package sources is accepted without Python and polkit, and has both after setup."""
    raw = read(hosts["bookworm"], hosts["trixie"])
    expected = packages.distribution("debian", "12")
    assert install(hosts["bookworm"], raw).returncode == 0
    after = read(hosts["bookworm"], hosts["trixie"])
    assert pythons.fits(after["python"], after["python_lacks"])
    assert expected is not None
    assert (after["python"], after["polkit"]) == (expected.python, True)


def test_a_host_without_package_sources_says_so(hosts: dict[str, LabHost]) -> None:
    """The last line is the sentence, after the package manager's own words; nothing else is tried."""
    bare = hosts["bare"]
    done = install(bare, read(bare, hosts["trixie"]))
    *own, sentence = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert own
    assert sentence == (
        "cannot install polkitd and python3 from the host's package sources; "
        "give the host a mirror that it reaches, or install what is missing by hand"
    )
    gone = read(bare, hosts["trixie"])
    assert (gone["python"], gone["queen_link"], packages.python_to_be(gone)) == (None, "", "3.13")
    assert "python" not in {problem.check for problem in judged(hosts, "bare", gone)}
