"""Engines of containers that a host leaves and that do not do their work any more: what they run ends without them."""

import contextlib
import os
import pwd
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
WORKER = f"/{ports.WORKER_TEMPLATE.partition('@')[0]}@"
"""In the control group of a worker that is a process of the host, and no container's."""

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
    deadline = time.monotonic() + END_SECONDS
    _send(signal.SIGTERM)
    while time.monotonic() < deadline and any(True for _ in _processes()):
        time.sleep(_POLL_SECONDS)
    _send(signal.SIGKILL)
    for network in {found.network for found in map(images.guarded, ways) if found is not None}:
        published.withdraw(network)


def _send(number: signal.Signals) -> None:
    for pid in _processes():
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                # Once more, now that the number cannot become another's.
                if _is_ours(PROC / str(pid), _uids()):
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def _processes() -> Iterator[int]:
    uids = _uids()
    yield from (int(path.name) for path in PROC.glob("[0-9]*") if _is_ours(path, uids))


def _uids() -> dict[int, str]:
    return {known.pw_uid: known.pw_name for known in pwd.getpwall() if known.pw_name in USERS}


def _is_ours(process: Path, uids: dict[int, str]) -> bool:
    """Say whether a process belongs to one of our users, still runs, and is no worker of a unit."""
    try:
        said = dict(line.partition(":\t")[::2] for line in (process / "status").read_text().splitlines())
        user = uids.get(int(said["Uid"].split()[0]))
        if user is None or said["State"].startswith(("Z", "X")):
            return False
        return user != ports.WORKER_USER or WORKER not in (process / "cgroup").read_text()
    except (OSError, KeyError, ValueError):
        # It has ended meanwhile.
        return False


def _warn(why: str) -> None:
    text = (
        f"{why}: what the engine of containers ran here is ended without it, and what it has of rbee (containers, "
        "secrets, network, images) could not be removed; once it works, purge removes that, and a deploy in containers "
        "takes it over"
    )
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{WARNING}{text}\n")
        sys.stderr.flush()
