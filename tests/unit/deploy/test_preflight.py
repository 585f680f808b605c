"""Preflight: a state of a host, and the sentences that it gets."""

from dataclasses import replace
from typing import Any

import pytest

from rbee_deploy.inventory import host
from rbee_deploy.preflight import HostFacts, Needs, check, unreachable
from rbee_deploy.site import Site
from tests.unit.deploy.sites import one_box, site_of

NOW = 1_800_000_000.0
GIB = 1 << 30
MIB = 1 << 20
DISKS = ("/opt/rbee", "/etc", "/var/lib/rbee", "/var/lib/rbee/models")
NEEDS = Needs(
    release_bytes=50 << 20,
    engine_bytes=100 << 20,
    model_bytes=2 * GIB,
    engine_glibc="2.36",
    engine_cpu="x86_64_v3",
)

GOOD: dict[str, Any] = {
    "sudo": "ok",
    "os_id": "debian",
    "os_version": "13",
    "arch": "x86_64",
    "cpu_baseline": "x86_64_v3",
    "glibc": "2.41",
    "is_systemd_pid1": True,
    "systemd": 257,
    "python": "3.13",
    "polkit": True,
    "clock_unix": NOW + 2,
    "memory_bytes": 16 * GIB,
    "disk_free": dict.fromkeys(DISKS, 10 * GIB),
    "listeners": {"22": "sshd"},
    "units": {},
    "boot_id": "something that preflight does not look at",
}


def problems(needs: Needs = NEEDS, site: Site | None = None, **changed: Any) -> list[str]:
    where = site if site is not None else one_box()
    found = check(where, where.queen, HostFacts.parse({**GOOD, **changed}), NOW, needs)
    return [f"{'' if problem.fatal else 'hint: '}{problem}" for problem in found]


def test_a_good_host_has_no_problem() -> None:
    """Nothing is said about a host that is fine, nor about what it did not tell."""
    assert problems() == []
    assert check(one_box(), one_box().queen, HostFacts(sudo="ok", python="3.13"), NOW) == ()


ACTIVE = {"active": "active"}
FINE: dict[str, dict[str, Any]] = {
    "our own listeners": {
        "listeners": {"8500": "rbee-queen.socket", "8501": "rbee-queen.service", "8600": "rbee-hive.service"}
    },
    "systemd holds the sockets": {"listeners": {"8500": "systemd"}, "units": {"rbee-queen.socket": ACTIVE}},
    "nobody knows who, the hive runs": {"listeners": {"8600": "unknown"}, "units": {"rbee-hive.service": ACTIVE}},
    "a clock five minutes off": {"clock_unix": NOW - 300},
    "an old engine level on a new CPU": {"cpu_baseline": "x86_64_v4"},
    "polkit that setup installs": {"polkit": False},
    "a Python that setup installs": {"python": None},
    "a whole Python that setup installs": {"python_lacks": "sqlite3"},
    "a newer Python beside an old default": {"python": "3.12", "os_id": "rocky", "os_version": "9.5"},
    "a distribution that nobody knows": {"os_id": "nobara", "os_version": "42"},
    "a queen that does not run yet": {"queen_link": "refused"},
    "disks that hold just enough": {
        "disk_free": {"/opt/rbee": 10 * GIB, "/etc": MIB, "/var/lib/rbee": 64 * MIB, "/var/lib/rbee/models": 3 * GIB}
    },
    "a link for the models": {"paths": {"/var/lib": {"kind": "directory"}, "/var/lib/rbee/models": {"kind": "link"}}},
}


