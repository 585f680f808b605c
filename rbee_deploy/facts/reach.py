"""Whom a host reaches and under which addresses it is reached, as the state fact asks and reads it."""

import ipaddress
import shlex
from collections.abc import Iterator
from typing import Any

CONNECT_SECONDS = 3
HARD_SECONDS = 5
"""For a name service that hangs, which no timeout of a socket ends."""

_CONNECT = f"""\
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), {CONNECT_SECONDS}).close()
    print("reachable")
except ConnectionRefusedError:
    print("refused")
except socket.gaierror:
    print("unreachable: its name does not resolve there")
except socket.timeout:
    print("unreachable: no answer within {CONNECT_SECONDS} s")
except OSError as error:
    print("unreachable: " + (error.strerror or "no connection").lower())
"""

_ADDRESSES = """\
echo @addresses
if command -v ip >/dev/null 2>&1; then ip -o addr show | awk '{print $4}'; else hostname -I | tr " " "\\n"; fi"""


def script(queen: tuple[str, int] | None) -> str:
    """Return the part of the script that asks; it uses the shell's variable `python`, which may be empty."""
    return "\n".join((_ADDRESSES, *(_asking(*queen) if queen is not None else ())))


def _asking(address: str, port: int) -> Iterator[str]:
    connect = shlex.join(("-I", "-c", _CONNECT, address, str(port)))
    yield "echo @queen"
    yield f'if [ -n "$python" ]; then timeout -k 1 {HARD_SECONDS} "$python" {connect} </dev/null'
    yield f'  case $? in 124 | 137) echo "unreachable: no answer within {HARD_SECONDS} s";; esac'
    yield "fi"


def addresses(lines: list[str]) -> dict[str, Any]:
    """Return the host's addresses that mean something to other hosts."""
    return {"addresses": list(dict.fromkeys(str(found) for found in map(_address, lines) if found is not None))}


def _address(line: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(line.strip().partition("/")[0])
    except ValueError:
        return None
    return None if found.is_loopback or found.is_link_local else found


def queen(lines: list[str]) -> dict[str, Any]:
    """Return `reachable`, `refused` or `unreachable: why`; "" when nobody could ask."""
    return {"queen_link": lines[0] if lines else ""}
