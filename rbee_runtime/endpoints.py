"""How servers that are not the fleet's own are written down: address, names of models, authority."""

import ipaddress
import re
import ssl

import httpx

_ADDRESS = re.compile(r"https?://[A-Za-z0-9._:%\[\]-]+(/[A-Za-z0-9._~%+-]+)*/?")


def address(written: str) -> str:
    """Return where a server answers, without `/` or `/v1` at the end, or raise ValueError.

    Servers and their clients call the same place now with `/v1`, now without it.
    """
    said = "it must be http:// or https:// with a host, a port and perhaps a path, such as http://192.0.2.10:8080"
    if not _ADDRESS.fullmatch(written) or "/.." in written:
        raise ValueError(said)
    try:
        # By whoever will call it: what it cannot read must not be found out by a queen that ends.
        parts = httpx.URL(written)
        known = bool(parts.host) and 0 < (parts.port or 80) < 65536 and _is_written_whole(parts.host)
    except (httpx.InvalidURL, ValueError):
        known = False
    if not known:
        raise ValueError(said)
    return written.rstrip("/").removesuffix("/v1")


def _is_written_whole(host: str) -> bool:
    """Say whether a host of digits and dots, or of colons, is an address and no slip of one."""
    if ":" in host or not host.strip("0123456789."):
        ipaddress.ip_address(host)
    return True


def names(given: object) -> object:
    """Return a list of models as the mapping that it stands for, anything else as it is."""
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        return given
    return {name: name for name in given} if len(set(given)) == len(given) else given


def authority(pem: str) -> str:
    """Return `pem` if certificates can be verified with it, "" included, or raise ValueError."""
    try:
        trust(pem)
    except ssl.SSLError as error:
        raise ValueError(f"it holds no certificate in PEM that can be used ({error.reason or error})") from error
    return pem


def trust(pem: str) -> ssl.SSLContext:
    """Return a context that verifies servers by these authorities alone, by those that this host trusts if none."""
    return ssl.create_default_context(cadata=pem or None)