@pytest.mark.parametrize("case", FINE)
def test_what_is_no_problem(case: str) -> None:
    """Own ports, small skews and what setup can mend pass."""
    assert problems(**FINE[case]) == []


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no sudo": ({"sudo": "missing"}, "sudo is not installed; install sudo, or write ssh_user='root'"),
    "sudo refused": (
        {"sudo": "refused"},
        "sudo refused the SSH user; allow it in sudoers, or write sudo_password=secret_env('…') if sudo asks for",
    ),
    "silence": ({"sudo": "silent"}, "it answered nothing as root; make sure that the SSH user may run sudo sh there"),
    "Ubuntu 22.04": (
        {"os_id": "ubuntu", "os_version": "22.04", "systemd": 249, "python": "3.10"},
        "Ubuntu 22.04 is too old: its systemd is older than 250 or its Python older than 3.11; upgrade it to Debian",
    ),
    "no systemd": (
        {"is_systemd_pid1": False},
        "systemd is not its process 1; boot it with systemd; a plain container is not a host",
    ),
    "old systemd": ({"systemd": 249}, "systemd 249 is older than 250; upgrade it to Debian 12, Ubuntu 24.04 or newer"),
    "old Python": (
        {"python": "3.9", "os_id": "arch"},
        "Python 3.9 is older than 3.11; install Python 3.11 to 3.14, such as the package python3",
    ),
    "no Python": (
        {"python": None, "os_id": "arch"},
        "it has no Python; install Python 3.11 to 3.14, such as the package python3",
    ),
    "half a Python": (
        {"python_lacks": "sqlite3 ssl", "os_id": "arch"},
        "Python 3.13 comes without sqlite3 and ssl; install Python 3.11 to 3.14, such as the package python3",
    ),
    "an ARM host with an engine": (
        {"arch": "aarch64", "cpu_baseline": None},
        "its architecture is aarch64, for which there is no build of the engine llama-cpp; use a host with x86_64, or",
    ),
    "a Python from the future": (
        {"python": "3.15"},
        "Python 3.15 is newer than any that rbee has packages for; install Python 3.11 to 3.14 beside it, such as",
    ),
    "an old polkit": (
        {"polkit_version": "0.105"},
        "polkit 0.105 is older than 0.106 and does not read rules in JavaScript; upgrade polkit, or the host",
    ),
    "another C library": (
        {"glibc": None},
        "it does not say which glibc it has, so it may have another C library; use a distribution with glibc, and",
    ),
    "an old CPU": (
        {"cpu_baseline": "x86_64_v2"},
        "its CPU is x86_64_v2, and the engine is built for x86_64_v3; use a host with a newer CPU, or write",
    ),
    "an old glibc": (
        {"glibc": "2.31"},
        "its glibc 2.31 is older than the engine's 2.36; upgrade the host, or run the deploy from a machine as old as",
    ),
    "a small disk": (
        {"disk_free": {**GOOD["disk_free"], "/var/lib/rbee/models": GIB}},
        "/var/lib/rbee/models has 1.0 GiB free and needs 3.0 GiB; make room, or give models_dir a bigger disk",
    ),
    "one small disk for all": (
        {"disk_free": dict.fromkeys(DISKS, 3 * GIB)},
        "/opt/rbee, /var/lib/rbee/models, /var/lib/rbee and /etc have 3.0 GiB free and need 3.5 GiB; make room, or",
    ),
    "a full disk of state": (
        {"disk_free": {**GOOD["disk_free"], "/var/lib/rbee": 63 * MIB}},
        "/var/lib/rbee has 63 MiB free and needs 64 MiB; make room there",
    ),
    "a full /etc": (
        {"disk_free": {**GOOD["disk_free"], "/etc": 0}},
        "/etc has 0 MiB free and needs 1 MiB; make room there",
    ),
    "a system disk that state and /etc share": (
        {"disk_free": {**GOOD["disk_free"], "/var/lib/rbee": 64 * MIB, "/etc": 64 * MIB}},
        "/var/lib/rbee and /etc have 64 MiB free and need 65 MiB; make room there",
    ),
    "state that shares the disk of the models": (
        {"disk_free": {**GOOD["disk_free"], "/var/lib/rbee": 3 * GIB, "/var/lib/rbee/models": 3 * GIB}},
        "/var/lib/rbee/models and /var/lib/rbee have 3.0 GiB free and need 3.1 GiB; make room, or give models_dir",
    ),
    "Consul": (
        {"listeners": {"8500": "consul"}},
        "port 8500 (also a default port of Consul) is taken by consul; stop it, or write queen_port=… with a free port",
    ),
    "a stranger on the link port": (
        {"listeners": {"8501": "unknown"}},
        "port 8501 is taken by another process; stop it, or write link_port=… with a free port",
    ),
    "a stranger beside our hive": (
        {"listeners": {"8600": "consul"}, "units": {"rbee-hive.service": ACTIVE}},
        "port 8600 (also a default port of Consul) is taken by consul; stop it, or write hive_port=… with a free port",
    ),
    "a late clock": (
        {"clock_unix": NOW - 3600},
        "its clock is 3600 s behind this machine's; run timedatectl set-ntp true on it, or correct",
    ),
    "a file for the models": (
        {"paths": {"/var/lib/rbee/models": {"kind": "file"}}},
        "models_dir is /var/lib/rbee/models, and /var/lib/rbee/models is no folder there (file); write models_dir='…'",
    ),
    "a file on the way to the models": (
        {"paths": {"/var": {"kind": "directory"}, "/var/lib/rbee": {"kind": "socket"}}},
        "models_dir is /var/lib/rbee/models, and /var/lib/rbee is no folder there (socket); write models_dir='…'",
    ),
    "an early clock": ({"clock_unix": NOW + 301}, "its clock is 301 s ahead of this machine's"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_problem_is_one_sentence(case: str) -> None:
    """Each problem names host, cause and fix, and comes alone."""
    changed, sentence = BAD[case]
    (said,) = problems(**changed)
    assert said.startswith(f"host 'box1': {sentence}")
    assert "\n" not in said


def test_a_model_that_outgrows_memory_is_a_hint() -> None:
    """Memory is a hint only, after what is fatal: a GPU may hold the model."""
    said = problems(memory_bytes=2 * GIB, python=None, os_id="arch")
    assert len(said) == 2
    assert said[1].startswith(
        "hint: host 'box1': it has 2.0 GiB of memory and its models need about 2.4 GiB; unless its"
    )


def test_polkit_that_nobody_installs_is_a_problem() -> None:
    """Where setup installs no packages, polkit has to be there."""
    (said,) = problems(replace(NEEDS, installs_packages=False), polkit=False)
    assert "polkit is missing, without which the hive cannot start workers; install the package polkitd" in said


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "0.0.0.0"])
def test_a_loopback_address_among_several_hosts_is_a_problem(address: str) -> None:
    """A host that advertises loopback cannot be reached by the others; alone it may."""
    queen = host("box1", address="192.0.2.1", advertise=address, queen=True)
    (said,) = problems(site=site_of(queen, host("gpu1", address="192.0.2.2")))
    assert f"other hosts cannot reach it at {address}; write advertise='…' with its address in the network" in said
    assert problems(site=site_of(queen)) == []


