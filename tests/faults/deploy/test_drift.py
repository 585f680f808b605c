"""DRIFT: every owned object of a host is changed by hand, alone; it is named, and it alone is put right."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest
from cryptography import x509

from rbee_deploy import _x509, accounts, modes
from rbee_deploy.authority import FleetAuthority
from rbee_deploy.generation import generation
from rbee_deploy.private_files import write_private
from rbee_deploy.render import OwnedFile, owned_files, roles
from rbee_deploy.site import Host, Site
from rbee_runtime import ports
from tests.faults.deploy.test_killed import three_hosts
from tests.faults.deploy.trio import Trio, look, pids
from tests.faults.rows import FULL
from tests.sampling import sample
from tests.unit.deploy.sites import state_of

pytestmark = pytest.mark.lab

EVERY_UNIT = frozenset({"rbee-"})
SYSTEM = PurePosixPath("/etc/systemd/system")


@dataclass(frozen=True)
class Drift:
    """One object of a host and what is done to it.

    `named` is what the check says; putting it right may change paths that end with `paths`, and processes of units
    whose names begin with one of `restarts`.
    """

    id: str
    host: str
    damage: str
    named: str
    paths: str
    restarts: frozenset[str] = frozenset()


def of_files(host: Host, files: tuple[OwnedFile, ...], kind: str, damage: str, named: str) -> Iterator[Drift]:
    """Yield one drift of a kind for every file."""
    for file in files:
        name, path = PurePosixPath(file.path).name, file.path
        yield Drift(f"{host.name} {name} {kind}", host.name, f"{damage} {path}", f"{path} {named}", path, file.affects)


def of_units(host: Host, enabled: tuple[str, ...]) -> Iterator[Drift]:
    """Yield each enabled unit stopped, and disabled; stopping a target or a socket stops what hangs on it."""
    for unit in enabled:
        hanging = frozenset({unit}) if unit.endswith(".service") else EVERY_UNIT
        # A target is up when all that it wants is; its units are what the check names.
        named = "is inactive" if unit == ports.TARGET_UNIT else f"{unit} is inactive"
        # A connection would start the queen again within a moment while her socket listens.
        held = ports.QUEEN_SOCKET_UNIT if unit == ports.QUEEN_UNIT else ""
        damage = f"systemctl stop {held} {unit}"
        yield Drift(f"{host.name} {unit} stopped", host.name, damage, named, "/nothing", hanging)
        damage = f"systemctl disable -q {unit}"
        yield Drift(f"{host.name} {unit} disabled", host.name, damage, f"{unit} is not enabled", f".wants/{unit}")


def of_links(host: Host, files: tuple[OwnedFile, ...]) -> Iterator[Drift]:
    """Yield each file as a link to a copy of itself elsewhere."""
    for file in files:
        path, copy = file.path, f"/root/{PurePosixPath(file.path).name}"
        damage = f"cp -p {path} {copy} && ln -sf {copy} {path}"
        named = f"{path} is a link instead of a file"
        yield Drift(f"{host.name} {PurePosixPath(path).name} link", host.name, damage, named, path, file.affects)


def of_masks(host: Host, files: tuple[OwnedFile, ...]) -> Iterator[Drift]:
    """Yield each unit masked, for which `systemctl mask` wants the file away first."""
    for file in files:
        if PurePosixPath(path := file.path).parent == SYSTEM:
            unit = PurePosixPath(path).name
            damage = f"rm {path} && systemctl mask -q {unit}"
            named = f"{path} is a link instead of a file"
            yield Drift(f"{host.name} {unit} masked", host.name, damage, named, path, file.affects)


def of_directories(host: Host, kind: str, damage: str, named: str) -> Iterator[Drift]:
    """Yield one drift of a kind for each directory."""
    for directory in accounts.directories(host):
        path = directory.path
        yield Drift(f"{host.name} {path} {kind}", host.name, f"{damage} {path}", f"{path} {named}", path)


def of_memberships(host: Host) -> Iterator[Drift]:
    """Yield each of a user's groups without the user."""
    for user in accounts.users(host):
        for group in user.groups:
            named = f"user {user.name} is not in group {group}"
            damage = f"gpasswd -d {user.name} {group}"
            yield Drift(f"{host.name} {user.name} {group}", host.name, damage, named, "/nothing")


