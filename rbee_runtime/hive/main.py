"""`rbee-hive`: run the hive of this host until told to stop; its workers go on without it, unless they cannot."""

import argparse
import asyncio
import itertools
import os
import secrets
import signal
import sys
from pathlib import Path

import uvloop

from rbee_runtime import __version__, config, durable, logs, ports, running
from rbee_runtime.command_line import Parser
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import ConfigError, RbeeError, StateError
from rbee_runtime.hive import attached
from rbee_runtime.link import Link, Role
from rbee_runtime.notify import notify

STATUS_SECONDS = 0.5
"""How far `systemctl status` may lag behind what the queen already knows."""

PING_ROUNDS = 4
"""A status that stays is repeated, with the watchdog's ping, only so often."""

STALLED_SECONDS = 25.0
"""A supervisor that made no round for so long does not earn a watchdog ping (WatchdogSec=30)."""

TOKEN_FILE = "link-token"  # noqa: S105 - a file name
BAD_CONFIG_STATUS = 64


def main() -> None:
    """Run the command line and leave."""
    logs.capture_libraries()
    try:
        options = _parser().parse_args()
        settings = _load(options.config)
        logs.write_as(settings.log_format)
        uvloop.run(run(settings, digest=running.digest_of(options.config)))
    except ConfigError as error:
        sys.stderr.write(f"rbee-hive: {error}\n")
        sys.exit(BAD_CONFIG_STATUS)
    except RbeeError as error:
        sys.stderr.write(f"rbee-hive: {error}\n")
        sys.exit(1)


def _load(path: Path) -> HiveConfig:
    if not path.exists():
        raise ConfigError(f"there is no {path}: a deploy writes it, or give another file with --config")
    return config.load(path, HiveConfig)


async def run(settings: HiveConfig, *, digest: str) -> None:
    """Run until SIGTERM or SIGINT; raises RbeeError if the hive cannot start, or what a part of it failed with."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    hive = await attached.start(settings, _link(settings), digest=digest)
    try:
        running.write(settings.run_dir, digest=digest, pid=os.getpid())
        notify(f"READY=1\nSTATUS={hive.summary}")
        await _attend(hive, stop)
    finally:
        together = ends_with_workers(settings)
        notify(f"STOPPING=1\nSTATUS=stopping; workers {'finish their requests first' if together else 'go on'}")
        await hive.stop(stop_workers=together)


def ends_with_workers(settings: HiveConfig) -> bool:
    """Say whether workers end with this hive: those that it starts itself, where it is all that keeps a container."""
    return settings.launcher == "process" and running.is_first()


async def _attend(hive: attached.AttachedHive, stop: asyncio.Event) -> None:
    """Keep the service manager informed until asked to stop or until a part of the hive ends."""
    ends = {asyncio.create_task(stop.wait()), asyncio.create_task(hive.wait_failed())}
    said = ""
    try:
        for turn in itertools.count(1):
            done, _ = await asyncio.wait(ends, timeout=STATUS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if done:
                for task in done:
                    task.result()
                return
            if hive.summary == said and turn % PING_ROUNDS:
                continue
            said = hive.summary
            ticked = hive.supervisor.ticked
            alive = ticked is not None and attached.boot_clock() - ticked < STALLED_SECONDS
            notify(f"STATUS={said}" + ("\nWATCHDOG=1" if alive else ""))
    finally:
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


def _link(settings: HiveConfig) -> Link:
    if settings.link_dir is not None:
        return Link(Role.HIVE, settings.fleet, settings.link_dir)
    return Link(Role.HIVE, settings.fleet, token=_token(settings.state_dir / TOKEN_FILE))


def _token(path: Path) -> str:
    """Return the token of a hive without certificates; kept, so that running workers can still be called later."""
    try:
        held = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        held = ""
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot read the token in {path}: {error}; remove the file to get a new one") from error
    if not held:
        held = secrets.token_urlsafe(32)
        durable.write(path, held.encode())
    return held


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rbee-hive", description="Watch this host's devices, models and workers.")
    parser.add_argument(
        "--config", type=Path, default=ports.ETC / "hive.yaml", metavar="FILE", help="settings (default: %(default)s)"
    )
    parser.add_argument("--version", action="version", version=f"rbee {__version__}")
    return parser


if __name__ == "__main__":
    main()
