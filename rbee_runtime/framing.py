"""What a head of HTTP/1 may look like, beyond what the parser (llhttp, strict) refuses by itself. Pure.

The parser refuses conflicting and repeated lengths, bad chunks, bare line ends, folded lines and spaces before colons.
What is left are requests that it understands and that another server may understand otherwise (RFC 9112 and 9110).
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from rbee_runtime.errors import RequestError

MOST_HEADERS = 128
"""Official clients send some 25; what each of them costs is bounded with them."""

LONGEST_TARGET, LONGEST_HOST = 8 * 1024, 300
"""More than any client needs, and little enough to remember a thousand of them."""

VERSIONS = frozenset({"1.0", "1.1"})
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
_TARGET = re.compile(rb"(?:https?://[^/?#\\]+)?/[^#\\\x00-\x20\x7f-\xff]*", re.IGNORECASE)
_CONTINUE = b"100-continue"
_ONCE = frozenset({b"host", b"authorization", b"x-api-key", b"x-rbee-token", b"content-type"})
"""Of two, one server would take the first and another the last."""

_HOP = frozenset({b"connection", b"upgrade", b"http2-settings"})

Headers = list[tuple[bytes, bytes]]


def demand_sound(version: str, target: bytes, headers: Headers, by_name: Mapping[bytes, bytes]) -> None:
    """Raise RequestError for a head that is refused; names are in lower case, `by_name` has each of them once."""
    if version not in VERSIONS:
        raise _refused(505, f"this server speaks HTTP/1.1, not HTTP/{version}")
    if len(target) > LONGEST_TARGET:
        raise _refused(414, f"the target of a request has at most {LONGEST_TARGET} bytes")
    _demand_target(target)
    if len(headers) > MOST_HEADERS:
        raise _refused(431, f"a request has at most {MOST_HEADERS} headers")
    host = by_name.get(b"host")
    if len(by_name) < len(headers):
        _demand_single(headers)
    if host is None and version == "1.1":
        raise _refused(400, "a request names its host in exactly one Host header")
    if host is not None and len(host) > LONGEST_HOST:
        raise _refused(400, f"a name of a host has at most {LONGEST_HOST} bytes")
    _demand_host(host or b"")
    if b"transfer-encoding" in by_name:
        _demand_chunked(version, [value for name, value in headers if name == b"transfer-encoding"])
    if by_name.get(b"expect", _CONTINUE).lower() != _CONTINUE:
        raise _refused(417, "no expectation but 100-continue is met here")


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Return the head of a request that asks for another protocol as one that does not: nobody has to agree to that.

    The parser stops at such a head and would leave out the body. Clients on the JVM send it with every first request.
    """
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version.encode())]
    lines += [b"%b: %b\r\n" % (name, value) for name, value in headers if name not in _HOP]
    if any(name == b"connection" and b"close" in value.lower() for name, value in headers):
        lines.append(b"connection: close\r\n")
    return b"".join([*lines, b"\r\n"])


def _demand_single(headers: Headers) -> None:
    names = [name for name, _ in headers if name in _ONCE]
    for name in names:
        if names.count(name) > 1:
            raise _refused(400, f"a request has at most one header {name.decode()}")


@lru_cache(maxsize=1024)
def _demand_target(target: bytes) -> None:
    if _TARGET.fullmatch(target) is None:
        raise _refused(400, "the target of a request is a path that begins with '/', without spaces or a fragment")


@lru_cache(maxsize=1024)
def _demand_host(value: bytes) -> None:
    if _HOST.fullmatch(value) is None:
        raise _refused(400, "the Host header is no name or address of a host")


def _demand_chunked(version: str, codings: list[bytes]) -> None:
    if version == "1.0":
        raise _refused(400, "HTTP/1.0 has no Transfer-Encoding")
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        raise _refused(501, "no transfer coding but chunked is understood here; send the body as it is")


def _refused(status: int, message: str) -> RequestError:
    return RequestError(status, message, code="bad_framing")
