"""The main process of a unit whose queen or hive is in a container that systemd does not watch over by itself.

Docker knows nothing of systemd, and what a rootless Podman runs belongs to another service manager, that of its user.

It hands the container the listening sockets, passes on what the container says to systemd, and ends when it does. Asked
to end, it has the container let go, and leaves one that still has open streams to them under another name.
"""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rbee_deploy.activator import disk, engines
from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.leaving import is_ready, let_go
from rbee_deploy.activator.housed.naming import naming
from rbee_deploy.activator.housed.role import ALL_CARDS, HousedRole, ids, options, run_folder
from rbee_runtime import notify, ports

ASK_SECONDS = 5.0
LEAVE_SECONDS = 18.0
"""A queen lets go within milliseconds, or kills what hangs after 15 s; a hive ends within seconds."""

FIRST_INHERITED = 3
MOST_SAID = 4096
MOST_AT_ONCE = 64
PASSED_ON = ("READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS=")
"""What a container may tell systemd of itself; the rest would speak of the unit."""

DOCKER = "docker"
ENGINES = (DOCKER, engines.ROOTLESS)
ALL_BY_RUNTIME = "--gpus=all"
"""All cards, of a daemon that does not know CDI, by NVIDIA's own runtime."""

INSIDE = "/run/rbee-unit"
"""Where the container sees the folder of this start."""

CREDENTIALS, NOTIFY, SOCKETS = "credentials", "notify.sock", "sockets.sock"
UNASKED = 1
_LOOK_SECONDS = 0.5


def run(name: str, role: HousedRole, credentials: Sequence[str], shown: Sequence[str], words: Sequence[str]) -> int:
    """Run a container of an engine until it ends, or systemd asks for that; return the exit status."""
    engine = Engine(name)
    run_folder(role)
    folder = _folder(role, credentials)
    # One that a killed predecessor left would hold name and state.
    engine.remove(role.container)
    with _bound(folder / NOTIFY, socket.SOCK_DGRAM, role) as said, _handed(folder / SOCKETS, role) as sockets:
        given = _words(engine, role, folder, shown, handed=bool(sockets))
        client = engine.start("run", "--rm", f"--name={role.container}", *given, *words)
        return _Attendant(engine, role, client, said).attend()


def _words(engine: Engine, role: HousedRole, folder: Path, shown: Sequence[str], *, handed: bool) -> list[str]:
    names = naming(engine.name)
    uid, gid = names.ids(role)
    environment = {"NOTIFY_SOCKET": f"{INSIDE}/{NOTIFY}", **({notify.SOCKETS: f"{INSIDE}/{SOCKETS}"} if handed else {})}
    return [
        "--sig-proxy=false",
        f"--user={uid}:{gid}",
        f"--mount=type=bind,source={folder / CREDENTIALS},target={role.credentials},readonly",
        f"--mount=type=bind,source={folder},target={INSIDE},readonly",
        *(f"--env={name}={path}" for name, path in environment.items()),
        *(_known(engine, word) for word in options(role, shown, names.gids)),
    ]


def _known(engine: Engine, word: str) -> str:
    """Return an option as the engine knows it."""
    return ALL_BY_RUNTIME if word == ALL_CARDS and engine.name == DOCKER and not _knows_cdi(engine) else word


def _knows_cdi(docker: Engine) -> bool:
    """Say whether the daemon looks for CDI specifications, which older ones do only when told to."""
    done = docker.run("info", "--format", "{{len .CDISpecDirs}}")
    return done.returncode == 0 and done.stdout.strip() != "0"


def _folder(role: HousedRole, names: Sequence[str]) -> Path:
    """Return a folder of this start: copies of credentials for the role's user alone, in memory, and our sockets.

    It is root's: the role could put links into one of its own. What earlier starts had goes, for nobody reads it twice.
    """
    forget(role)
    ports.UNIT_RUN.mkdir(mode=0o755, exist_ok=True)
    # An engine's user goes through it, and need not see what is in it.
    ports.UNIT_RUN.chmod(0o711)
    folder = Path(tempfile.mkdtemp(prefix=f"{role.name}-", dir=ports.UNIT_RUN))
    for path in (folder, folder / CREDENTIALS):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    for name in names:
        disk.write(folder / CREDENTIALS / name, (ports.CREDENTIALS / name).read_bytes(), mode=0o400, owner=ids(role))
    return folder


