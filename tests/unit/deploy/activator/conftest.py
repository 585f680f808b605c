"""A host's file tree under a temporary folder, and a systemd that starts what the files on it say."""

import getpass
import grp
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import pytest

from rbee_deploy.activator import blobs, database, disk, places, records, units, worker_rules
from rbee_deploy.activator.firewall import firewalld, nftables, ufw
from rbee_deploy.activator.housed.role import ROLES, HousedRole
from rbee_deploy.activator.manifest import File, Generation, Role
from rbee_deploy.activator.units import ActivationError, Unit
from rbee_runtime import ports
from tests.unit.deploy.activator.firewalls import FakeTools

OWNER = (getpass.getuser(), grp.getgrgid(os.getgid()).gr_name)
HELPERS = (ports.NETWORK_UNIT, ports.GUARD_SOCKET_UNIT, ports.GUARD_UNIT, ports.WORKERS_UNIT)
UNITS = ("rbee.target", "rbee-queen.service", "rbee-hive.service")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move every path of the host below a temporary folder."""
    # What reaches the disk is not the question here, and asking for it takes most of the time.
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
    for module in (ports, places):
        _move(module, tmp_path, monkeypatch)
    for name, role in ROLES.items():
        monkeypatch.setitem(ROLES, name, replace(role, run=tmp_path / role.run.relative_to("/")))
    for folder in (ports.RELEASES, ports.ENGINES, ports.CREDENTIALS, ports.QUEEN_STATE, places.HOME, places.RUN):
        folder.mkdir(parents=True)
    return tmp_path


@pytest.fixture
def queen(root: Path) -> HousedRole:
    """Return a queen whose user is the one who runs the test."""
    (root / "run").mkdir(exist_ok=True)
    for name in ("ca.pem", "queen.key"):
        (ports.CREDENTIALS / name).write_text(f"content of {name}\n")
    return replace(ROLES["queen"], user=getpass.getuser(), state=ports.QUEEN_STATE, run=ports.QUEEN_RUN)


def program(folder: Path, name: str, text: str) -> None:
    """Put a command on the path."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    path.chmod(0o755)


