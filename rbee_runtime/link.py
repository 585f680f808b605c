"""TLS contexts, credentials and identities of every server and client inside a fleet.

Two kinds of link exist. A fleet has certificates: the deployer's CA issues one per role, the identity is the SAN URI
`rbee://<fleet>/<role>/<name>`, and both ends must show one. A laptop has a random token on loopback instead.
Everything that listens or dials asks this module, so that no other code knows which of the two it is.
"""

import hmac
import socket
import ssl
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from rbee_runtime import clock_doubts
from rbee_runtime.errors import LinkError
from rbee_runtime.origins import IDLE_SECONDS, PerOrigin

DEAD_SECONDS = 30
"""Longer than a switch needs to restart a port, so that open answers outlive that."""


class Role(StrEnum):
    """What a certificate allows its holder to be."""

    QUEEN = "queen"
    HIVE = "hive"
    WORKER = "worker"


@dataclass(frozen=True)
class Identity:
    """Who is on the other end."""

    fleet: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        """Return the SAN URI."""
        return f"rbee://{self.fleet}/{self.role}/{self.name}"


def parse_identity(uri: str) -> Identity | None:
    """Return the identity in a SAN URI, or None if it is not one of ours."""
    parts = uri.removeprefix("rbee://").split("/")
    if not uri.startswith("rbee://") or len(parts) != 3 or parts[1] not in set(Role) or not all(parts):
        return None
    return Identity(parts[0], Role(parts[1]), parts[2])


def peer_identity(certificate: dict[str, Any] | None) -> Identity | None:
    """Return the identity in `SSLObject.getpeercert()`, or None."""
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI":
            return parse_identity(value)
    return None


@dataclass(frozen=True)
class Link:
    """The credentials of one process: certificates in `directory`, or a laptop `token`.

    Files in `directory`: `ca.pem`, `<role>.pem` (certificate and chain) and `<role>.key`.
    """

    role: Role
    fleet: str
    directory: Path | None = None
    token: str = field(default="", repr=False)

    @property
    def scheme(self) -> str:
        """Return the URL scheme of the link."""
        return "https" if self.directory is not None else "http"

    def server_context(self) -> ssl.SSLContext | None:
        """Return a context that demands a certificate of this fleet, or None on a laptop."""
        if self.directory is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        self._load(context)
        return context

    def client_context(self) -> ssl.SSLContext | bool:
        """Return a context that shows our certificate and demands one of this fleet; False on a laptop (plain HTTP)."""
        if self.directory is None:
            return False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Identity is the SAN URI; addresses change, and roles are checked by `demand`.
        context.check_hostname = False
        self._load(context)
        return context

    def client(
        self, *, timeout: httpx.Timeout, peer: Role | None = None, limits: httpx.Limits | None = None
    ) -> httpx.AsyncClient:
        """Return an HTTP client for this link; with `peer`, an answer by any other role raises LinkError.

        `limits` are those of each server that it asks.
        """
        headers = {"x-rbee-token": self.token} if self.token else {}
        hooks: dict[str, list[Any]] = {}
        if peer is not None and self.directory is not None:
            hooks["response"] = [_peer_check(self.fleet, peer)]
        limits = limits or httpx.Limits()
        make = partial(
            httpx.AsyncHTTPTransport,
            verify=self.client_context(),
            limits=limits,
            trust_env=False,
            socket_options=notice_dead_peers(),
        )
        transport = PerOrigin(make, idle_seconds=max(IDLE_SECONDS, limits.keepalive_expiry or 0.0))
        return httpx.AsyncClient(
            transport=transport, timeout=timeout, headers=headers, event_hooks=hooks, trust_env=False
        )

    def accepts(self, identity: Identity | None, token: str, roles: frozenset[Role]) -> bool:
        """Say whether a caller with this certificate identity (fleet) or token (laptop) may act as one of `roles`."""
        if self.directory is None:
            return bool(self.token) and hmac.compare_digest(token.encode(), self.token.encode())
        return identity is not None and identity.fleet == self.fleet and identity.role in roles

    def doubt(self, error: BaseException) -> str:
        """Return ": " and what an error says about the clocks of both ends, "" if it is about something else."""
        own = self.directory / f"{self.role}.pem" if self.directory is not None else None
        said = clock_doubts.doubt(error, own, time.time)
        return f": {said}" if said else ""

    def _load(self, context: ssl.SSLContext) -> None:
        directory = self.directory or Path()
        try:
            context.load_verify_locations(directory / "ca.pem")
            context.load_cert_chain(directory / f"{self.role}.pem", directory / f"{self.role}.key")
        except (OSError, ssl.SSLError) as error:
            raise LinkError(
                f"cannot load the {self.role} certificate from {directory}: {error}; run the deploy again to issue it"
            ) from error


def notice_dead_peers() -> list[tuple[int, int, int]]:
    """Return socket options that end a connection whose other host went without a word.

    Otherwise a request would wait for the limit that is meant for slow answers (minutes).
    """
    interval, tries = 5, 4
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_SECONDS - interval * tries),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, tries),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_SECONDS * 1000),
    ]


def refuse_stranger(fleet: str, role: Role, certificate: dict[str, Any] | None, *, host: str) -> None:
    """Raise LinkError unless the certificate of the other end (`getpeercert()`) is of this fleet and role."""
    identity = peer_identity(certificate)
    if identity is None or identity.fleet != fleet or identity.role is not role:
        shown = identity.uri if identity is not None else "no identity of this fleet"
        raise LinkError(f"{host} answered as {shown}, expected role {role} of fleet {fleet}")


def _peer_check(fleet: str, role: Role) -> Any:
    async def check(response: httpx.Response) -> None:
        stream = response.extensions.get("network_stream")
        tls = stream.get_extra_info("ssl_object") if stream is not None else None
        refuse_stranger(fleet, role, tls.getpeercert() if tls is not None else None, host=response.request.url.host)

    return check
