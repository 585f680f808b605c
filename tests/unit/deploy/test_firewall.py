"""Who has to reach whom: the rules of a host's firewall, and the inventories for which they cannot be made."""

from typing import Any

import pytest

from rbee_deploy import drift, firewall, packages, uninstall
from rbee_deploy.activator.firewall.rules import Rules
from rbee_deploy.errors import InventoryError
from rbee_deploy.facts import guard, script
from rbee_deploy.facts.state import Asked, RbeeState
from rbee_deploy.inventory import host
from rbee_deploy.modes import ContainerEngine
from rbee_deploy.observed import Observed
from rbee_deploy.site import Site
from tests.unit.deploy.sites import fenced, one_box, site_of

EVERYBODY = None


def ruled(site: Site, name: str) -> list[tuple[int, int, tuple[str, ...] | None]]:
    """Return the rules of a host."""
    rules = firewall.rules(site, next(item for item in site.hosts if item.name == name))
    assert rules is not None
    return [(rule.first, rule.last, rule.sources) for rule in rules.rules]


def test_clients_hives_and_the_queen_get_where_they_have_to() -> None:
    """Link for hives, hives for queen and hives, workers for the queen alone; each by every address that is known."""
    hives = ("192.0.2.2", "192.0.2.3", "fd00::2", "fd00::3")
    assert ruled(fenced(), "queen") == [
        (8500, 8500, ("10.0.0.0/8", "fd00::/8")),
        (8501, 8501, hives),
        (8600, 8600, hives),
        (9000, 9099, ()),
    ]
    assert ruled(fenced(), "gpu2") == [
        (8600, 8600, ("192.0.2.1", "192.0.2.2", "fd00::1", "fd00::2")),
        (9100, 9100, ("192.0.2.1", "fd00::1")),
    ]


def test_a_control_host_has_no_ports_of_a_hive_and_is_let_in_by_none() -> None:
    """A queen that is no hive has two rules, the second without herself; clients come from anywhere by default."""
    queen = host("q", address="192.0.2.1", queen=True, hive=False, firewall="ufw")
    site = site_of(queen, host("g", address="192.0.2.2", firewall="ufw"))
    assert ruled(site, "q") == [(8500, 8500, EVERYBODY), (8501, 8501, ("192.0.2.2",))]
    assert ruled(site, "g") == [(8600, 8600, ("192.0.2.1",)), (9000, 9099, ("192.0.2.1",))]


def test_networks_are_told_once() -> None:
    """What lies in another network of the list is left out, for no firewall takes it twice."""
    clients = ["10.1.0.0/16", "192.0.2.7", "10.0.0.0/8", "fd00::/8", "fd00:1::/32", "192.0.2.6/31"]
    site = site_of(host("q", address="192.0.2.1", queen=True, firewall="nftables"), clients=clients)
    assert ruled(site, "q")[0] == (8500, 8500, ("10.0.0.0/8", "192.0.2.6/31", "fd00::/8"))


def test_a_host_without_the_field_is_left_alone() -> None:
    """Nothing is rendered, asked, installed or started for it."""
    site = one_box()
    assert firewall.rules(site, site.queen) is None
    assert "@firewall" not in script.build(Asked())
    assert packages.needed(None) == packages.BARE == packages.needed("ufw")


def test_rules_arrive_as_they_were_written() -> None:
    """The host reads the same rules out of the file, and refuses one that it does not know in a sentence."""
    for item in fenced().hosts:
        rules = firewall.rules(fenced(), item)
        assert rules is not None
        assert Rules.parse(rules.text()) == rules
    for text in ("{}", "[]", '{"kind": "pf", "rules": []}', '{"kind": "ufw", "rules": [{"ports": [1]}]}'):
        with pytest.raises(ValueError, match=r"rules|Kind|unpack"):
            Rules.parse(text)