def enumerated(site: Site) -> list[list[Drift]]:
    """Return every drift of two hosts, a queen's and a hive's, in groups of a kind."""
    groups: list[list[Drift]] = [[] for _ in range(9)]
    for host in site.hosts[:2]:
        files = owned_files(site, host, state_of(site))
        enabled = generation(host, "release", files).enabled
        groups[0] += of_files(host, files, "content", "echo '# by hand' >>", "has other content")
        groups[1] += of_files(host, files, "mode", "chmod 0666", "has mode 0666 instead of")
        groups[1] += of_files(host, files, "owner", "chown nobody:nogroup", "belongs to nobody:nogroup instead of")
        groups[1] += of_files(host, files, "gone", "rm", "is not there")
        groups[2] += of_units(host, enabled)
        groups[3] += of_directories(host, "mode", "chmod 0711", "has mode")
        link = str(ports.CURRENT)
        groups[4].append(Drift(f"{host.name} link", host.name, f"ln -sfn /tmp {link}", f"{link} leads to /tmp", link))
        groups[5] += of_directories(host, "owner", "chown nobody:nogroup", "belongs to nobody:nogroup instead of")
        groups[6] += of_memberships(host)
        groups[7] += of_links(host, files)
        groups[8] += of_masks(host, files)
    return groups


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have every object tried in the full run, one of each kind in the short one."""
    if "drift" in metafunc.fixturenames:
        groups = enumerated(three_hosts())
        chosen = [one for group in groups for one in group] if FULL else sample(metafunc.config, groups)
        metafunc.parametrize("drift", chosen, ids=lambda one: one.id)


def test_drift_every_owned_object_is_tried(trio: Trio) -> None:
    """The files that are tried are those that the activator of each host knows, and so are the units."""
    groups = enumerated(three_hosts())
    for name in ("queen", "gpu1"):
        known = trio.host(name).run(
            "cd /var/lib/rbee/deploy && python3 -c 'import json;"
            ' now = json.load(open("generations/" + json.load(open("state.json"))["current"] + ".json"));'
            ' print(*sorted(file["path"] for file in now["files"]), *sorted(now["enabled"]))\''
        )
        files = sorted(one.paths for one in groups[0] if one.host == name)
        units = sorted({one.named.split()[0] for one in groups[2] if one.host == name and "disabled" in one.id})
        assert known.stdout.split() == [*files, *units]


def test_drift_is_named_and_alone_put_right(trio: Trio, drift: Drift) -> None:
    """The check exits with 2 and names it, apply changes that path and its units only, and then the check is silent."""
    machine, limit = trio.host(drift.host), ("--limit", drift.host)
    trio.serves()
    before, running = look(machine), pids(machine)
    machine.run(drift.damage)
    found = trio.apply(*limit, command="check")
    assert found.code == 2, found.errors
    assert drift.named in found.errors
    done = trio.apply(*limit)
    assert done.code == 0, done.errors
    touched = differing(before, after := look(machine))
    assert [path for path in touched if not path.endswith(drift.paths) and not is_left_over(path, after)] == []
    restarted = differing(running, pids(machine))
    assert [unit for unit in restarted if not unit.startswith(tuple(drift.restarts))] == []
    again = trio.apply(*limit, command="check")
    assert again.code == 0, again.errors


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the keys whose values are not the same."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def is_left_over(path: str, after: dict[str, str]) -> bool:
    """Return whether a path is a release that an earlier test left and that went, as with every change."""
    return path.startswith(f"{ports.RELEASES}/") and path not in after


def drop_ins() -> list[str]:
    """Return a foreign drop-in for every unit that a hive's host has."""
    site = three_hosts()
    units = [unit for role in roles(site.hosts[1]) for unit in modes.role_units(role).files]
    return [f"/etc/systemd/system/{unit}.d/mine.conf" for unit in units]


@pytest.mark.parametrize("path", drop_ins() if FULL else drop_ins()[-1:])
def test_drift_a_foreign_drop_in_is_left_to_whoever_made_it(trio: Trio, path: str) -> None:
    """The check exits with 2 and names it, apply fails, names it and leaves it; without it the check is silent."""
    machine, limit = trio.host("gpu1"), ("--limit", "gpu1")
    machine.put("[Unit]\nDescription=mine\n", path)
    try:
        found, done = trio.apply(*limit, command="check"), trio.apply(*limit)
        assert machine.run(f"cat {path}").stdout == "[Unit]\nDescription=mine\n"
    finally:
        machine.run(f"rm -r {PurePosixPath(path).parent}; systemctl daemon-reload")
    assert (found.code, done.code) == (2, 1), found.errors + done.errors
    assert f"{path} changes how a unit of rbee runs" in found.errors
    assert f"{path} changes how a unit of rbee runs" in done.errors
    again = trio.apply(*limit, command="check")
    assert again.code == 0, again.errors


def test_drift_an_expired_certificate_is_replaced(trio: Trio) -> None:
    """Where operator and host hold one that has ended, the check names it and apply brings one that the queen takes."""
    machine, limit = trio.host("gpu1"), ("--limit", "gpu1")
    secrets = trio.fleet.lab.directory / "secrets"
    authority = FleetAuthority.open(secrets, "e2e")
    issued = datetime.now(UTC) - timedelta(days=4000)
    pair = _x509.issue(authority.pair, "hive gpu1", "rbee://e2e/hive/gpu1", (machine.address, "gpu1"), issued)
    for name, text in (("hive.pem", pair.pem), ("hive.key", pair.key_pem)):
        machine.put(text, f"{ports.CREDENTIALS}/{name}", mode=0o600)
        write_private(secrets / "hosts" / "gpu1" / name, text)
    found = trio.apply(*limit, command="check")
    assert found.code == 2, found.errors
    assert f"{ports.CREDENTIALS}/hive.pem has other content" in found.errors
    done = trio.apply(*limit)
    assert done.code == 0, done.errors
    placed = x509.load_pem_x509_certificate(machine.run(f"cat {ports.CREDENTIALS}/hive.pem").stdout.encode())
    assert _x509.is_valid_at(placed, datetime.now(UTC))
    trio.serves()
    trio.answers()
    again = trio.apply(*limit, command="check")
    assert again.code == 0, again.errors
