"""Restarts and deaths of a real queen on inherited sockets, with a real worker behind it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rbee_runtime.config import FleetModel
from rbee_runtime.errors import StateError
from rbee_runtime.protocol import Heartbeat, WorkerLaunch, WorkerReport, WorkerSpec, encode
from rbee_runtime.queen.control import Order, Word
from rbee_runtime.queen.renewal import spec_of
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.supervisor import child_command
from rbee_runtime.states import Observed
from tests.ports import free_port
from tests.unit.certificates import issue_fleet
from tests.unit.queen.states import cpu
from tests.unit.queen.units import PATIENCE, ROOT, Unit, alive, unit, wait_until

pytestmark = pytest.mark.slow

MODEL: dict[str, object] = {
    "name": "m",
    "source": "fake:tokens_per_s=20,tokens=40",
    "engine": "fake",
    "slots": 16,
}
FLEET: dict[str, object] = {"hives": [{"name": "a"}], "models": [MODEL]}


@dataclass(frozen=True)
class Worker:
    """A worker's process and the port that it serves on."""

    port: int
    process: subprocess.Popen[bytes]


def beat(u: Unit, worker_port: int) -> None:
    """Speak as hive a: every assigned worker is the real one on that port."""
    token = (u.directory / "state" / "link-token").read_text().strip()
    declared = FleetModel.model_validate(MODEL)
    workers = [
        WorkerReport(
            id=row["id"],
            model="m",
            spec=spec_of(declared, row["id"], tuple(row["devices"])).digest(),
            state=Observed.READY,
            address="127.0.0.1",
            port=worker_port,
            slots=16,
        )
        for row in u.get("/api/v1/workers").json()
    ]
    report = Heartbeat(
        hive="a",
        incarnation="1",
        url="http://127.0.0.1:1",
        epoch=0,
        revision=0,
        version="0",
        engines=("fake",),
        devices=(cpu(),),
        workers=tuple(workers),
    )
    url = f"http://127.0.0.1:{u.link_port}/api/v1/hives/a/heartbeat"
    httpx.post(url, content=encode(report), headers={"x-rbee-token": token}, timeout=PATIENCE).raise_for_status()


@contextlib.contextmanager
def real_worker(u: Unit) -> Iterator[Worker]:
    """Give a worker with the fake engine that accepts the unit's token."""
    token = (u.directory / "state" / "link-token").read_text().strip()
    spec = WorkerSpec(id="w", model="m", engine="fake", slots=16, options={"tokens_per_s": 20, "tokens": 40})
    port = free_port()
    launch = WorkerLaunch(worker=spec, host="127.0.0.1", port=port, token=token, fleet="test")
    path = u.directory / "worker.json"
    path.write_bytes(encode(launch))
    process = subprocess.Popen(
        [sys.executable, "-m", "rbee_runtime.worker.main", "--spec", str(path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/ready", token))
        yield Worker(port, process)
    finally:
        process.kill()
        process.wait()


def _answers(url: str, token: str) -> bool:
    try:
        return httpx.get(url, headers={"x-rbee-token": token}).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Unit, int]]:
    """Give one unit and the port of its worker; every test leaves a main process that serves."""
    with unit(tmp_path_factory.mktemp("running") / "unit", FLEET, drain_seconds=20) as u:
        u.start()
        with real_worker(u) as worker:
            yield u, worker.port


@pytest.fixture
def served(running: tuple[Unit, int]) -> Unit:
    """Give a unit that serves model m through a real worker."""
    u, port = running
    beat(u, port)
    beat(u, port)
    return u


class Streaming(threading.Thread):
    """One streamed answer read in the background."""

    def __init__(self, u: Unit, *, tokens: int = 40) -> None:
        super().__init__()
        self._tokens = tokens
        self._unit = u
        self.lines: list[str] = []
        self.first = threading.Event()
        self.start()
        assert self.first.wait(PATIENCE)

    def run(self) -> None:
        body = {
            "model": "m",
            "stream": True,
            "max_tokens": self._tokens,
            "messages": [{"role": "user", "content": "hi"}],
        }
        url = f"{self._unit.url}/v1/chat/completions"
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", url, json=body, headers=self._unit.headers, timeout=PATIENCE) as answer,
        ):
            for line in answer.iter_lines():
                self.lines.append(line)
                self.first.set()

    def finish(self) -> list[str]:
        self.join(PATIENCE)
        return [line for line in self.lines if line]


