"""`rbee-health`: an answer is 0, everything else 1 and a sentence."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rbee_runtime import health_check
from rbee_runtime.health_check import Door, door_of
from tests.unit.certificates import issue_fleet


@contextmanager
def answering(status: int, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer every request with a status on a port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def settings(folder: Path, role: str, **fields: object) -> str:
    """Write the settings of a role."""
    path = folder / ("launch.json" if role == "worker" else f"{role}.yaml")
    path.write_text(json.dumps(fields))
    return str(path)


@pytest.mark.parametrize(("role", "status", "code"), [("queen", 200, 0), ("queen", 500, 1), ("worker", 403, 0)])
def test_the_status_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str, status: int, code: int
) -> None:
    """200 is healthy, also a worker's refusal of a stranger, and nothing else."""
    with answering(status) as port:
        path = settings(tmp_path, role, port=port, host="0.0.0.0")
        assert health_check.main([role, path]) == code
    assert (capsys.readouterr().err == "") is (code == 0)


def test_a_hive_is_asked_with_its_own_certificate(tmp_path: Path) -> None:
    """A port that demands a certificate of the fleet gets the one that the process itself has."""
    issue_fleet(tmp_path, "f")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "hive.pem", tmp_path / "hive.key")
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with answering(200, context) as port:
        path = settings(tmp_path, "hive", port=port, link_dir=str(tmp_path))
        assert health_check.main(["hive", path]) == 0


def test_nobody_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that nobody holds, a file that is not there, a word that is no role."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    path = settings(tmp_path, "queen", port=port)
    for arguments, said in (
        (["queen", path], f"the queen does not answer on port {port}"),
        (["queen", str(tmp_path / "none.yaml")], "cannot read"),
        (["worker", settings(tmp_path, "worker")], "cannot read"),
        (["toaster"], "give queen, hive, worker"),
        ([], "give queen, hive, worker"),
    ):
        assert health_check.main(arguments) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("role", "given", "door"),
    [
        ("queen", {}, Door("127.0.0.1", 8500)),
        ("queen", {"port": 9, "client_tls": {"certificate": "c"}}, Door("127.0.0.1", 9, tls=True)),
        ("queen", {"client_tls": None}, Door("127.0.0.1", 8500)),
        ("queen", {"address": "192.0.2.5"}, Door("192.0.2.5", 8500)),
        ("queen", {"address": "::"}, Door("::1", 8500)),
        ("hive", {}, Door("127.0.0.1", 8600, role="hive")),
        ("hive", {"address": "10.1.1.1", "link_dir": "/l"}, Door("10.1.1.1", 8600, True, Path("/l"), "hive")),
        ("worker", {"host": "::", "port": 9000}, Door("::1", 9000, role="worker")),
    ],
)
def test_where_each_answers(role: str, given: dict[str, object], door: Door) -> None:
    """By its own settings, with the ports that are usual where they name none."""
    assert door_of(role, given) == door
