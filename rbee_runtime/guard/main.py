"""`python -I -m rbee_runtime.guard --config FILE`: reads the settings, listens, and runs until it is told to end."""

import argparse
import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from rbee_runtime import logs, ports
from rbee_runtime.command_line import Parser
from rbee_runtime.errors import ConfigError, RbeeError
from rbee_runtime.guard import config, handing
from rbee_runtime.guard.accounts import account, door
from rbee_runtime.guard.config import GuardConfig
from rbee_runtime.guard.guard import Guard
from rbee_runtime.guard.serving import Serving
from rbee_runtime.notify import notify

PROGRAM = "python -I -m rbee_runtime.guard"
FIRST_INHERITED = 3
BACKLOG = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = Parser(prog=PROGRAM, description="Stand between a hive and its container engine.")
    parser.add_argument("--config", type=Path, default=ports.ETC / "guard.json", metavar="FILE")
    try:
        options: argparse.Namespace = parser.parse_args(arguments)
        settings = config.load(options.config)
        guard = Guard(settings, account(settings))
        handing.prepare(settings.handed, door(settings))
        asyncio.run(_run(guard, listening(settings)))
    except RbeeError as error:
        sys.stderr.write(f"rbee-guard: {error}\n")
        return 1
    return 0


def listening(settings: GuardConfig) -> socket.socket:
    """Return the socket that systemd handed over, or a new one at the settings' path; ConfigError."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        return _inherited()
    if settings.listen is None:
        raise ConfigError("no socket: start rbee-guard.socket, or set listen to a path")
    return _bound(settings.listen)


def _inherited() -> socket.socket:
    given = os.environ.get("LISTEN_FDS")
    if given != "1":
        raise ConfigError(f"systemd hands over {given} sockets: name one in the socket unit")
    found = socket.socket(fileno=FIRST_INHERITED)
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
        raise ConfigError("systemd hands over a socket that is no path: use ListenStream with one")
    return found


def _bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen at {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
    return listener


async def _run(guard: Guard, listener: socket.socket) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    serving = Serving(guard)
    await serving.start(listener)
    notify("READY=1")
    logs.info("guard_ready")
    await ended.wait()
    notify("STOPPING=1")
    await serving.stop()
