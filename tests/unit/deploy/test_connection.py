"""A connection to a host carries something large."""

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from paramiko import ECDSAKey, ServerInterface, Transport
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.packet import Packetizer

from rbee_deploy import connection

RENEWED_AFTER = 100_000
LARGE = 5 * RENEWED_AFTER


class Host(ServerInterface):
    """Lets everybody in."""

    def check_auth_none(self, username: str) -> int:
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    """Give a client's side of a connection whose host reads whatever comes; new keys are due early."""
    monkeypatch.setattr(Packetizer, "REKEY_BYTES", RENEWED_AFTER)
    ours, theirs = socket.socketpair()
    server, client = Transport(theirs), Transport(ours)
    server.packetizer.REKEY_BYTES = connection.AES_BYTES
    server.add_server_key(ECDSAKey.generate())
    server.start_server(threading.Event(), Host())
    client.start_client(timeout=20)
    client.auth_none("rbee")
    threading.Thread(target=lambda: _drain(server), daemon=True).start()
    yield client
    for side, end in ((client, ours), (server, theirs)):
        side.close()
        side.join(20)
        end.close()


def _drain(server: Transport) -> None:
    channel = server.accept(20)
    assert channel is not None
    received = 0
    while received < LARGE and (content := channel.recv(1 << 16)):
        received += len(content)
    channel.sendall(b"all")
    channel.close()


@pytest.mark.parametrize("kept", [True, False])
def test_an_upload_meets_no_change_of_keys(transport: Transport, kept: bool) -> None:
    """Whatever it carries, its keys stay; without our word they would not."""
    agreed = transport.H
    if kept:
        client = SimpleNamespace(get_transport=lambda: transport)
        connection.keep_keys(SimpleNamespace(connector=SimpleNamespace(client=client)))
    channel = transport.open_session(timeout=20)
    channel.sendall(b"x" * LARGE)
    assert channel.recv(3) == b"all"
    assert (agreed == transport.H) is kept


@pytest.mark.parametrize("connector", [SimpleNamespace(), SimpleNamespace(client=None)])
def test_what_is_no_ssh_connection_is_left_alone(connector: SimpleNamespace) -> None:
    """A host that is this very machine has no keys to keep."""
    connection.keep_keys(SimpleNamespace(connector=connector))