def fleet_with(*, clients: Any = None, queen: dict[str, Any] | None = None, gpu: dict[str, Any] | None = None) -> Site:
    """Return a fleet of a queen and a hive, with fields of both."""
    first = host("queen", queen=True, **{"address": "192.0.2.1", "firewall": "nftables", **(queen or {})})
    second = host("gpu1", **{"address": "192.0.2.2", **(gpu or {})})
    return site_of(first, second, **({} if clients is None else {"clients": clients}))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": (
        {"queen": {"firewall": "iptables"}},
        "host 'queen': firewall is 'iptables': it must be 'nftables' or 'ufw' or 'firewalld'; did you mean 'nftables'",
    ),
    "a name instead of an address": (
        {"gpu": {"address": "gpu1.lan"}},
        (
            "host 'gpu1': it has no IPv4 address in the inventory, by which the firewall of host 'queen' would let it "
            "in at 192.0.2.1; write address='…' or advertise='…' with the one that it speaks from"
        ),
    ),
    "no address at all, both by name": (
        {"queen": {"address": "queen.lan"}, "gpu": {"address": "gpu1.lan"}},
        (
            "host 'gpu1': it has no IP address in the inventory, by which the firewall of host 'queen' would let it "
            "in at queen.lan; write"
        ),
    ),
    "an address of the other family": (
        {"queen": {"advertise": "fd00::1"}},
        (
            "host 'gpu1': it has no IPv6 address in the inventory, by which the firewall of host 'queen' would let it "
            "in at fd00::1; write"
        ),
    ),
    "an address of one link": (
        {"gpu": {"address": "fe80::1%eth0"}},
        "host 'gpu1': it has no IPv4 address in the inventory",
    ),
    "clients that nothing holds": (
        {"queen": {"firewall": None}, "clients": ["10.0.0.0/8"]},
        (
            "fleet 'test': clients says who may connect, and the queen's host 'queen' has no firewall that holds them "
            "to it; write firewall='nftables' there, or drop clients"
        ),
    ),
    "clients as one string": ({"clients": "10.0.0.0/8"}, "fleet 'test': clients is '10.0.0.0/8': it must be a list"),
    "no clients": ({"clients": []}, "fleet 'test': clients is []: it must name a network; leave it out to let everyb"),
    "everybody": ({"clients": ["0.0.0.0/0"]}, "clients is ['0.0.0.0/0']: 0.0.0.0/0 is everybody; leave the field out"),
    "no network": (
        {"clients": ["office"]},
        "clients is ['office']: 'office' does not appear to be an IPv4 or IPv6 network; write networks such as '10.0.0",
    ),
    "an address within a network": (
        {"clients": ["10.0.0.1/8"]},
        "clients is ['10.0.0.1/8']: 10.0.0.1/8 has host bits set; write networks such as '10.0.0.0/8' or 'fd00::/8'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_inventory_that_no_firewall_can_follow_is_one_sentence(case: str) -> None:
    """What is wrong is named with host and field before any host is asked."""
    fields, sentence = REFUSED[case]
    with pytest.raises(InventoryError) as caught:
        fleet_with(**fields)
    assert sentence in str(caught.value.code)


def test_names_are_fine_where_nobody_has_to_be_told_apart() -> None:
    """A fleet without a firewall, and one of a single host, need no address."""
    assert fleet_with(queen={"firewall": None, "address": "queen.lan"}, gpu={"address": "gpu1.lan"})
    assert site_of(host("box", queen=True, firewall="ufw"))


OUTPUT = """\
@sudo ok
@firewall
tool=yes
active=yes
also=ufw
differs=ufw lacks: deny 8501/tcp
differs=firewalld lacks a=b
"""


def test_what_the_host_says_of_its_firewall_is_read() -> None:
    """Tool, other firewalls and differences come as they were said; what was not said is not so."""
    found = RbeeState().process(OUTPUT.splitlines())["firewall"]
    assert found == {
        "tool": True,
        "active": True,
        "broken": "",
        "also": ["ufw"],
        "differs": ["ufw lacks: deny 8501/tcp", "firewalld lacks a=b"],
    }
    assert guard.firewall(["broken=Operation not supported"])["firewall"]["broken"] == "Operation not supported"


@pytest.mark.parametrize(
    ("unit", "differs", "said"),
    [
        ({"active": "active"}, [], []),
        ({"active": "inactive"}, [], ["rbee-firewall.service is inactive"]),
        ({"active": "failed"}, ["x"], ["rbee-firewall.service is failed", "firewall: x"]),
        ({}, [], ["rbee-firewall.service is not there"]),
    ],
)
def test_a_firewall_that_is_not_in_force_is_drift(unit: dict[str, Any], differs: list[str], said: list[str]) -> None:
    """A stopped unit and every rule that differs are named, where the host is to have one and nowhere else."""
    name = "rbee-firewall.service"
    fact = {"units": {name: {**unit, "file_state": "enabled"}}, "firewall": {"differs": differs}}
    assert drift.found(Observed.parse(fact), [], [], [], [name]) == said
    assert drift.found(Observed.parse(fact), [], [], [], []) == []


def test_nft_alone_is_installed() -> None:
    """What closes other ports once it is on, SSH among them, is nothing that setup brings."""
    debian = {"os_id": "debian", "os_version": "12", "python": "3.11", "polkit": True}
    wanted = packages.needed("nftables")
    assert packages.missing({**debian, "firewall": {"tool": False}}, wanted) == ("nftables",)
    assert packages.missing({**debian, "firewall": {"tool": True}}, wanted) == ()
    assert packages.missing({**debian, "firewall": {"tool": False}}, packages.needed("firewalld")) == ()


@pytest.mark.parametrize(
    ("programs", "tool", "missing"),
    [
        (["docker"], True, ()),
        (["docker"], False, ("nftables",)),
        ([], False, ("docker.io", "docker-cli", "nftables")),
    ],
)
def test_what_keeps_workers_in_is_installed_with_their_engine(
    programs: list[str], tool: bool, missing: tuple[str, ...]
) -> None:
    """A host of containers needs nft whatever its firewall, and is not given it twice."""
    debian = {"os_id": "debian", "os_version": "13", "programs": dict.fromkeys(programs, "26.1")}
    wanted = packages.needed(None, ContainerEngine.DOCKER)
    assert packages.missing({**debian, "worker_rules": {"tool": tool}}, wanted) == missing
    podman = packages.missing(
        {**debian, "worker_rules": {"tool": False}}, packages.needed(None, ContainerEngine.PODMAN)
    )
    assert podman.count("nftables") == 1


def test_a_purge_takes_the_rules_away_before_the_program_that_knows_them() -> None:
    """The first line that changes something is about the firewall, and does nothing where there is none of ours."""
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    changes = next(line for line in lines if any(word in line for word in ("systemctl", " rm ", "remove")))
    assert changes.startswith("[ ! -f /var/lib/rbee/deploy/firewall.json ] || { systemctl disable --now")
    assert "firewall remove ||" in changes
    # Before it, engines are asked: without one that was used nothing could be finished.
    assert any("does not answer" in line for line in lines[: lines.index(changes)])
