"""What systemd does for the queen, done by a test: it holds the sockets, starts the main process, hears READY."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from rbee_runtime.queen.keys import digest, generate

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 30.0


def wait_until(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Return once `condition()` is true; fail after `within` seconds."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@dataclass
class Main:
    """One run of the main process; `child` is its serving process."""

    process: subprocess.Popen[bytes]
    child: int

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)


@dataclass
class Unit:
    """A queen's unit with its socket unit; settings and state live in `directory`."""

    directory: Path
    fleet: dict[str, object]
    settings: dict[str, object] = field(default_factory=dict)
    mains: list[Main] = field(default_factory=list)
    code: tuple[str, ...] = ("-m", "rbee_runtime.queen.main")
    """What Python runs."""
    python: str = sys.executable

    def __post_init__(self) -> None:
        self.sockets = [_listening(), _listening()]
        self.port, self.link_port = (each.getsockname()[1] for each in self.sockets)
        self.key, key_id = generate()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "log"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.directory / "notify"))
        self._notify.settimeout(PATIENCE)
        bootstrap = self.directory / "bootstrap-key"
        bootstrap.write_text(f"{key_id}:{digest(self.key)}\n")
        own = {
            "fleet": "test",
            "address": "127.0.0.1",
            "port": self.port,
            "link_port": self.link_port,
            "state_dir": str(self.directory / "state"),
            "run_dir": str(self.directory / "run"),
            "fleet_file": str(self.directory / "fleet.yaml"),
            "bootstrap_key_file": str(bootstrap),
        }
        (self.directory / "queen.yaml").write_text(yaml.safe_dump({**own, **self.settings}))
        (self.directory / "queen.digest").write_text("abc123\n")
        (self.directory / "fleet.yaml").write_text(yaml.safe_dump(self.fleet))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def launch(self) -> subprocess.Popen[bytes]:
        """Start a main process without waiting for it."""
        high = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, 200) for each in self.sockets]

        def place() -> None:
            for index, descriptor in enumerate(high):
                os.dup2(descriptor, 3 + index)

        # LISTEN_PID has to be the pid of the process that reads it, which only that process knows.
        shell = 'export LISTEN_PID=$$; exec "$@"'
        command = [self.python, *self.code, "--config", str(self.directory / "queen.yaml")]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", shell, "sh", *command],
                env={**os.environ, "LISTEN_FDS": "2", "NOTIFY_SOCKET": str(self.directory / "notify")},
                pass_fds=(3, 4),
                preexec_fn=place,  # noqa: PLW1509 - two calls of dup2, before any thread exists in the child
                stderr=log,
                cwd=ROOT,
            )
        for descriptor in high:
            os.close(descriptor)
        return process

    def start(self) -> Main:
        """Start a main process and return once it said READY=1."""
        process = self.launch()
        while b"READY=1" not in self._notify.recv(4096):
            pass
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.mains.append(Main(process, int(children[0])))
        return self.mains[-1]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers, timeout=PATIENCE)

    def kill(self) -> None:
        """End the newest main process and its child as a lost power supply does."""
        main = self.mains[-1]
        for pid in (main.process.pid, main.child):
            os.kill(pid, signal.SIGKILL)
        main.process.wait()
        wait_until(lambda: not alive(main.child))

    def close(self) -> None:
        for main in self.mains:
            for pid in (main.process.pid, main.child):
                if alive(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            main.process.wait()
        for each in (*self.sockets, self._notify):
            each.close()


def _listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@contextlib.contextmanager
def unit(directory: Path, fleet: dict[str, object], **settings: object) -> Iterator[Unit]:
    """Give a unit that is gone afterwards with everything it started."""
    made = Unit(directory, fleet, settings)
    try:
        yield made
    finally:
        made.close()
