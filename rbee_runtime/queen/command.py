"""What `rbee-queen` does: read the options, take or make the listening sockets, supervise the serving child."""

import argparse
import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from rbee_runtime import __version__, config, open_files, ports
from rbee_runtime.command_line import Parser
from rbee_runtime.config import QueenConfig
from rbee_runtime.errors import ConfigError, RbeeError
from rbee_runtime.notify import inherited_sockets
from rbee_runtime.queen import fleet, laptop
from rbee_runtime.queen.supervisor import Supervisor
from rbee_runtime.server import bind


def run(argv: Sequence[str] | None = None) -> int:
    """Run until asked to end and return the exit status: 1, after one sentence, if something is wrong."""
    open_files.allow_many()
    try:
        options = _parser().parse_args(argv)
        settings, child_options = _laptop(options) if options.attached_hive else _fleet(options)
        if options.check:
            fleet.read(settings.fleet_file)
            return 0
        client, link = listeners(settings)
        return Supervisor(child_options, client, link).run()
    except RbeeError as error:
        sys.stderr.write(f"rbee-queen: {error}\n")
        return 1


def load(path: Path) -> QueenConfig:
    """Return the queen's settings; without certificates they are kept on loopback or refused."""
    settings = config.load(path, QueenConfig)
    if settings.link_dir is not None:
        return settings
    if "address" not in settings.model_fields_set:
        return settings.model_copy(update={"address": laptop.LOOPBACK})
    try:
        loopback = ipaddress.ip_address(settings.address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"{path}: address {settings.address} needs link_dir: without certificates a queen stays on 127.0.0.1"
        )
    return settings


def listeners(settings: QueenConfig) -> tuple[socket.socket, socket.socket]:
    """Return the client and the link socket: those that systemd passed, or new ones."""
    inherited = inherited_sockets()
    wanted = (settings.port, settings.link_port)
    if not inherited:
        client = bind(settings.address, wanted[0])
        return client, bind(settings.address, wanted[1])
    missing = [port for port in wanted if port not in inherited]
    if missing:
        raise ConfigError(
            f"{ports.QUEEN_SOCKET_UNIT} listens on {sorted(inherited)}, but the settings say {list(wanted)}; "
            "run the deploy again"
        )
    return inherited[wanted[0]], inherited[wanted[1]]


def _fleet(options: argparse.Namespace) -> tuple[QueenConfig, list[str]]:
    if options.model:
        raise ConfigError("--model goes with --attached-hive; a fleet's models are in its inventory")
    path = options.config.resolve()
    if not path.exists():
        raise ConfigError(
            f"there is no {path}: a deploy writes it; to serve this machine alone, "
            "use --attached-hive --model NAME=file:/absolute/path.gguf"
        )
    return load(path), ["--config", str(path)]


def _laptop(options: argparse.Namespace) -> tuple[QueenConfig, list[str]]:
    setup = laptop.prepare(options.state_dir.resolve(), options.engines_dir.resolve(), options.port, options.model)
    return setup.config, ["--config", str(setup.queen_file), "--hive", str(setup.hive_file)]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rbee-queen", description="Serve one OpenAI-compatible endpoint over a fleet, or over this machine."
    )
    add = parser.add_argument
    add("--config", type=Path, default=ports.ETC / "queen.yaml", metavar="FILE", help="settings (default: %(default)s)")
    add(
        "--check",
        action="store_true",
        help="say what is wrong with settings and fleet file, and end (1 if anything is)",
    )
    add("--attached-hive", action="store_true", help="serve models of this machine on loopback, without a fleet")
    sources = "file:/path.gguf, hf:…, https:… or fake:…; repeatable"
    add("--model", action="append", default=[], metavar="NAME=SOURCE", help=sources)
    add("--port", type=int, default=ports.QUEEN_PORT, help="its own, and the next one (default: %(default)s)")
    add("--state-dir", type=Path, default=ports.user_root(), metavar="DIR", help="default: %(default)s")
    add("--engines-dir", type=Path, default=ports.user_root() / "engines", metavar="DIR", help="default: %(default)s")
    add("--version", action="version", version=f"rbee {__version__}")
    return parser