def _move(module: ModuleType, below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in vars(module).items():
        if isinstance(value, Path) and value.is_absolute():
            monkeypatch.setattr(module, name, below / value.relative_to("/"))


@dataclass
class FakeSystemd:
    """Starts what the files say: the digest file's digest, the link's release; `bad` releases never become ready."""

    bad: set[str] = field(default_factory=set)
    known: dict[str, Unit] = field(default_factory=dict)
    ran: dict[str, tuple[str, str]] = field(default_factory=dict)
    restarts: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    broken: bool = False

    def look(self, names: Iterable[str]) -> dict[str, Unit]:
        return {name: self.known.get(name, Unit(active="inactive")) for name in names}

    def systemctl(self, verb: str, *words: str, seconds: float = 0.0) -> str:
        self.calls += [f"{verb} {name}" for name in words if not name.startswith("-")]
        for name in (word for word in words if not word.startswith("-")):
            if "*" in name and name not in self.known:
                continue
            unit = self.known.get(name, Unit(active="inactive"))
            if verb in {"start", "restart", "stop"}:
                self.known[name] = replace(unit, active="inactive" if verb == "stop" else "active")
            if verb in {"enable", "disable"}:
                self.known[name] = replace(unit, file_state=f"{verb}d")
            if verb == "disable" and "--now" in words:
                self.known[name] = replace(self.known[name], active="inactive")
                self.ran.pop(name, None)
            if verb == "stop":
                self.ran.pop(name, None)
        return ""

    def register(self, enabled: Iterable[str]) -> None:
        self.systemctl("enable", *enabled)

    def running(self, role: Role) -> tuple[str, str]:
        return self.ran.get(role.service, ("", ""))

    def runs(self, role: Role) -> bool:
        return self.running(role) == (role.digest, role.release)

    def restart(self, role: Role) -> None:
        self.restarts.append(role.service)
        digest, release = (ports.ETC / f"{role.name}.digest").read_text().strip(), ports.CURRENT.readlink().name
        self.known[role.service] = Unit(active="activating", file_state="enabled")
        if release in self.bad or self.broken:
            self.ran.pop(role.service, None)
            raise ActivationError(f"{role.service} did not become ready (activating); its last lines:\nthe reason")
        self.known[role.service] = Unit(active="active", file_state="enabled")
        self.ran[role.service] = (digest, release)
        if not self.runs(role):
            raise ActivationError(f"{role.service} runs something else")

    def forget_failed(self, names: Iterable[str]) -> None:
        self.calls += [f"forget {name}" for name in names]

    def kill_unready(self, role: Role) -> None:
        """Do nothing: what is not ready has no process here."""


@pytest.fixture
def systemd(root: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    """Put a made-up systemd in place of the machine's."""
    fake = FakeSystemd()
    for name in ("look", "systemctl", "register", "running", "runs", "restart", "kill_unready", "forget_failed"):
        monkeypatch.setattr(units, name, getattr(fake, name))
    monkeypatch.setattr(worker_rules, "remove", lambda: fake.calls.append("remove rules"))
    return fake


def staged(
    release: str,
    more: Mapping[str, str] | None = None,
    *,
    roles: tuple[str, ...] = ("queen", "hive"),
    guarded: bool = False,
    contained: bool = False,
    images: tuple[str, ...] | Mapping[str, str] = (),
) -> Generation:
    """Bring a generation with a release, a configuration per role, a secret, and more files by name.

    `guarded` has the host's firewall among its units, `contained` has workers in containers, of these `images`,
    which may be given by kind.
    """
    helpers = HELPERS if contained else ()
    more = more or {}
    folder = ports.RELEASES / release
    folder.mkdir(exist_ok=True)
    (folder / "release.json").write_text("{}")
    texts = {f"{ports.ETC}/{role}.yaml": f"settings of {role} in {release}\n" for role in roles}
    texts |= {f"{ports.CREDENTIALS}/key": f"secret of {release}\n"}
    texts |= {f"{ports.ETC}/{role}.digest": f"digest-{role}-{release}-{sorted(more.items())}\n" for role in roles}
    if "hive" in roles:
        about = {"engine": "true", "fleet": "f", "hive": "h", "network": "n", "images": [], "of": release}
        name = "guard.json" if contained else ports.WORKER_TEMPLATE
        texts |= {f"{ports.ETC}/{name}": json.dumps(about)}
    texts |= {f"{ports.ETC}/{name}": text for name, text in more.items()}
    generation = Generation(
        release=release,
        version="0.1.0",
        roles=tuple(
            Role(role, f"rbee-{role}.service", "", texts[f"{ports.ETC}/{role}.digest"].strip(), release)
            for role in roles
        ),
        files=tuple(_file(path, text, roles) for path, text in texts.items()),
        unwanted=(str(ports.ETC / "left-over"),),
        enabled=(
            *([ports.FIREWALL_UNIT] if guarded else []),
            *helpers,
            *(unit for unit in UNITS if unit == "rbee.target" or unit[5:-8] in roles),
        ),
        target="rbee.target",
        helpers=helpers,
        engine="podman" if images else "",
        images=tuple(images.values()) if isinstance(images, Mapping) else images,
        kinds=tuple(images) if isinstance(images, Mapping) else (),
    )
    disk.private_folder(places.GENERATIONS)
    (places.GENERATIONS / f"{generation.id}.json").write_text(generation.text())
    return generation


def _file(path: str, text: str, roles: tuple[str, ...]) -> File:
    secret = Path(path).parent == ports.CREDENTIALS
    affects = tuple(f"rbee-{role}.service" for role in roles if path.endswith(f"/{role}.yaml"))
    if path == str(places.FIREWALL):
        affects = (ports.FIREWALL_UNIT,)
    if path.endswith("/guard.json"):
        affects = (ports.GUARD_UNIT,)
    if path.endswith("/workers.nft"):
        affects = (ports.NETWORK_UNIT,)
    sha256 = blobs.keep(text.encode(), secret=secret)
    return File(path, sha256, *OWNER, "0600" if secret else "0644", secret, affects)


def tree(root: Path) -> dict[str, str]:
    """Return what lies on the host, by path: content and mode, or where a link leads; without what deploys note."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        kept = path.is_relative_to(places.HOME) or path.is_relative_to(places.SECRET_BLOBS)
        if kept or path.is_relative_to(ports.RELEASES) or path.is_relative_to(places.RUN):
            continue
        if path.is_symlink():
            found[str(path)] = f"-> {path.readlink()}"
        elif path.is_file() and path.name not in {database.FILE, database.LOCK}:
            found[str(path)] = f"{path.stat().st_mode & 0o777:o} {path.read_text()}"
    return found


def state() -> records.State:
    """Return what the activator noted."""
    return records.State.load()


@pytest.fixture
def tools(root: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    """Put made-up tools in place of the machine's; every one of them is there."""
    fake = FakeTools()
    for zones in fake.zones.values():
        zones["work"] = []
    for module in (nftables, ufw, firewalld):
        monkeypatch.setattr(module, "run", fake.run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/sbin/{name}")
    return fake
