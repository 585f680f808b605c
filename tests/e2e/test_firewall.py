"""A firewall of the inventory on real hosts: who gets to our ports, what a person did to it, and how it goes away."""

from collections.abc import Callable, Iterator

import pytest

from rbee_deploy.activator import places
from rbee_runtime import ports
from tests.e2e.fleets import Fleet, small_fleet, wait_for
from tests.e2e.test_changes import MOST_COMMANDS, daemon_pids
from tests.e2e.test_restarts import worker_pids
from tests.faults.rows import FULL
from tests.lab import LabHost
from tests.sampling import sample
from tests.unit.deploy.test_units import EXPOSURE

pytestmark = pytest.mark.lab

INSTALL_S = 280
TRY = """\
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5).close()
    print("open")
except ConnectionRefusedError:
    print("open")
except OSError:
    print("closed")
"""
"""A port that nobody listens on is open as well when somebody says so."""

SSH, CLIENTS, LINK, HIVE, WORKER, OTHER = 22, ports.QUEEN_PORT, ports.QUEEN_LINK_PORT, ports.HIVE_PORT, 9050, 8602
V6 = {"queen": "fd00:b::2", "gpu1": "fd00:b::3", "stranger": "fd00:b::9"}


def tried(source: LabHost, address: str, *numbers: int) -> dict[int, str]:
    """Return which ports of an address a host reaches."""
    return {n: source.run(f"python3 -c '{TRY}' {address} {n}").stdout.strip() for n in numbers}


def get(host: LabHost, package: str) -> None:
    """Install a package from the distribution's own sources."""
    get = "DEBIAN_FRONTEND=noninteractive apt-get -qq"
    host.run(f"{get} update && {get} install --no-install-recommends -y {package}", timeout=INSTALL_S)


DEEDS = [
    [
        ("nft flush ruleset", "table inet rbee"),
        ("nft delete table inet rbee", "table inet rbee is not in force"),
        ("nft insert rule inet rbee input accept", "table inet rbee was changed"),
    ],
    [
        ("systemctl stop rbee-firewall", "rbee-firewall.service is inactive"),
        ("systemctl disable rbee-firewall", "rbee-firewall.service is not enabled"),
    ],
    [("echo >> /etc/rbee/firewall.json", "/etc/rbee/firewall.json has other content")],
]
"""What a person does, and what the check says of it: to rules, to the unit and to the file."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have all that a person does tried in the full run, one of each kind in the short one."""
    if "deed" in metafunc.fixturenames:
        every = [one for group in DEEDS for one in group]
        metafunc.parametrize("deed", every if FULL else sample(metafunc.config, DEEDS), ids=lambda one: one[0])


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give a queen with nftables and a hive on Debian 12 with the same, a host that is not of the fleet, and a chat."""
    with small_fleet("guard", gpu_hosts=0) as made:
        lab = made.lab
        made.declare(lab.add_host("gpu1", image="bookworm"), engines=[])
        lab.add_host("stranger")
        for name, address in V6.items():
            lab.hosts[name].run(f"ip -6 address add {address}/64 dev host0 nodad")
            made.hosts.get(name, {}).update(firewall="nftables")
        made.models["echo"] = {"name": "echo", "source": "fake:tokens=3", "replicas": "each_host"}
        done = made.rbee_deploy("apply")
        assert done.code == 0, done.errors
        yield made


def serves(fleet: Fleet) -> None:
    """Have a worker answer through the queen."""
    fleet.wait_ready("echo")
    answer = fleet.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content


def repaired(fleet: Fleet, host: LabHost, damage: str, named: str) -> None:
    """Damage a host's firewall; the check names it, apply puts it right, and nothing was started anew."""
    before = daemon_pids(host), worker_pids(host)
    host.run(damage)
    found = fleet.rbee_deploy("check")
    assert found.code == 2, found.errors
    assert named in found.errors
    done = fleet.rbee_deploy("apply")
    assert done.code == 0, done.errors
    again = fleet.rbee_deploy("check")
    assert again.code == 0, again.errors
    assert (daemon_pids(host), worker_pids(host)) == before


