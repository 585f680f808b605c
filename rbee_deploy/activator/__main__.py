"""Command line of the activator; what it says goes to standard error, a sentence first."""

import argparse
import base64
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict

from rbee_deploy.activator import (
    activation,
    ahead,
    blobs,
    database,
    disk,
    firewall,
    places,
    pruning,
    queen,
    records,
    restoring,
)
from rbee_deploy.activator.activation import BrokenError
from rbee_deploy.activator.housed import command as housed
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.rootless import command as rootless
from rbee_deploy.activator.units import ActivationError

FAILED, BROKEN = 1, 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    os.umask(0o077)
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except BrokenError as error:
        return _said(str(error), BROKEN)
    except (ActivationError, firewall.FirewallError, ValueError, OSError) as error:
        return _said(str(error), FAILED)
    return 0


def _said(text: str, status: int) -> int:
    # Whoever listened may be gone; that must not change what happens here.
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
    return status


def _stage(_options: argparse.Namespace) -> None:
    """Take in a generation and the contents that it needs, from standard input."""
    given = json.loads(sys.stdin.buffer.readline())
    generation = Generation.parse(json.dumps(given["generation"]))
    for file in generation.files:
        content = base64.b64decode(given["contents"][file.path])
        if blobs.keep(content, secret=file.secret) != file.sha256:
            raise ValueError(f"the content of {file.path} arrived damaged; run the same command again")
    disk.private_folder(places.GENERATIONS)
    disk.write(places.GENERATIONS / f"{generation.id}.json", generation.text().encode())


def _fetch(options: argparse.Namespace) -> None:
    """Have the models that standard input names fetched as the generation's hive would."""
    ahead.fetch(records.load(options.generation), sys.stdin.buffer.readline())


def _activate(options: argparse.Namespace) -> None:
    activation.activate(options.generation, _told(options))


def _rollback(options: argparse.Namespace) -> None:
    activation.activate(options.generation, _told(options), goes_back=True)


def _told(options: argparse.Namespace) -> activation.Told:
    return activation.Told(by=options.by, why=options.why, run=options.run_id)


def _prune(options: argparse.Namespace) -> None:
    with activation.alone():
        gone = pruning.prune(keep=options.keep, wanted=set(options.wanted))
    for name in gone:
        print(name)  # noqa: T201 - the answer


def _backup(_options: argparse.Namespace) -> None:
    copy = places.DATABASES / "backup.db"
    if not database.snapshot(copy):
        raise ActivationError(f"{database.path()} is not there; nothing to back up")
    try:
        database.check(copy)
        sys.stdout.write(base64.encodebytes(copy.read_bytes()).decode())
    finally:
        copy.unlink()


def _restore(options: argparse.Namespace) -> None:
    """Put a database from standard input in place of the queen's, and have the queen run on it or on the old one.

    Prints, as JSON, where the old one is kept and which keys became valid or ended by that.
    """
    content = base64.b64decode(sys.stdin.buffer.read())
    with activation.alone():
        kept = restoring.restore(content, int(time.time()))
    records.audit("restore", by=options.by, kept=str(kept or ""))
    keys = restoring.other_keys(kept) if kept is not None else []
    print(json.dumps({"kept": kept and str(kept), "keys": keys}))  # noqa: T201 - the answer


def _workers(options: argparse.Namespace) -> None:
    releases = dict(pair.partition("=")[::2] for pair in options.hives)
    asked = queen.Queen(options.port, sys.stdin.readline().strip(), options.tls)
    print(json.dumps(asdict(queen.follow(asked, releases, options.seconds))))  # noqa: T201 - the answer


def _queen(options: argparse.Namespace) -> None:
    asked = queen.Queen(options.port, sys.stdin.readline().strip(), options.tls)
    print(json.dumps(asked.call(options.method, options.path)))  # noqa: T201 - the answer


def _firewall(options: argparse.Namespace) -> None:
    if options.what == "check":
        for phrase in firewall.differences():
            print(phrase)  # noqa: T201 - the answer
    else:
        {"apply": firewall.apply, "remove": firewall.remove}[options.what]()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rbee-activator", description="Bring this host to a generation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    stage = commands.add_parser("stage", help="take in a generation from standard input")
    stage.set_defaults(run=_stage)
    fetch = commands.add_parser("fetch", help="have models fetched before the hive goes over; their specs by input")
    fetch.add_argument("generation")
    fetch.set_defaults(run=_fetch)
    activate = commands.add_parser("activate", help="bring the host to a generation that was staged")
    activate.add_argument("generation")
    activate.set_defaults(run=_activate)
    rollback = commands.add_parser("rollback", help="go back to an earlier generation, and to its database if need be")
    rollback.add_argument("generation")
    rollback.set_defaults(run=_rollback)
    prune = commands.add_parser("prune", help="remove generations, releases and engines that nothing needs")
    prune.add_argument("--keep", type=int, default=pruning.KEPT)
    prune.add_argument("wanted", nargs="*", help="engines that stay")
    prune.set_defaults(run=_prune)
    backup = commands.add_parser("backup", help="print the queen's database in base64")
    backup.set_defaults(run=_backup)
    restore = commands.add_parser("restore", help="replace the queen's database by one from standard input")
    restore.set_defaults(run=_restore)
    workers = commands.add_parser("workers", help="wait until workers run their hives' releases; the key by input")
    workers.add_argument("--seconds", type=float, required=True)
    workers.add_argument("hives", nargs="+", metavar="HIVE=RELEASE")
    workers.set_defaults(run=_workers)
    call = commands.add_parser("queen", help="call the queen's admin API; the key by input")
    call.add_argument("method")
    call.add_argument("path")
    call.set_defaults(run=_queen)
    guard = commands.add_parser("firewall", help="who may connect: put in force, name what differs, take away")
    guard.add_argument("what", choices=("apply", "check", "remove"))
    guard.set_defaults(run=_firewall)
    housed.register(commands)
    rootless.register(commands)
    for command in (workers, call):
        command.add_argument("--port", type=int, required=True)
        command.add_argument("--tls", action="store_true")
    for command in (activate, rollback, restore):
        command.add_argument("--by", default="root")
        command.add_argument("--why", default="")
        command.add_argument("--run", default="", dest="run_id")
    return parser


if __name__ == "__main__":
    sys.exit(main())
