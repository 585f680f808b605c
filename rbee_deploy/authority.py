"""The fleet's certificate authority, kept with the operator's secrets; hosts only ever see what it issues.

<secrets_dir>/            0700
    ca.pem  ca.key        the authority
    hosts/<host>/<role>.pem|.key
    api-key               the first API key, in plain text; see api_keys.py
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from rbee_deploy import _x509, api_keys
from rbee_deploy.errors import AuthorityError
from rbee_deploy.operator_tls import operator_certificate
from rbee_deploy.preflight.trust import NEW_AUTHORITY
from rbee_deploy.private_files import locked, make_private_folder, read_private, write_private
from rbee_deploy.render import Certificate, SiteState
from rbee_deploy.secrets import Secret
from rbee_deploy.site import Host, Site, TlsPaths
from rbee_runtime.protocol import ModelFile

Clock = Callable[[], datetime]

CLIENT_ROLE = "client"
"""The client endpoint's certificate: names and addresses only, no identity that a link would accept."""

EXPORTED = "_exported"
"""Where the client endpoint's certificate of exports is kept, as if that were a host; none can have this name."""

_DEPLOY_ANEW = f"deploy every host with a new authority by rbee-deploy apply {NEW_AUTHORITY}"


def utc_now() -> datetime:
    """Return the time by the operator's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class FleetAuthority:
    """Issues certificates and holds the first API key of one fleet."""

    directory: Path
    fleet: str
    pair: _x509.KeyPair
    clock: Clock = utc_now

    @classmethod
    def open(cls, directory: Path, fleet: str, *, clock: Clock = utc_now) -> Self:
        """Load the authority, or make one in a folder that never had one.

        Raise AuthorityError when it is damaged, incomplete or another fleet's.
        """
        make_private_folder(directory)
        with locked(directory):
            pair = _load(directory) or _create(directory, fleet, clock())
        _check_owner(directory, pair, fleet, clock())
        return cls(directory, fleet, pair, clock)

    @property
    def ca_pem(self) -> str:
        """Return the authority's certificate."""
        return self.pair.pem

    def certificate(self, role: str, name: str, addresses: Iterable[str] = (), *, anew: bool = False) -> Certificate:
        """Return a host's certificate for a role: the one on disk while it is right, else or if `anew` a new one."""
        uri = None if role == CLIENT_ROLE else f"rbee://{self.fleet}/{role}/{name}"
        wanted = tuple(addresses)
        folder = self.directory / "hosts" / name
        # One by one: a parent that mkdir makes on the way would have the umask's mode.
        make_private_folder(folder.parent)
        make_private_folder(folder)
        with locked(self.directory):
            pair = _cached(folder, role)
            if anew or pair is None or not _x509.is_current(pair, self.pair, uri, wanted, self.clock()):
                pair = _x509.issue(self.pair, f"{role} {name}", uri, wanted, self.clock())
                # The key goes first: ending between the two leaves a pair that does not match and is made again.
                write_private(folder / f"{role}.key", pair.key_pem)
                write_private(folder / f"{role}.pem", pair.pem)
        return Certificate(pair.pem, Secret(pair.key_pem, version=pair.version), pair.version)

    def exported(self) -> tuple[str, ...]:
        """Return the names that the client endpoint's certificate of exports is for; none where there is no such."""
        pair = _cached(self.directory / "hosts" / EXPORTED, CLIENT_ROLE)
        return () if pair is None else _x509.addresses_of(pair)

    def first_api_key(self) -> tuple[Secret, str]:
        """Return the first API key and the line `<id8>:<sha256>` that the queen imports, perhaps its successor's."""
        return api_keys.current(self.directory), api_keys.bootstrap_line(self.directory)


def site_state(
    authority: FleetAuthority, site: Site, *, release: str, models: Mapping[str, tuple[ModelFile, ...]]
) -> SiteState:
    """Return everything that rendering needs beside the inventory, issuing what is missing."""
    certificates = {
        (role, host.name): _certificate_for(authority, site, host, role)
        for host in site.hosts
        for role in _roles(site, host)
    }
    _, line = authority.first_api_key()
    return SiteState(release, authority.ca_pem, line, certificates, models)