REASONS = {
    "Private key file (/k) is encrypted, set ssh_key_password to use this key": "correct ssh_key or its passphrase",
    "Authentication error (username=ops)": "correct ssh_user or ssh_key, and make sure that ssh -p 22 ops@192.0",
    "SSH host key error (Host key for 192.0.2.1 does not match.)": "its host key changed: make sure that it is",
    "SSH error (Server '192.0.2.1' not found in known_hosts)": "run ssh -p 22 ops@192.0.2.1 once to accept",
    "Could not resolve hostname (Name or service not known)": "correct its address in the inventory",
    "Could not connect (timed out)": "turn it on, or correct its address or ssh_port, and make sure that ssh",
}


OWN_WAYS = {
    "not found in known_hosts": "run ssh -p 2222 -F c -i k -o UserKnownHostsFile=h 192.0.2.1 once to accept its",
    "does not match": "make sure that it is your host, then run ssh-keygen -f h -R '[192.0.2.1]:2222'",
    "timed out": "make sure that ssh -p 2222 -F c -i k -o UserKnownHostsFile=h 192.0.2.1 works",
}


@pytest.mark.parametrize("reason", OWN_WAYS)
def test_the_fix_logs_in_as_the_deployer_does(reason: str) -> None:
    """The command that a person is told has the host's own port, key, configuration and known hosts."""
    item = replace(
        host("box1", address="192.0.2.1", queen=True, ssh_port=2222),
        ssh_key="k",
        ssh_config_file="c",
        ssh_known_hosts_file="h",
    )
    assert OWN_WAYS[reason] in str(unreachable(item, reason))


@pytest.mark.parametrize("reason", REASONS)
def test_an_unreachable_host_gets_the_fix_for_its_reason(reason: str) -> None:
    """What the connector said decides what to do about it."""
    item = host("box1", address="192.0.2.1", queen=True, ssh_user="ops")
    said = str(unreachable(item, reason))
    assert said.startswith(f"host 'box1': cannot connect to 192.0.2.1 port 22 by SSH ({reason}); {REASONS[reason]}")
