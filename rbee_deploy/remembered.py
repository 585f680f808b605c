"""How hosts are reached, noted with the operator's secrets by whatever puts something on them: inventories lose hosts.

hosts/<host>/connection.json    no secret in it: of a sudo password only where it comes from
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rbee_deploy import advised
from rbee_deploy.errors import DeployError
from rbee_deploy.inventory import Placement, PyinfraHost, host, pyinfra_data
from rbee_deploy.private_files import make_private_folder, read_private, write_private
from rbee_deploy.secrets import CommandSecret, EnvironmentSecret, FileSecret, SecretSource
from rbee_deploy.site import Host, Site

FILE = "connection.json"

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Connection:
    """What it takes to reach a host and to find its models; the fields are those of Host.

    But for `activated`, which says that rbee may run there, and not only lie there. Notes of before do not say it.
    """

    address: str
    ssh_user: str | None
    ssh_port: int
    ssh_key: str | None
    ssh_known_hosts_file: str | None
    ssh_config_file: str | None
    ssh_host_keys: str
    models_dir: str
    sudo_password: tuple[str, ...] = ()
    activated: bool = True

    @classmethod
    def of(cls, declared: Host, *, activated: bool) -> "Connection":
        """Return it for a declared host."""
        same = {field.name: getattr(declared, field.name) for field in fields(cls) if field.name != "activated"}
        source = _noted(declared.sudo_password)
        return cls(**{**same, "address": declared.ssh_address, "sudo_password": source, "activated": activated})

    def host(self, name: str) -> Host:
        """Return the host as an inventory would declare it; raise DeployError if its password is nowhere."""
        kind, *words = self.sudo_password or ("",)
        if kind == _UNKNOWN:
            raise DeployError(
                f"host {name!r}: where its sudo password came from is not on record; add it to the inventory again and "
                f"run {advised.command(f'purge {name}')}"
            )
        others = {"sudo_password", "activated"}
        known = {key: value for key, value in asdict(self).items() if value is not None and key not in others}
        source = {"sudo_password": _source(kind, words)} if kind else {}
        return host(name, engines=[], **known, **source)


def remember(site: Site, declared: Host, *, activated: bool) -> None:
    """Note how a host is reached, unless just that is noted; one that was `activated` once stays so."""
    folder = _folder(site, declared.name)
    activated = activated or _may_run(folder / FILE)
    text = json.dumps(asdict(Connection.of(declared, activated=activated)), indent=1) + "\n"
    make_private_folder(folder.parent)
    make_private_folder(folder)
    if read_private(folder / FILE) != text:
        write_private(folder / FILE, text)


def forget(site: Site, name: str) -> None:
    """Delete what is kept of a host: its certificates, and how it was reached."""
    shutil.rmtree(_folder(site, name))


def orphans(site: Site) -> tuple[Host, ...]:
    """Return the hosts that something was put on and that are not in the inventory any more, by name."""
    taken = {(item.ssh_address, item.ssh_port) for item in site.hosts}
    found = _noted_hosts(site, {item.name for item in site.hosts})
    # A host that was given another name is not lost.
    return tuple(item for item in found if (item.ssh_address, item.ssh_port) not in taken)


def has_any(site: Site) -> bool:
    """Say whether any host was ever deployed from here, be it one that the inventory lost."""
    return any(map(_may_run, (site.secrets / "hosts").glob(f"*/{FILE}")))


def pyinfra_hosts(site: Site, lost: tuple[Host, ...]) -> list[PyinfraHost]:
    """Return hosts for pyinfra as if the fleet still had them."""
    whole = replace(site, hosts=(*site.hosts, *lost))
    return [(item.name, pyinfra_data(Placement(whole, item))) for item in lost]


def _noted_hosts(site: Site, declared: set[str]) -> Iterator[Host]:
    for path in sorted((site.secrets / "hosts").glob(f"*/{FILE}")):
        if path.parent.name not in declared:
            yield _read(path).host(path.parent.name)


def _may_run(path: Path) -> bool:
    """Say whether a host was activated by its note; one that cannot be read does not rule it out."""
    try:
        return path.is_file() and _read(path).activated
    except DeployError:
        return True


def _read(path: Path) -> Connection:
    try:
        known: dict[str, Any] = json.loads(read_private(path) or "")
        return Connection(**{**known, "sudo_password": tuple(known["sudo_password"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DeployError(
            f"{path} is damaged ({error}); delete {path.parent} if that host is no more, or put it back into "
            "the inventory"
        ) from error


def _folder(site: Site, name: str) -> Path:
    return site.secrets / "hosts" / name


def _noted(source: SecretSource | None) -> tuple[str, ...]:
    match source:
        case None:
            return ()
        case EnvironmentSecret():
            return ("env", source.variable)
        case FileSecret():
            return ("file", str(source.path))
        case CommandSecret():
            return ("command", *source.argv)
    return (_UNKNOWN,)


def _source(kind: str, words: list[str]) -> SecretSource:
    if kind == "command":
        return CommandSecret(tuple(words))
    return EnvironmentSecret(words[0]) if kind == "env" else FileSecret(Path(words[0]))