def issue_anew(authority: FleetAuthority, site: Site) -> tuple[str, ...]:
    """Replace every certificate of a fleet that the authority issues, and return what they are for.

    That of exports is among them; what was exported before has the old one until it is exported again.
    """
    mine = [(host, role) for host in site.hosts for role in _roles(site, host) if not _is_operators(site, role)]
    for host, role in mine:
        _certificate_for(authority, site, host, role, anew=True)
    exported = authority.exported()
    if exported:
        authority.certificate(CLIENT_ROLE, EXPORTED, exported, anew=True)
    return (*(f"{role} {host.name}" for host, role in mine), *([f"{CLIENT_ROLE} {EXPORTED}"] if exported else ()))


def _is_operators(site: Site, role: str) -> bool:
    return role == CLIENT_ROLE and isinstance(site.client_endpoint, TlsPaths)


def _certificate_for(
    authority: FleetAuthority, site: Site, host: Host, role: str, *, anew: bool = False
) -> Certificate:
    if isinstance(site.client_endpoint, TlsPaths) and role == CLIENT_ROLE:
        return operator_certificate(site.client_endpoint, authority.clock())
    local = ("localhost", "127.0.0.1", "::1") if role == CLIENT_ROLE else ()
    return authority.certificate(role, host.name, (host.reach, host.name, *local), anew=anew)


def _roles(site: Site, host: Host) -> tuple[str, ...]:
    client = (CLIENT_ROLE,) if site.client_endpoint != "plain-http" else ()
    return (*(("queen", *client) if host.queen else ()), *(("hive", "worker") if host.hive else ()))


def _load(directory: Path) -> _x509.KeyPair | None:
    pem, key = read_private(directory / "ca.pem"), read_private(directory / "ca.key")
    issued = any((directory / "hosts").glob("*/*.pem"))
    if pem is None and not issued:
        return None
    for text, name in ((pem, "ca.pem"), (key, "ca.key")):
        if text is None:
            raise AuthorityError(f"{directory / name} is missing, but its fleet exists; {_way_out(directory)}")
    try:
        return _x509.read(pem or "", key or "")
    except ValueError as error:
        raise AuthorityError(
            f"ca.pem and ca.key in {directory} are damaged ({error}); {_way_out(directory)}"
        ) from error


def _way_out(directory: Path) -> str:
    return f"restore it from a backup, or move {directory} away and {_DEPLOY_ANEW}"


def _create(directory: Path, fleet: str, now: datetime) -> _x509.KeyPair:
    pair = _x509.new_authority(fleet, now)
    # The certificate goes last and marks a complete authority.
    write_private(directory / "ca.key", pair.key_pem)
    write_private(directory / "ca.pem", pair.pem)
    return pair


def _check_owner(directory: Path, pair: _x509.KeyPair, fleet: str, now: datetime) -> None:
    if pair.certificate.subject != _x509.authority_name(fleet):
        owner = pair.certificate.subject.rfc4514_string().removeprefix("CN=rbee fleet ")
        raise AuthorityError(
            f"{directory} holds the authority of fleet {owner!r}, not of {fleet!r}; give this fleet another secrets_dir"
        )
    if not _x509.is_valid_at(pair.certificate, now):
        end = pair.certificate.not_valid_after_utc.date()
        raise AuthorityError(
            f"the authority in {directory} is not valid now (it ends on {end}); correct this machine's clock, or move "
            f"the folder away and {_DEPLOY_ANEW}"
        )


def _cached(folder: Path, role: str) -> _x509.KeyPair | None:
    pem, key = read_private(folder / f"{role}.pem"), read_private(folder / f"{role}.key")
    if pem is None or key is None:
        return None
    try:
        return _x509.read(pem, key)
    except ValueError:
        return None
