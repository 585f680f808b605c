"""Stands in for queen, hive and worker inside their units: tries things and prints what was allowed, then waits."""

import json
import mmap
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

ROLE = pathlib.Path(sys.argv[0]).name.removeprefix("rbee-")
OWN = pathlib.Path(f"/var/lib/rbee/{ROLE}")
STORE = pathlib.Path("/var/lib/rbee/models/blobs")
CREDENTIALS = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"])
SYSTEMCTL = {
    "start a worker": ("systemctl", "start", "rbee-worker@w1.service"),
    "restart a worker": ("systemctl", "restart", "rbee-worker@w1.service"),
    "read its journal": ("journalctl", "-q", "--no-pager", "-n1", "-u", "rbee-worker@w1.service"),
    "stop ssh": ("systemctl", "stop", "ssh.service"),
    "kill a worker": ("systemctl", "kill", "--signal=SIGCONT", "rbee-worker@w1.service"),
    "enable a worker": ("systemctl", "enable", "rbee-worker@w1.service"),
    "change a worker": ("systemctl", "set-property", "rbee-worker@w1.service", "MemoryMax=1G"),
    "run as root": ("systemd-run", "--unit=rbee-worker@w2.service", "--uid=0", "true"),
    "reload systemd": ("systemctl", "daemon-reload"),
}


def listeners() -> list[int]:
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=3 + index).getsockname()[1] for index in range(count)]


def listed(folder: str | pathlib.Path) -> bool:
    return len([*pathlib.Path(folder).iterdir()]) >= 0


def database() -> Any:
    with sqlite3.connect(OWN / "probe.db") as connection:
        return connection.execute("pragma journal_mode=wal").fetchone()[0]


def store_file() -> str:
    path = STORE / f"by-{ROLE}"
    path.write_text("x")
    return f"{path.stat().st_mode & 0o7777:o} {path.group()}"


ATTEMPTS = {
    "credentials": lambda: sorted(path.name for path in CREDENTIALS.iterdir() if path.read_text()),
    "listeners": listeners,
    "database": database,
    "write to the store": store_file,
    "read the store": lambda: listed(STORE),
    "read queen state": lambda: listed("/var/lib/rbee/queen"),
    "read hive state": lambda: listed("/var/lib/rbee/hive"),
    "read all credentials": lambda: listed("/etc/rbee/credentials"),
    "write to the system": lambda: pathlib.Path("/etc/rbee/probe").write_text("x"),
    "read homes": lambda: listed("/home"),
    "make code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) is not None,
    "read memory size": lambda: "MemTotal" in pathlib.Path("/proc/meminfo").read_text(),
    "see other users' processes": lambda: pathlib.Path("/proc/1/comm").read_text().strip(),
}


def attempt(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except OSError as error:
        return type(error).__name__
    except sqlite3.OperationalError as error:
        return str(error)


def allowed(line: Sequence[str]) -> bool:
    return subprocess.run(line, capture_output=True, timeout=30, check=False).returncode == 0


def notify(message: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(message.encode(), os.environ.pop("NOTIFY_SOCKET"))


found = {name: attempt(action) for name, action in ATTEMPTS.items()}
notify("READY=1")
if ROLE == "hive":
    found |= {name: allowed(line) for name, line in SYSTEMCTL.items()}
if ROLE == "queen" and os.fork() == 0:
    # The child that drains: any signal at its parent's stop would end it.
    signal.alarm(120)
    signal.pause()
# Last, so that whoever reads it finds everything done.
sys.stdout.write("PROBE " + json.dumps(found) + "\n")
sys.stdout.flush()
signal.pause()