def test_strangers_get_to_the_client_port_alone(fleet: Fleet) -> None:
    """From a host that is not of the fleet, what is for the fleet is closed over IPv4 and IPv6, and SSH is not."""
    stranger, queen, gpu = (fleet.lab.hosts[name] for name in ("stranger", "queen", "gpu1"))
    serves(fleet)
    for address in (queen.address, V6["queen"]):
        found = tried(stranger, address, SSH, CLIENTS, LINK, OTHER)
        assert found == {SSH: "open", CLIENTS: "open", LINK: "closed", OTHER: "open"}
    for address in (gpu.address, V6["gpu1"]):
        found = tried(stranger, address, SSH, HIVE, WORKER, OTHER)
        assert found == {SSH: "open", HIVE: "closed", WORKER: "closed", OTHER: "open"}


def test_the_fleet_gets_where_it_has_to(fleet: Fleet) -> None:
    """Hive to link, queen to hive and workers, each by its addresses; and every host to itself by loopback."""
    queen, gpu = fleet.lab.hosts["queen"], fleet.lab.hosts["gpu1"]
    assert tried(gpu, queen.address, LINK) == {LINK: "open"}
    assert tried(queen, gpu.address, HIVE, WORKER) == {HIVE: "open", WORKER: "open"}
    # The inventory knows them by IPv4 alone, so over IPv6 they are strangers.
    assert tried(queen, V6["gpu1"], SSH, HIVE, WORKER) == {SSH: "open", HIVE: "closed", WORKER: "closed"}
    assert tried(queen, "127.0.0.1", LINK) == {LINK: "open"}
    assert tried(gpu, gpu.address, HIVE, WORKER) == {HIVE: "open", WORKER: "open"}


@pytest.mark.parametrize("name", ["queen", "gpu1"])
def test_its_unit_is_closed(fleet: Fleet, name: str) -> None:
    """The unit that sets rules can do little else, as systemd 252 counts and as 257 does, which has no word to say."""
    host, unit = fleet.lab.hosts[name], "/etc/systemd/system/rbee-firewall.service"
    analyse = (
        f"systemd-analyze security --no-pager --offline=true --threshold={EXPOSURE['rbee-firewall.service']} {unit}"
    )
    done = host.run(analyse, check=False)
    assert done.returncode == 0, done.stdout[-200:]
    silent = host.run(f"systemd-analyze verify --man=no {unit}", check=False)
    assert (silent.stdout, silent.stderr, silent.returncode) == ("", "", 0)


def test_it_costs_no_command(fleet: Fleet) -> None:
    """A second run changes nothing and asks no host more often than without a firewall."""
    again = fleet.deploy("--json")
    counts = [
        int(line.split("remote command")[0].split()[-1]) for line in again.errors.splitlines() if " remote c" in line
    ]
    assert again.report["results"]["totals"]["success"] == 0, again.output
    assert max(counts) <= MOST_COMMANDS


def test_what_a_person_did_is_named_and_put_right(fleet: Fleet, deed: tuple[str, str]) -> None:
    """The check exits with 2 and says what, apply repairs that alone, and strangers are out again."""
    gpu = fleet.lab.hosts["gpu1"]
    serves(fleet)
    repaired(fleet, gpu, *deed)
    assert tried(fleet.lab.hosts["stranger"], gpu.address, HIVE) == {HIVE: "closed"}


@pytest.mark.full
def test_it_is_there_after_a_boot(fleet: Fleet) -> None:
    """A host that was rebooted has its firewall by itself, before anything of ours listens."""
    gpu = fleet.lab.hosts["gpu1"]
    gpu.reboot()
    gpu.run(f"ip -6 address add {V6['gpu1']}/64 dev host0 nodad")
    gpu.run("systemctl is-active --wait rbee-firewall || systemctl status rbee-firewall")
    assert tried(fleet.lab.hosts["stranger"], gpu.address, SSH, HIVE) == {SSH: "open", HIVE: "closed"}
    serves(fleet)


