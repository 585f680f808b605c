"""Engines of containers that a host leaves and that do not do their work any more: what they run ends without them."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from rbee_deploy.activator import engines, images, places, published, units, workers
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

PROC = Path("/proc")
USERS = (ports.QUEEN_USER, ports.HIVE_USER, ports.WORKER_USER)
UNITS = (ports.QUEEN_SOCKET_UNIT, ports.QUEEN_UNIT, ports.HIVE_UNIT)
_ID = "[0-9a-f]{64}"
CONTAINER = re.compile(
    r"^(?:/[^/]+\.(?:slice|service))*"
    rf"(?:(?:/libpod_parent)?/libpod-(?:payload-)?{_ID}(?:\.scope)?(?:/container)?|/docker-{_ID}\.scope|/docker/{_ID})$"
)
"""The control group of a container, made by systemd or by the engine itself, and none inside of another container: what
is a host of its own there has users and programs of these names as well."""

_UNITS = "|".join(map(re.escape, (ports.QUEEN_UNIT, ports.HIVE_UNIT, ports.PODMAN_UNIT)))
UNIT = re.compile(rf"^/system\.slice/(?:{_UNITS})$")
"""Of containers without one of their own: those of a user without a bus are in that of what started them."""

FIRST_WORDS = 3
"""Of a command line, in which its program is, behind an interpreter and its `-m`."""

END_SECONDS = 30.0
"""For requests under way; nobody can ask an engine how far its containers are."""

_POLL_SECONDS = 0.1
WARNING = "warning: "
"""Begins a line for the report of a deploy that went well."""


def end_workers(ways: Collection[Generation], wanted: Generation) -> None:
    """End workers that nobody takes over, by their engines; where these do not, all that they run, and a line says so.

    The latter only where a host goes over to no container at all, because it could not run in them or the engine's
    program is gone with it. Otherwise it is an ActivationError: a person can start that engine first.
    """
    known = {way.id: images.engine_of(way) for way in ways}
    silent: set[str] = set()
    if not images.engine_of(wanted):
        silent = {name for name in {*known.values()} - {""} if _may_go(name, wanted) and not images.answers(name)}
    if silent:
        _end(way for way in ways if known[way.id] in silent)
    for engine in sorted(silent):
        _warn(f"{engines.program(engine)} does not answer")
    try:
        workers.end(tuple(way for way in ways if known[way.id] not in silent), wanted)
    except ActivationError as error:
        if images.engine_of(wanted) or not _fell_back(wanted):
            raise
        _end(ways)
        _warn(str(error).splitlines()[0])


def _may_go(engine: str, wanted: Generation) -> bool:
    return _fell_back(wanted) or shutil.which(engines.program(engine)) is None


def _fell_back(wanted: Generation) -> bool:
    return any(file.path == str(places.FALLBACK) for file in wanted.files)


def _end(ways: Iterable[Generation]) -> None:
    """Stop queen and hive, and end the processes of our users that are units of no more; first in their own time.

    What their engine published leads to nobody then, and would keep the ports from workers that are to come.
    """
    # Both at once: nobody is to start what was just ended.
    names = [name for name, unit in units.look(UNITS).items() if unit.load != "not-found"]
    if names:
        units.systemctl("stop", "--", *names)
    deadline, groups = time.monotonic() + END_SECONDS, _groups()
    _send(signal.SIGTERM, groups)
    while time.monotonic() < deadline and any(True for _ in _processes(groups)):
        time.sleep(_POLL_SECONDS)
    # Those of before as well: what a program of ours has left there does not bear its name.
    _send(signal.SIGKILL, groups | _groups())
    for network in {found.network for found in map(images.guarded, ways) if found is not None}:
        published.withdraw(network)


def _send(number: signal.Signals, groups: Collection[str]) -> None:
    for pid in _processes(groups):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                # Once more, now that the number cannot become another's.
                if _user(PROC / str(pid), _uids()) and _group(PROC / str(pid)) in groups:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def _groups() -> set[str]:
    """Return the control groups of engines in which a program of ours runs as its user.

    A user's number says little by itself: a container of anybody's may run with any.
    """
    return {_group(path) for path, user in _running() if _is_program(path, user)} - {""}


def _processes(groups: Collection[str]) -> Iterator[int]:
    """Give the processes of our users in control groups, whatever program they run, such as that of a model."""
    yield from (int(path.name) for path, _ in _running() if _group(path) in groups)


def _running() -> Iterator[tuple[Path, str]]:
    """Give each process that runs as one of our users, with that."""
    uids = _uids()
    yield from ((path, user) for path in PROC.glob("[0-9]*") if (user := _user(path, uids)))


def _uids() -> dict[int, str]:
    return {known.pw_uid: known.pw_name for known in pwd.getpwall() if known.pw_name in USERS}


def _user(process: Path, uids: dict[int, str]) -> str:
    """Return which of our users a process belongs to that still runs, "" if to none."""
    try:
        said = dict(line.partition(":\t")[::2] for line in (process / "status").read_text().splitlines())
        return "" if said["State"].startswith(("Z", "X")) else uids.get(int(said["Uid"].split()[0]), "")
    except (OSError, KeyError, ValueError):
        # It has ended meanwhile.
        return ""


def _group(process: Path) -> str:
    """Return the control group of a process if an engine of containers has put it there, "" otherwise."""
    try:
        paths = [line.split(":", 2)[-1] for line in (process / "cgroup").read_text().splitlines()]
    except OSError:
        return ""
    return next((path for known in (CONTAINER, UNIT) for path in paths if known.search(path)), "")


def _is_program(process: Path, user: str) -> bool:
    """Say whether a process runs the program that is named as its user, or a part of it."""
    try:
        words = (process / "cmdline").read_text(errors="replace").split("\0")[:FIRST_WORDS]
    except OSError:
        return False
    return any(Path(word).name == user or word.startswith("rbee_runtime.") for word in words)


def _warn(why: str) -> None:
    text = (
        f"{why}: what the engine of containers ran here is ended without it, and what it has of rbee (containers, "
        "secrets, network, images) could not be removed; once it works, purge removes that, and a deploy in containers "
        "takes it over"
    )
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{WARNING}{text}\n")
        sys.stderr.flush()