def forget(role: HousedRole) -> None:
    """Remove what earlier starts of a role had."""
    for path in ports.UNIT_RUN.glob(f"{role.name}-*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _bound(path: Path, kind: socket.SocketKind, role: HousedRole) -> Iterator[socket.socket]:
    """Yield a socket for the role's user alone."""
    with socket.socket(socket.AF_UNIX, kind) as channel:
        channel.bind(str(path))
        path.chmod(0o600)
        os.chown(path, *ids(role), follow_symlinks=False)
        channel.setblocking(kind is not socket.SOCK_DGRAM)
        yield channel


@contextlib.contextmanager
def _handed(path: Path, role: HousedRole) -> Iterator[list[int]]:
    """Hand the sockets that systemd gave to whoever connects as the role, one after the other."""
    mine = os.environ.get("LISTEN_PID") == str(os.getpid())
    count = int(os.environ.get("LISTEN_FDS", "0")) if mine else 0
    descriptors = [FIRST_INHERITED + index for index in range(count)]
    if not descriptors:
        yield []
        return
    with _bound(path, socket.SOCK_STREAM, role) as door:
        door.listen(4)
        threading.Thread(target=_hand, args=(door, descriptors), daemon=True).start()
        yield descriptors


def _hand(door: socket.socket, descriptors: list[int]) -> None:
    while True:
        try:
            caller, _ = door.accept()
        except OSError:
            return
        with caller, contextlib.suppress(OSError):
            socket.send_fds(caller, [b"\0"], descriptors)


class _Attendant:
    """Waits for what comes first: the container's end or an order to end it."""

    def __init__(
        self, engine: Engine, role: HousedRole, client: "subprocess.Popen[bytes]", said: socket.socket
    ) -> None:
        self._engine = engine
        self._role = role
        self._client = client
        self._said = said
        self._asked = False

    def attend(self) -> int:
        """Return the exit status of the unit."""
        signal.signal(signal.SIGTERM, self._ask)
        with selectors.DefaultSelector() as selector:
            selector.register(self._said, selectors.EVENT_READ)
            while not self._asked:
                if selector.select(_LOOK_SECONDS):
                    self._pass_on()
                status = self._client.poll()
                if status is not None and not self._goes_on():
                    # Nobody asked it to end: whatever it says, systemd is to start it again.
                    return status or UNASKED
        return self._leave()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def _pass_on(self) -> None:
        with contextlib.suppress(BlockingIOError):
            # Not all that there is: what speaks without pause would keep an order to end from being heard.
            for _ in range(MOST_AT_ONCE):
                text = self._said.recv(MOST_SAID).decode(errors="replace")
                lines = [line for line in text.splitlines() if line.startswith(PASSED_ON)]
                if lines:
                    notify.notify("\n".join(lines))

    def _goes_on(self) -> bool:
        """Say whether only the engine's command had ended, as when its daemon restarts; attach to what goes on then."""
        # Not for long: the container's words are passed on meanwhile, or it would be taken to hang.
        runs = self._engine.runs(self._role.container, seconds=ASK_SECONDS)
        if runs:
            self._client = self._engine.attach(self._role.container)
        # A daemon that does not answer may have it still, and is asked again.
        return runs is not False

    def _leave(self) -> int:
        name = self._role.container
        notify.notify("STOPPING=1")
        if not is_ready(self._role):
            # It may not hear a signal yet, or not even be made.
            self._client.kill()
            self._client.wait()
        else:
            self._engine.run("kill", "--signal=TERM", name)
            if self._role.name == "queen" and let_go(self._engine, self._role, name, LEAVE_SECONDS):
                found = self._engine.run("container", "inspect", "--format", "{{.Id}}", name).stdout.strip()
                self._engine.run("rename", name, f"{self._role.leaving}{found[:12]}")
                return 0
            if self._role.name != "queen":
                self._wait_end(LEAVE_SECONDS)
        self._engine.remove(name)
        return 0

    def _wait_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._client.poll() is None:
            time.sleep(_LOOK_SECONDS / 10)


def main_status(status: int) -> int:
    """Return an exit status that systemd takes for what it is, of a command that a signal ended too."""
    if status < 0:
        sys.stderr.write(f"the engine's command was ended by signal {-status}\n")
        return 1
    return status