@pytest.mark.full
def test_a_reloaded_nftables_does_not_open_it(fleet: Fleet) -> None:
    """Where the distribution's own nftables.service flushes all rules, ours come back with it."""
    gpu = fleet.lab.hosts["gpu1"]
    # A start by hand is drift as any other flush is.
    repaired(fleet, gpu, "systemctl start nftables", "table inet rbee is not in force")
    for verb in ("reload", "restart"):
        gpu.run(f"systemctl {verb} nftables")
        wait_for(
            f"the table after a {verb}", lambda: gpu.run("nft list table inet rbee", check=False).stdout, seconds=20
        )
    found = fleet.rbee_deploy("check")
    assert found.code == 0, found.errors
    repaired(fleet, gpu, "systemctl stop nftables", "rbee-firewall.service is inactive")


def test_clients_are_those_of_the_inventory(fleet: Fleet) -> None:
    """With `clients`, the client port is for their networks alone; neither queen nor worker is started anew."""
    queen, stranger = fleet.lab.hosts["queen"], fleet.lab.hosts["stranger"]
    before = daemon_pids(queen)
    fleet.options["clients"] = [fleet.lab.gateway, V6["stranger"]]
    try:
        done = fleet.rbee_deploy("apply")
        assert done.code == 0, done.errors
        assert tried(stranger, queen.address, SSH, CLIENTS) == {SSH: "open", CLIENTS: "closed"}
        assert tried(stranger, V6["queen"], CLIENTS, LINK) == {CLIENTS: "open", LINK: "closed"}
        serves(fleet)
    finally:
        del fleet.options["clients"]
    assert fleet.rbee_deploy("apply").code == 0
    assert tried(stranger, queen.address, CLIENTS) == {CLIENTS: "open"}
    assert daemon_pids(queen) == before


def test_rules_that_cannot_be_set_leave_those_from_before(fleet: Fleet) -> None:
    """A firewall that takes no rules fails the host, whose rules, roles and files are as they were."""
    queen = fleet.lab.hosts["queen"]
    before = daemon_pids(queen), queen.run("nft list table inet rbee").stdout
    broken = '#!/bin/sh\n[ "$1" != -f ] || { echo \'no buffer space\' >&2; exit 1; }\nexec /usr/sbin/nft.real "$@"\n'
    queen.run("mv /usr/sbin/nft /usr/sbin/nft.real")
    queen.put(broken, "/usr/sbin/nft", mode=0o755)
    fleet.options["clients"] = [fleet.lab.gateway]
    try:
        done = fleet.rbee_deploy("apply")
    finally:
        queen.run("mv /usr/sbin/nft.real /usr/sbin/nft")
        del fleet.options["clients"]
    assert done.code == 1
    assert "nft failed: no buffer space" in done.errors
    assert (daemon_pids(queen), queen.run("nft list table inet rbee").stdout) == before
    assert fleet.rbee_deploy("apply").code == 0
    assert daemon_pids(queen) == before[0]
    assert fleet.rbee_deploy("check").code == 0


def test_without_the_field_all_is_open_again(fleet: Fleet) -> None:
    """Table, unit, file and record are gone, no process was started anew, and everybody gets everywhere."""
    gpu = fleet.lab.hosts["gpu1"]
    before = daemon_pids(gpu)
    del fleet.hosts["gpu1"]["firewall"]
    try:
        done = fleet.rbee_deploy("apply")
        assert done.code == 0, done.errors
        assert tried(fleet.lab.hosts["stranger"], gpu.address, HIVE, WORKER) == {HIVE: "open", WORKER: "open"}
        assert "rbee" not in gpu.run("nft list tables").stdout
        assert gpu.run(f"ls {places.FIREWALL} {places.FIREWALL_HELD}", check=False).stdout == ""
        assert "could not be found" in gpu.run("systemctl status rbee-firewall", check=False).stderr
        assert daemon_pids(gpu) == before
        assert fleet.rbee_deploy("check").code == 0
    finally:
        fleet.hosts["gpu1"]["firewall"] = "nftables"
        again = fleet.rbee_deploy("apply")
    assert again.code == 0, again.errors


