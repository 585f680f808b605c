"""A lab: one bridge, one SSH key and the hosts on it, made in seconds and gone without a trace."""

import atexit
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import network, processes, tree, units, uplink
from tests.lab.claims import claim_host, claim_lab, is_stale
from tests.lab.errors import LabError
from tests.lab.host import LabHost
from tests.lab.images import ensure_image, remove_tree
from tests.lab.interrupts import end_by_exception, uninterrupted
from tests.lab.places import lab_folders, labs_root, locked, registry_lock, sweep_lock
from tests.lab.preconditions import require_lab
from tests.lab.records import Bind, HostRecord, LabRecord, Owner, load


class Lab:
    """A handle on one lab. Leaving its `with` block destroys it, unless it is persistent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def create(cls, label: str = "lab", *, persistent: bool = False) -> Self:
        """Make an empty lab of its own name and subnet, after removing what interrupted runs left.

        Raises LabUnavailableError with the fix if this machine cannot make hosts.
        """
        require_lab()
        cls.clean_stale()
        end_by_exception()
        with registry_lock():
            lab = cls(claim_lab(label, persistent=persistent))
        atexit.register(lab._destroy_own)
        try:
            tree.make_key(lab.ssh_key, comment=lab.name)
            lab._make_network()
        except BaseException:
            lab.destroy()
            raise
        return lab

    @classmethod
    def open(cls, name: str) -> Self:
        """Return a handle on a lab that an earlier run left."""
        lab = cls(labs_root() / name)
        lab.state()
        return lab

    @classmethod
    def list(cls) -> tuple[Self, ...]:
        """Return handles on all labs of this machine, by name."""
        return tuple(cls(folder) for folder in lab_folders() if load(folder) is not None)

    @classmethod
    def clean_stale(cls) -> tuple[str, ...]:
        """Remove the labs whose run is over and return their names; of runs that start together one does it."""
        with sweep_lock():
            with registry_lock():
                stale = [folder for folder in labs_root().iterdir() if folder.is_dir() and is_stale(folder)]
            for folder in stale:
                cls(folder).destroy()
        return tuple(folder.name for folder in stale)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._destroy_own()

    @property
    def name(self) -> str:
        """The lab's name, which is its bridge's name too."""
        return self.directory.name

    @property
    def gateway(self) -> str:
        """The address of this machine on the lab's bridge."""
        return self.state().gateway

    @property
    def ssh_key(self) -> Path:
        """The private key that every user of every host accepts."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The hosts' public keys, for strict checking."""
        return self.directory / "known_hosts"

    @property
    def hosts(self) -> dict[str, LabHost]:
        """Handles on the hosts, by name."""
        return {record.name: self._handle(record) for record in self.state().hosts}

    def state(self) -> LabRecord:
        """Return what the lab's record says now."""
        record = load(self.directory)
        if record is None:
            raise LabError(f"there is no lab called {self.name}: see python -m tests.lab list")
        return record

    def add_host(
        self,
        name: str,
        *,
        image: str = "trixie",
        online: bool = False,
        nested: bool = False,
        binds: Iterable[tuple[str | Path, str, bool]] = (),
        prepare: Callable[[Path], None] | None = None,
        wait: bool = True,
    ) -> LabHost:
        """Make a host and boot it.

        `online` lets it reach what this machine reaches; `nested` lets it run a lab itself; `binds` are (source,
        target, read only); `prepare` may edit the root tree before the first boot; `wait` waits for SSH.
        """
        base = ensure_image(image)
        extra = tuple(Bind(str(source), target, read_only) for source, target, read_only in binds)
        draft = HostRecord(name=name, machine="", address="", image=image, online=online, nested=nested, binds=extra)
        host = self._handle(self._register(draft))
        try:
            self._furnish(host, base, prepare)
            host.boot(wait=wait)
        except BaseException:
            self.remove_host(host)
            raise
        return host

    def remove_host(self, host: LabHost) -> None:
        """Stop a host and remove all of it."""
        with uninterrupted():
            host.hard_stop()
            tree.unmount(host.directory)
            remove_tree(host.directory)
            self._write_known_hosts()
            self._change_hosts(lambda hosts: tuple(kept for kept in hosts if kept.name != host.name))

    def resume(self) -> None:
        """Bring a persistent lab back after this machine was restarted: its network, then the hosts that are off."""
        require_lab()
        if not network.link_exists(self.name):
            self._make_network()
            self._open_uplink()
        for host in self.hosts.values():
            if not host.is_running:
                host.boot()

    def destroy(self) -> None:
        """Remove hosts, network, mounts and files; works on what is left of a half-made lab, and twice."""
        with uninterrupted():
            for directory in (self.directory / "hosts").glob("*"):
                processes.kill_all(directory)
            units.forget(f"{self.name}-*")
            tree.forget_machines(f"{self.name}-*")
            tree.unmount(self.directory)
            network.remove_bridge(self.name)
            with registry_lock():
                uplink.close_uplink(self.name, labs_root(), last=not self._others_online())
                remove_tree(self.directory)
        atexit.unregister(self._destroy_own)

    def _destroy_own(self) -> None:
        """End a lab with the run that made it; a forked child or a second handle leaves it alone."""
        record = load(self.directory)
        if record is not None and not record.persistent and record.owner == Owner.this_process():
            self.destroy()

    def _make_network(self) -> None:
        network.create_bridge(self.name, IPv4Network(self.state().subnet))

    def _others_online(self) -> bool:
        others = (load(lab.directory) for lab in Lab.list() if lab.name != self.name)
        return any(host.online for record in others if record is not None for host in record.hosts)

    def _handle(self, record: HostRecord) -> LabHost:
        return LabHost(
            self.directory / "hosts" / record.name, self.name, record, note=self._note, forget=self.remove_host
        )

    def _register(self, draft: HostRecord) -> HostRecord:
        with locked(self.directory / ".lock"):
            lab = self.state()
            record = claim_host(lab, draft)
            replace(lab, hosts=(*lab.hosts, record)).save(self.directory)
        return record

    def _note(self, changed: HostRecord) -> None:
        self._change_hosts(lambda hosts: tuple(changed if host.name == changed.name else host for host in hosts))

    def _change_hosts(self, change: Callable[[tuple[HostRecord, ...]], tuple[HostRecord, ...]]) -> None:
        with locked(self.directory / ".lock"):
            lab = self.state()
            replace(lab, hosts=change(lab.hosts)).save(self.directory)

    def _furnish(self, host: LabHost, base: Path, prepare: Callable[[Path], None] | None) -> None:
        root = tree.mount(host.directory, base)
        line = tree.personalise(root, host.record, self.gateway, self.ssh_key.with_suffix(".pub").read_text())
        (host.directory / "known_host").write_text(f"{line}\n")
        self._write_known_hosts()
        if host.record.online:
            uplink.prepare_online(root)
            self._open_uplink()
        if prepare is not None:
            prepare(root)

    def _open_uplink(self) -> None:
        with registry_lock():
            online = [host.address for host in self.state().hosts if host.online]
            if online:
                uplink.open_uplink(self.name, self.name, online, labs_root())

    def _write_known_hosts(self) -> None:
        """Write the file in one step: ssh of another test may read it right now."""
        with locked(self.directory / ".lock"):
            lines = (file.read_text() for file in sorted((self.directory / "hosts").glob("*/known_host")))
            partial = self.directory / "known_hosts.partial"
            partial.write_text("".join(lines))
            partial.rename(self.known_hosts)
