"""An activation puts the firewall in force before the roles, and back with them."""

from collections.abc import Sequence

import pytest

from rbee_deploy.activator import activation, firewall, units
from rbee_deploy.activator.activation import Told
from rbee_deploy.activator.firewall import ufw
from rbee_deploy.activator.firewall.rules import Kind, Rule, Rules
from rbee_deploy.activator.manifest import Role
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports
from tests.unit.deploy.activator.conftest import FakeSystemd, staged
from tests.unit.deploy.activator.firewalls import LINK, WORKERS, FakeTools


class Guard:
    """The unit as systemd would run it, or not if `broken`."""

    def __init__(self, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.order: list[str] = []
        self._systemctl, self._restart = systemd.systemctl, systemd.restart
        monkeypatch.setattr(units, "systemctl", self.systemctl)
        monkeypatch.setattr(units, "restart", self.restart)
        monkeypatch.setattr(units, "journal", lambda _unit: ["nft failed: no"])

    def systemctl(self, verb: str, *words: str, seconds: float = 0.0) -> str:
        if (verb, *words) == ("restart", "--", ports.FIREWALL_UNIT):
            self.order.append("firewall")
            if self.broken:
                raise ActivationError("systemctl restart failed")
            firewall.apply()
            verb = "start"
        return self._systemctl(verb, *words)

    def restart(self, role: Role) -> None:
        self.order.append(role.name)
        self._restart(role)


@pytest.fixture
def guard(systemd: FakeSystemd, tools: FakeTools, monkeypatch: pytest.MonkeyPatch) -> Guard:
    """Give a unit whose start puts the rules in force."""
    return Guard(systemd, monkeypatch)


def activate(release: str, *rules: Rule, kind: Kind = Kind.NFTABLES) -> None:
    """Go over to a release, with a firewall if there are rules."""
    more = {"firewall.json": Rules(kind, rules).text()} if rules else {}
    activation.activate(staged(release, more, guarded=bool(rules)).id, Told())


def test_rules_come_before_roles(guard: Guard, tools: FakeTools) -> None:
    """The firewall is set before anything is started, and again only when it differs."""
    activate("r1", LINK)
    assert guard.order == ["firewall", "queen", "hive"]
    activate("r1", LINK)
    assert guard.order == ["firewall", "queen", "hive"]
    tools.table = None
    activate("r1", LINK)
    assert guard.order[3:] == ["firewall"]


def test_other_rules_restart_no_role(guard: Guard, tools: FakeTools) -> None:
    """A host that joined the fleet changes the rules alone."""
    activate("r1", LINK)
    guard.order.clear()
    activation.activate(
        staged("r1", {"firewall.json": Rules(Kind.NFTABLES, (WORKERS,)).text()}, guarded=True).id, Told()
    )
    assert guard.order[0] == "firewall"
    assert "9000-9099" in str(tools.table)


def test_another_firewall_takes_over_outside_of_the_unit(
    guard: Guard, tools: FakeTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit, which may write to what its own kind needs alone, takes nothing out of the one before."""
    activate("r1", LINK, kind=Kind.UFW)
    removed: list[str] = []
    taking = ufw.remove

    def remove(held: Sequence[str]) -> None:
        removed.extend(guard.order)
        taking(held)

    monkeypatch.setattr(ufw, "remove", remove)
    guard.order.clear()
    activate("r1", LINK)
    assert removed == ["firewall"]
    assert (bool(tools.table), tools.ufw) == (True, [])


def test_without_the_field_all_of_it_goes(guard: Guard, systemd: FakeSystemd, tools: FakeTools) -> None:
    """Table, record and unit are gone with the generation that has none."""
    activate("r1", LINK)
    activate("r2")
    assert (tools.table, firewall.is_held()) == (None, False)
    assert systemd.known[ports.FIREWALL_UNIT].active == "inactive"


def test_rules_that_cannot_be_set_bring_back_what_was_there(guard: Guard, tools: FakeTools) -> None:
    """The activation fails with the unit's own words, and a first firewall is taken away again."""
    activate("r1")
    guard.broken = True
    with pytest.raises(
        ActivationError, match=r"(?s)rbee-firewall.service failed.*nft failed: no.*r1 is in force again"
    ):
        activate("r2", LINK)
    assert (tools.table, firewall.is_held()) == (None, False)


def test_a_release_that_does_not_start_brings_back_the_rules_from_before(
    guard: Guard, systemd: FakeSystemd, tools: FakeTools
) -> None:
    """The way back has the earlier rules in force, and the earlier host none if it had none."""
    systemd.bad = {"bad", "worse"}
    activate("r1", LINK)
    before = tools.table
    with pytest.raises(ActivationError, match="r1 is in force again"):
        activate("bad", WORKERS)
    assert tools.table == before
    with pytest.raises(ActivationError, match="r1 is in force again"):
        activate("worse")
    assert (tools.table, systemd.known[ports.FIREWALL_UNIT].active) == (before, "active")