def _ufw(host: LabHost) -> None:
    get(host, "ufw")
    host.run("ufw allow 22/tcp && ufw --force enable")


def _firewalld(host: LabHost) -> None:
    # It needs /etc/protocols, which comes with netbase.
    get(host, "netbase firewalld")
    # The second is a person's rule that opens a port of ours to everybody.
    host.run("systemctl restart firewalld && firewall-cmd --quiet --zone=public --add-port=9050/tcp")


UFW_DAMAGE = "ufw delete deny 9000:9099/tcp"
FIREWALLD_DAMAGE = (
    'firewall-cmd --zone=public --remove-rich-rule=\'rule priority="-105" port port="9000-9099" protocol="tcp" drop\''
)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "prepare", "damage", "named", "left"),
    [
        ("ufw", _ufw, UFW_DAMAGE, "ufw lacks: deny 9000:9099/tcp", "ufw show added"),
        (
            "firewalld",
            _firewalld,
            FIREWALLD_DAMAGE,
            "firewalld lacks the running rule",
            "firewall-cmd --list-rich-rules",
        ),
    ],
)
def test_other_firewalls_do_the_same(
    fleet: Fleet, kind: str, prepare: Callable[[LabHost], None], damage: str, named: str, left: str
) -> None:
    """With ufw and firewalld the fleet gets in and strangers do not, drift is put right, and a purge leaves nothing."""
    stranger, queen = fleet.lab.hosts["stranger"], fleet.lab.hosts["queen"]
    host = fleet.lab.add_host(kind, image="bookworm", online=True)
    fleet.declare(host, engines=[], firewall=kind)
    try:
        missing = fleet.rbee_deploy("plan")
        assert f"{kind} is missing" in missing.errors
        prepare(host)
        before = host.run(left).stdout
        done = fleet.rbee_deploy("apply")
        assert done.code == 0, done.errors
        fleet.wait_ready("echo", 2)
        assert tried(stranger, host.address, SSH, HIVE, WORKER) == {SSH: "open", HIVE: "closed", WORKER: "closed"}
        assert tried(queen, host.address, SSH, HIVE, WORKER) == {SSH: "open", HIVE: "open", WORKER: "open"}
        repaired(fleet, host, damage, named)
        purged = fleet.rbee_deploy("purge", kind, "--yes")
        assert purged.code == 0, purged.errors
        assert host.run(left).stdout == before
    finally:
        del fleet.hosts[kind]
        fleet.lab.remove_host(host)
    assert fleet.rbee_deploy("apply").code == 0


@pytest.mark.full
def test_one_firewall_takes_over_from_another(fleet: Fleet) -> None:
    """From ufw to nftables and back by one word each, nobody gets in meanwhile, and the one before keeps nothing."""
    stranger = fleet.lab.hosts["stranger"]
    host = fleet.lab.add_host("over", image="bookworm", online=True)
    fleet.declare(host, engines=[], firewall="ufw")
    try:
        _ufw(host)
        before = host.run("ufw show added").stdout
        for kind, first in (("ufw", "true"), ("nftables", "ufw disable"), ("ufw", "ufw --force enable")):
            host.run(first)
            fleet.hosts["over"]["firewall"] = kind
            done = fleet.rbee_deploy("apply")
            assert done.code == 0, done.errors
            assert (host.run("ufw show added").stdout == before) is (kind == "nftables")
            assert ("table inet rbee" in host.run("nft list tables").stdout) is (kind == "nftables")
            assert tried(stranger, host.address, HIVE, WORKER) == {HIVE: "closed", WORKER: "closed"}
            assert fleet.rbee_deploy("check").code == 0
        assert fleet.rbee_deploy("purge", "over", "--yes").code == 0
    finally:
        del fleet.hosts["over"]
        fleet.lab.remove_host(host)
    assert fleet.rbee_deploy("apply").code == 0