def test_it_serves_and_says_what_runs(served: Unit) -> None:
    """A first start imports the operator's key, serves its model and writes down what runs."""
    assert served.get("/v1/models").json()["data"][0]["state"] == "ready"
    assert served.get("/health").json()["digest"] == "abc123"
    facts = json.loads((served.directory / "run" / "running.json").read_text())
    assert facts["pid"] == served.mains[-1].process.pid
    assert Streaming(served).finish()[-1] == "data: [DONE]"


def test_a_restart_cuts_no_stream_and_refuses_no_request(served: Unit) -> None:
    """The main process goes at once; its stream runs to its end while the next one answers on the same socket."""
    old, epoch = served.mains[-1], served.get("/health").json()["epoch"]
    stream = Streaming(served, tokens=160)
    old.signal(signal.SIGTERM)
    assert old.process.wait(PATIENCE) == 0
    assert alive(old.child)
    served.start()
    assert served.get("/health").json()["epoch"] == epoch + 1
    second = Streaming(served)
    assert stream.finish()[-1] == "data: [DONE]"
    assert len(stream.lines) > 40
    assert second.finish()[-1] == "data: [DONE]"
    wait_until(lambda: not alive(old.child))


FIRST = """\
import os
from rbee_runtime import running
from rbee_runtime.queen import main
running.FIRST = os.getpid()
main.main()
"""


def test_the_first_process_of_a_container_stays_for_its_streams(tmp_path: Path) -> None:
    """It says that it has let go, which lets the next one begin, and ends when its last stream does."""
    with unit(tmp_path / "unit", FLEET, drain_seconds=20) as u:
        u.code = ("-c", FIRST)
        u.start()
        said = u.directory / "run" / "running.json"
        with real_worker(u) as worker:
            beat(u, worker.port)
            beat(u, worker.port)
            old, stream = u.mains[-1], Streaming(u, tokens=60)
            assert said.exists()
            # However long the next one takes to begin, the stream does not end meanwhile.
            worker.process.send_signal(signal.SIGSTOP)
            old.signal(signal.SIGTERM)
            wait_until(lambda: not said.exists())
            u.start()
            assert said.exists()
            assert (old.process.poll(), alive(old.child)) == (None, True)
            worker.process.send_signal(signal.SIGCONT)
            assert stream.finish()[-1] == "data: [DONE]"
            assert old.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("order", [Order.DRAIN, Order.STOP])
