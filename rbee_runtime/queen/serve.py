"""The serving child: everything that answers, on sockets that its supervisor owns."""

import argparse
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from rbee_runtime import config, logs, running
from rbee_runtime.config import HiveConfig, QueenConfig, TlsFiles
from rbee_runtime.errors import ConfigError, DamagedStateError, RbeeError
from rbee_runtime.link import Link, Role
from rbee_runtime.queen import laptop
from rbee_runtime.queen.command import load
from rbee_runtime.queen.commands import Commands
from rbee_runtime.queen.refusing import until_usable
from rbee_runtime.queen.serving import Serving
from rbee_runtime.queen.store import Store

LOCK_WAIT_SECONDS = 5.0
"""An older child that drains has let go within milliseconds; one that does not is another queen."""


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the supervisor ends, then finish what is open; exit 1 with one sentence if it cannot start."""
    options = _parser().parse_args(argv)
    logs.capture_libraries()
    # Ctrl-C reaches the whole group of processes; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        settings = load(options.config)
        logs.write_as(settings.log_format)
        hive = config.load(options.hive, HiveConfig) if options.hive is not None else None
        uvloop.run(_serve(options, settings, hive))
    except RbeeError as error:
        sys.exit(f"rbee-queen: {error}")


async def _serve(options: argparse.Namespace, settings: QueenConfig, hive: HiveConfig | None) -> None:
    client, link = _listener(options.client_fd), _listener(options.link_fd)
    _guard(options.control_fd)
    commands = Commands(socket.socket(fileno=options.control_fd))
    tls = client_context(settings.client_tls)

    def opened() -> Store:
        return Store(settings.state_dir, lock_wait=LOCK_WAIT_SECONDS)

    store: Store | None
    try:
        store = opened()
    except DamagedStateError as damage:
        if hive is not None:
            # The person who starts a laptop's queen reads the sentence, and has no clients who wait.
            raise
        store = await until_usable(opened, damage, client, commands, tls)
    if store is None:
        return
    try:
        digest = running.digest_of(options.config)
        serving = Serving(settings, store, link_of(settings), digest=digest)
        await serving.run(
            client,
            link,
            commands,
            tls=tls,
            hive=hive,
            on_ready=lambda: running.write(settings.run_dir, digest=digest, pid=os.getppid()),
            on_release=lambda: running.withdraw(settings.run_dir),
        )
    finally:
        store.close()


def link_of(settings: QueenConfig) -> Link:
    """Return the queen's credentials: certificates of a fleet or a laptop's token."""
    if settings.link_dir is not None:
        return Link(Role.QUEEN, settings.fleet, settings.link_dir)
    return Link(Role.QUEEN, settings.fleet, token=laptop.token(settings.state_dir))


def client_context(files: TlsFiles | None) -> ssl.SSLContext | None:
    """Return the TLS context of the client endpoint, None for plain HTTP, or raise ConfigError."""
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use client_tls {files.certificate} with {files.key}: {error}; both must be PEM and belong together"
        ) from error
    return context


def _listener(descriptor: int) -> socket.socket:
    _guard(descriptor)
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def _guard(descriptor: int) -> None:
    """Keep a descriptor away from processes that this one starts."""
    os.set_inheritable(descriptor, False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rbee-queen (serving)")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--hive", type=Path)
    for name in ("client", "link", "control"):
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    return parser


if __name__ == "__main__":
    main()
