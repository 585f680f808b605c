"""The part of the state fact about addresses and the way to the queen, run for real on loopback."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rbee_deploy.facts import reach
from rbee_deploy.facts.state import RbeeState


def read(queen: tuple[str, int] | None, python: str = sys.executable) -> dict[str, Any]:
    """Run the part as the script does, with the Python that it found."""
    done = subprocess.run(
        ["sh", "-c", reach.script(queen)], capture_output=True, text=True, env={"python": python}, check=False
    )
    return RbeeState().process(["@sudo ok", *done.stdout.splitlines()])


@contextlib.contextmanager
def listener() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        yield server.getsockname()


def test_a_queen_that_listens_is_reachable() -> None:
    """A connection is enough, nothing has to be said."""
    with listener() as address:
        assert read(address)["queen_link"] == "reachable"


def test_a_queen_that_does_not_run_yet_refuses() -> None:
    """A refused connection came from the right machine."""
    with listener() as address:
        closed = address
    assert read(closed)["queen_link"] == "refused"


def test_a_name_that_does_not_resolve_is_said() -> None:
    """A name that only the operator's machine knows is no way to the queen."""
    assert read(("queen.invalid", 8501))["queen_link"] == "unreachable: its name does not resolve there"


@pytest.mark.slow
def test_a_queen_behind_a_silent_firewall_is_said_in_time() -> None:
    """Packets that nobody answers cost three seconds, not the kernel's minutes."""
    with listener() as address, contextlib.ExitStack() as held:
        for _ in range(4):  # the queue of one is full, and the kernel drops what comes after
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        assert read(address)["queen_link"] == "unreachable: no answer within 3 s"


def test_without_python_nobody_can_ask() -> None:
    """A host that has no Python yet does not know, and says nothing."""
    assert read(("127.0.0.1", 1), python="")["queen_link"] == ""


def test_the_queen_herself_is_not_asked() -> None:
    """A host with nothing to try has no such entry."""
    assert "queen_link" not in read(None)


def test_an_address_runs_nothing() -> None:
    """Whatever stands in the inventory is an argument, not a part of the script."""
    assert read(("$(echo reachable); echo reachable #", 1))["queen_link"].startswith("unreachable: ")


def test_addresses_are_those_that_others_can_use() -> None:
    """Loopback and link-local addresses are left out, and what is no address."""
    lines = ["127.0.0.1/8", "192.0.2.10/24", "192.0.2.10/24", "fe80::1/64", "fd00::2/64", "nonsense", ""]
    assert reach.addresses(lines) == {"addresses": ["192.0.2.10", "fd00::2"]}