def test_who_has_let_go_holds_no_port(order: Order, tmp_path: Path) -> None:
    """When the child says so the supervisor ends, and systemd may open the ports anew: they must not be in use."""
    with unit(tmp_path / "unit", FLEET) as u:
        client, link = u.sockets
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        descriptors = client.fileno(), link.fileno(), theirs.fileno()
        command = child_command(["--config", str(u.directory / "queen.yaml")], *descriptors)
        with ours, subprocess.Popen(command, pass_fds=descriptors, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
            theirs.close()
            said = ours.makefile("r")
            assert said.readline() == f"{Word.READY}\n"
            ours.sendall(f"{order}\n".encode())
            assert said.readline() == f"{Word.RELEASED}\n"
            held = {str(entry.readlink()) for entry in Path(f"/proc/{child.pid}/fd").iterdir()}
            assert held & {f"socket:[{os.fstat(each.fileno()).st_ino}]" for each in u.sockets} == set()
            assert child.wait(PATIENCE) == 0


def test_requests_during_a_restart_all_succeed(served: Unit) -> None:
    """A client that opens a connection for each request sees no error over a restart."""
    stop, answers = threading.Event(), []

    def hammer() -> None:
        while not stop.is_set():
            answers.append(served.get("/v1/models").status_code)

    hammering = threading.Thread(target=hammer)
    hammering.start()
    served.mains[-1].signal(signal.SIGTERM)
    served.mains[-1].process.wait(PATIENCE)
    served.start()
    before = len(answers)
    wait_until(lambda: len(answers) > before + 3)
    stop.set()
    hammering.join()
    assert set(answers) == {200}


def test_a_killed_supervisor_lets_its_child_finish(served: Unit) -> None:
    """After kill -9 of the main process its child lets go, finishes its stream, and a new one serves."""
    old = served.mains[-1]
    stream = Streaming(served)
    old.signal(signal.SIGKILL)
    old.process.wait()
    served.start()
    assert served.get("/ready").status_code == 200
    assert stream.finish()[-1] == "data: [DONE]"
    wait_until(lambda: not alive(old.child))


def test_a_killed_child_ends_the_supervisor_with_a_failure(served: Unit) -> None:
    """The service manager gets a non-zero status, and the next start knows the worker still."""
    old = served.mains[-1]
    os.kill(old.child, signal.SIGKILL)
    assert old.process.wait(PATIENCE) == 1
    served.start()
    assert served.get("/v1/models").json()["data"][0]["state"] == "ready"
    assert Streaming(served).finish()[-1] == "data: [DONE]"


def test_a_stream_longer_than_the_drain_is_told(tmp_path: Path) -> None:
    """When the drain time is over, an open stream gets one error event instead of [DONE]."""
    with unit(tmp_path / "unit", FLEET, drain_seconds=0.3) as u:
        u.start()
        with real_worker(u) as worker:
            beat(u, worker.port)
            beat(u, worker.port)
            stream = Streaming(u, tokens=2000)
            u.mains[0].signal(signal.SIGTERM)
            last = stream.finish()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "queen_restarting"


def test_a_second_queen_on_the_same_state_says_so(served: Unit) -> None:
    """It waits a moment for a leaving one, then ends with one sentence; the first one is untouched."""
    begun = time.monotonic()
    with pytest.raises(StateError, match="another queen uses"):
        Store(served.directory / "state", lock_wait=0.2)
    assert time.monotonic() - begun >= 0.2
    assert served.get("/health").status_code == 200


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    """A bad file ends the process with status 1 and a sentence that names it."""
    with unit(tmp_path / "unit", FLEET, prot=1) as u:
        assert u.launch().wait(PATIENCE) == 1
        lines = u.log.read_text().splitlines()
    assert len(lines) == 1
    assert "unknown field 'prot'; did you mean 'port'" in lines[0]


async def test_sockets_that_do_not_fit_the_settings_are_refused(tmp_path: Path) -> None:
    """A socket unit on other ports is named, instead of listening nowhere."""
    with unit(tmp_path / "unit", FLEET, port=1234) as u:
        status = await asyncio.to_thread(u.launch().wait, PATIENCE)
        assert status == 1
        assert "1234" in u.log.read_text()


def test_the_client_endpoint_speaks_tls_when_told_to(tmp_path: Path) -> None:
    """With `client_tls` the endpoint answers over TLS, and plain HTTP gets nothing."""
    pki = issue_fleet(tmp_path / "pki", "test")
    tls = {"certificate": str(pki / "queen.pem"), "key": str(pki / "queen.key")}
    with unit(tmp_path / "unit", FLEET, client_tls=tls) as u:
        u.start()
        assert httpx.get(f"https://127.0.0.1:{u.port}/health", verify=False).json()["status"] == "ok"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{u.port}/health")
