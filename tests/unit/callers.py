"""Everybody who may knock at a listener of the fleet, with real certificates."""

import ssl
from pathlib import Path

import httpx

from tests.unit.certificates import Odd, issue_fleet

CALLERS = (
    "queen",
    "hive",
    "worker",
    "client",
    "other-fleet",
    "no-identity",
    "none",
    "other-authority",
    "expired",
    "not-yet-valid",
)
NO_TLS = frozenset({"none", "other-authority", "expired", "not-yet-valid"})
"""They do not get past the handshake."""


def issue(directory: Path, fleet: str, *, hive: str) -> Path:
    """Write the fleet's files and those of every other caller into `directory` and return it."""
    odd = {
        "client": Odd(f"rbee://{fleet}/client/c"),
        "other-fleet": Odd(f"rbee://{fleet}x/queen/queen"),
        "no-identity": Odd("https://example.invalid/queen"),
        "expired": Odd(f"rbee://{fleet}/queen/queen", since=-48, until=-24),
        "not-yet-valid": Odd(f"rbee://{fleet}/queen/queen", since=24, until=48),
    }
    issue_fleet(directory, fleet, names={"hive": hive}, odd=odd)
    other = issue_fleet(directory / "other", fleet)
    for kind in ("pem", "key"):
        (directory / f"other-authority.{kind}").write_bytes((other / f"queen.{kind}").read_bytes())
    return directory


def client(directory: Path, caller: str) -> httpx.AsyncClient:
    """Return a client that shows the caller's certificate and trusts the fleet's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(directory / "ca.pem")
    if caller != "none":
        context.load_cert_chain(directory / f"{caller}.pem", directory / f"{caller}.key")
    return httpx.AsyncClient(verify=context, trust_env=False, timeout=20)
