"""How the deployer gets to hosts: through a jump host, with every host key known beforehand."""

import re
from collections.abc import Iterator

import pytest

from tests.e2e.fleets import Fleet
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

CONFIG = """
Host {jump}
  User {user}
  IdentityFile {key}
  UserKnownHostsFile {known}
  StrictHostKeyChecking yes

Host {inner}
  ProxyJump {jump}
"""


@pytest.fixture(scope="module")
def fenced() -> Iterator[tuple[Fleet, LabHost]]:
    """Give a fleet of one host that takes SSH from another host alone, and that other host."""
    with Lab.create("jump") as lab:
        jump, inner = lab.add_host("jump"), lab.add_host("inner")
        rule = f"ip saddr != {jump.address} tcp dport 22 reject with tcp reset"
        inner.run(
            f"nft 'add table inet fence; add chain inet fence in {{ type filter hook input priority 0; }}; "
            f"add rule inet fence in {rule}'"
        )
        config = lab.directory / "ssh_config"
        config.write_text(
            CONFIG.format(
                jump=jump.address, inner=inner.address, user=jump.ssh_user, key=lab.ssh_key, known=lab.known_hosts
            )
        )
        fleet = Fleet(lab)
        fleet.declare(inner, queen=True, engines=[], ssh_config_file=str(config))
        yield fleet, jump


def test_a_host_behind_a_jump_host_is_deployed(fenced: tuple[Fleet, LabHost]) -> None:
    """The connection goes through the host that the SSH configuration names, and there is no other way."""
    fleet, jump = fenced
    done = fleet.rbee_deploy("apply")
    assert done.code == 0, done.errors
    assert re.search(r"^inner +verify ", done.errors, re.MULTILINE)
    assert "Accepted publickey for ops" in jump.run("journalctl -u ssh -o cat --no-pager").stdout


def test_without_the_jump_host_it_cannot_be_reached(fenced: tuple[Fleet, LabHost]) -> None:
    """The host refuses everybody else, and the report says that it cannot connect."""
    fleet, _ = fenced
    config = fleet.hosts["inner"].pop("ssh_config_file")
    done = fleet.rbee_deploy("status")
    fleet.hosts["inner"]["ssh_config_file"] = config
    assert done.code == 1
    assert "cannot connect to" in done.errors


def test_an_unknown_host_key_is_refused(fenced: tuple[Fleet, LabHost]) -> None:
    """With strict checking a host that is not in known_hosts gets nothing, not even at first sight."""
    fleet, _ = fenced
    known = fleet.lab.directory / "nobody"
    known.write_text("")
    fleet.hosts["inner"]["ssh_known_hosts_file"] = str(known)
    done = fleet.rbee_deploy("status")
    fleet.hosts["inner"]["ssh_known_hosts_file"] = str(fleet.lab.known_hosts)
    assert done.code == 1
    inner = fleet.hosts["inner"]
    ways = f"-F {inner['ssh_config_file']} -i {inner['ssh_key']} -o UserKnownHostsFile={known}"
    assert f"run ssh -p 22 {ways} {inner['ssh_user']}@{inner['address']} once to accept its host key" in done.errors
