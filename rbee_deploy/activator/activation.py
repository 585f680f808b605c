"""From what is there to a generation, step by step, and back if a step fails."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rbee_deploy.activator import (
    complete,
    database,
    disk,
    files,
    firewall,
    lost,
    places,
    records,
    units,
    worker_rules,
    workers,
)
from rbee_deploy.activator.firewall import FirewallError
from rbee_deploy.activator.housed import switching
from rbee_deploy.activator.manifest import File, Generation, Role
from rbee_deploy.activator.records import State
from rbee_deploy.activator.undo import Retired, Undo, before, loaded, retired
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

LOCK_SECONDS = 150.0 + 2 * workers.WORKER_SECONDS
"""Another activation, perhaps one whose operator lost the connection, takes less than this with its way back: either
may end workers of a way that the host leaves."""


@dataclass(frozen=True)
class Told:
    """Who activates and why, and the id of the run that it is part of; for the records alone."""

    by: str = "root"
    why: str = ""
    run: str = ""


@dataclass
class Activation:
    """One activation under way; `goes_back` says that an older release is wanted on purpose."""

    generation: Generation
    state: State
    told: Told
    goes_back: bool = False

    def remember(self, **changes: Any) -> None:
        """Change the state on disk."""
        self.state = replace(self.state, **changes)
        self.state.save()

    @property
    def undo(self) -> Undo:
        """Return what was there before."""
        return Undo.parse(self.state.undo)

    @property
    def retired(self) -> Retired:
        """Return what the new generation has not any more."""
        ways = self.undo.ways if self.state.undo else (loaded(self.state.current),)
        return retired(self.generation, (way for way in ways if way is not None))


def _save(run: Activation) -> None:
    """Note what is there, unless an activation that did not end has done so: that one knows what worked last."""
    wanted = run.generation
    known = run.undo if run.state.undo else before(wanted, run.state.current)
    if run.state.undo and run.state.wanted:
        known = replace(known, begun=tuple(dict.fromkeys((*known.begun, run.state.wanted))))
    if _has_queen(wanted.roles) and _is_another(known, wanted) and not _is_copied(run, known):
        database.snapshot(database.copy_of(known.generation))
        known = replace(known, copied=True)
    covered = {entry.path for entry in known.paths}
    more = tuple(
        files.look(path) for path in dict.fromkeys((*_paths(wanted), *run.retired.files)) if path not in covered
    )
    run.remember(undo=asdict(replace(known, paths=(*known.paths, *more))), wanted=wanted.id)


def _is_copied(run: Activation, known: Undo) -> bool:
    """Say whether an activation that did not end has copied the database: another release may have changed it since."""
    if known.copied:
        return True
    # Noted by a release that does not say so: it made the copy whenever it went over to another one.
    begun = loaded(run.state.wanted) if run.state.undo else None
    return begun is not None and begun.release != _release(known.link)


def _is_another(known: Undo, wanted: Generation) -> bool:
    """Say whether the queen's program changes: by the host's release, or by the one in her image."""
    before, after = (
        next((item.release for item in roles if item.name == "queen"), "") for roles in (known.roles, wanted.roles)
    )
    return _release(known.link) != wanted.release or before != after


def _paths(wanted: Generation) -> tuple[str, ...]:
    return (*(file.path for file in wanted.files), *wanted.unwanted)


def _release(link: str) -> str:
    return Path(link).name


def _end_workers(run: Activation) -> None:
    lost.end_workers(run.undo.ways, run.generation)


def _place(run: Activation) -> None:
    for file in run.generation.files:
        files.place(file)


def _switch(run: Activation) -> None:
    target = str(ports.RELEASES / run.generation.release)
    if not ports.CURRENT.is_symlink() or str(ports.CURRENT.readlink()) != target:
        disk.link(ports.CURRENT, target)


def _unshadow(run: Activation) -> None:
    """Take away what would go before a new file of the same unit: systemd prefers its own folder to a generated one."""
    switching.let_queen_go(run.undo.ways, (file.path for file in run.generation.files))
    stems = {Path(role.service).stem for role in run.generation.roles}
    for path in (*run.generation.unwanted, *run.retired.files):
        if Path(path).name.partition(".")[0] in stems and files.is_systemds(path):
            units.disable([Path(path).name])
            files.remove(path)


def _register(run: Activation) -> None:
    units.register(run.generation.enabled)
    switching.let_queen_come()


def _retire(run: Activation) -> None:
    """End what the host does not do any more: a role that moved elsewhere, a mode that it has left."""
    gone = run.retired
    there = [name for name, unit in units.look(gone.units).items() if unit.load != "not-found"]
    # Not both at once: of what Quadlet generates nothing can be disabled, and then nothing would be stopped.
    units.disable(there)
    _stop(there)
    if ports.NETWORK_UNIT in gone.units:
        workers.forget()
    if not _is_guarded(run) and firewall.is_held():
        firewall.stop()


def _remove(run: Activation) -> None:
    # Not before: systemd would not start a unit again of which it knows the old text, which names them.
    gone = [path for path in (*run.generation.unwanted, *run.retired.files) if os.path.lexists(path)]
    for path in gone:
        files.remove(path)
    switching.forget(run.generation, run.retired.files)
    if run.retired.units or any(map(files.is_systemds, gone)):
        units.systemctl("daemon-reload")
        units.forget_failed(run.retired.units)


def _exchange_database(run: Activation) -> None:
    copy = database.copy_of(run.generation.id)
    if run.goes_back and _has_queen(run.generation.roles) and database.moved_on(copy):
        _put_database_back(copy)


def _set_firewall(run: Activation) -> None:
    # Before roles start: what they are to be reached by is let in, and what they open is closed to others.
    if _is_guarded(run):
        firewall.start(stale=any(ports.FIREWALL_UNIT in file.affects for file in _changed(run)))


def _is_guarded(run: Activation) -> bool:
    return ports.FIREWALL_UNIT in run.generation.enabled


def _changed(run: Activation) -> set[File]:
    return {file for file in run.generation.files if not files.is_as_wanted(file, run.undo.found(file.path))}


def _start_helpers(run: Activation) -> None:
    _bring_up(run, run.generation.helpers, {service for file in _changed(run) for service in file.affects})


def _bring_up(run: Activation, helpers: Iterable[str], affected: Collection[str]) -> None:
    """Have units that others count on run, those anew of which a file has changed, or the release of a program."""
    programs = {ports.GUARD_UNIT} if _release(run.undo.link) != run.generation.release else set()
    for name in helpers:
        if name == ports.NETWORK_UNIT:
            worker_rules.load(stale=name in affected)
        elif name in affected or name in programs:
            units.systemctl("restart", "--", name)
        elif units.look([name])[name].active != "active":
            units.systemctl("start", "--", name)


def _start(run: Activation) -> None:
    changed = _changed(run)
    for role in run.generation.roles:
        stale = any(role.service in file.affects for file in changed)
        if stale or not units.runs(role):
            units.restart(role)


def _start_target(run: Activation) -> None:
    if run.generation.target and units.look([run.generation.target])[run.generation.target].active != "active":
        units.systemctl("start", "--", run.generation.target)


def _note(run: Activation) -> None:
    run.state = run.state.reached(run.generation, time.time(), run.told.run, goes_back=run.goes_back)
    run.state.save()


Step = Callable[[Activation], None]

STEPS: tuple[tuple[str, Step], ...] = (
    ("save what is there", _save),
    ("end workers that nobody takes over", _end_workers),
    ("place files", _place),
    ("switch the release", _switch),
    ("take away what units were made of", _unshadow),
    ("register units", _register),
    ("end what is not wanted", _retire),
    ("remove old files", _remove),
    ("exchange the database", _exchange_database),
    ("set the firewall", _set_firewall),
    ("start what roles count on", _start_helpers),
    ("start roles", _start),
    ("start the target", _start_target),
    ("note it", _note),
)
"""Each may be repeated, and the one before it may have ended or not."""


def activate(generation: str, told: Told, *, goes_back: bool = False) -> None:
    """Bring the host to a generation, or to what it was before; raise ActivationError then, BrokenError if that fails.

    Nothing is changed when the generation is not complete here.
    """
    with alone():
        wanted, begun = complete.load(generation), time.monotonic()
        run = Activation(wanted, State.load(), told, goes_back)
        facts = {"generation": wanted.id, "release": wanted.release, "from": run.state.current, **asdict(told)}
        records.audit("begin", **facts)
        try:
            _walk(run)
        except (ActivationError, ValueError, OSError) as error:
            reason = str(error)
        else:
            records.audit("done", **facts, seconds=round(time.monotonic() - begun, 1))
            return
        _restore(run, reason, facts)


class BrokenError(Exception):
    """A step failed and so did the way back."""


def _walk(run: Activation) -> None:
    for name, step in STEPS:
        try:
            step(run)
        except (FirewallError, ValueError, OSError) as error:
            raise ActivationError(f"could not {name}: {error}") from error


def _restore(run: Activation, reason: str, facts: dict[str, Any]) -> None:
    told = {**facts, "reason": reason.splitlines()[0].removesuffix("; its last lines:")}
    if not run.state.undo:
        records.audit("failed", **told)
        raise ActivationError(reason)
    try:
        _go_back(run)
    except (ActivationError, FirewallError, ValueError, OSError) as error:
        records.audit("broken", **told, and_then=str(error).splitlines()[0])
        raise BrokenError(f"{reason}\nand what was there before could not be put back: {error}") from error
    run.remember(undo={}, wanted="")
    records.audit("restored", **told)
    raise ActivationError(f"{reason}\n{_what_runs()}")


def _what_runs() -> str:
    release = _release(str(ports.CURRENT.readlink())) if ports.CURRENT.is_symlink() else ""
    if not release:
        return "there was no earlier release here: all that was placed is removed again"
    return f"everything is as before: release {release} is in force again"


def _go_back(run: Activation) -> None:
    undo, roles = run.undo, run.generation.roles
    for role in roles:
        units.kill_unready(role)
    with contextlib.suppress(ActivationError):
        # An engine that does not answer now did not start them either, or the next run ends them.
        workers.end((*undo.ways, run.generation), loaded(undo.generation))
    ours = dict.fromkeys((*run.generation.enabled, *(role.service for role in roles)))
    _stop([name for name in ours if name not in undo.active])
    units.disable([name for name in run.generation.enabled if name not in undo.enabled])
    was = [entry.path for entry in undo.paths if entry.kind != "absent"]
    switching.let_queen_go((run.generation,), was, at_once=True)
    changed = {entry.path for entry in undo.paths if files.look(entry.path) != entry}
    affected = {service for file in run.generation.files if file.path in changed for service in file.affects}
    for entry in undo.paths:
        files.put_back(entry)
    if any(entry.kind == "absent" and files.is_systemds(entry.path) for entry in undo.paths if entry.path in changed):
        # What Quadlet made of a file that is gone could be started still.
        units.systemctl("daemon-reload")
    _put_link_back(undo.link)
    units.register(name for name in _ours(run) if name in undo.enabled)
    switching.let_queen_come()
    copy = database.copy_of(undo.generation)
    if _has_queen(roles) and database.moved_on(copy) and (undo.copied or _release(undo.link) != run.generation.release):
        _put_database_back(copy)
    old = loaded(undo.generation)
    if ports.NETWORK_UNIT in run.generation.enabled and (old is None or ports.NETWORK_UNIT not in old.enabled):
        workers.forget()
    _bring_up(run, (name for name in (old.helpers if old is not None else ()) if name in undo.active), affected)
    for role in undo.roles:
        ran = role.service in undo.active and bool(role.digest)
        if ran and (role.service in affected or not units.runs(role)):
            units.restart(role)
    switching.forget(old or Generation("", ""), [file.path for file in run.generation.files])
    _listen_again([name for name in undo.active if name.endswith(".socket")])
    _put_firewall_back(run, stale=ports.FIREWALL_UNIT in affected)
    # One that did not stop as it should, or was never ready, is not there any more.
    units.forget_failed([name for name in ours if name not in undo.active])


def _put_firewall_back(run: Activation, *, stale: bool) -> None:
    # After roles: one that fails must not keep them from running.
    if ports.FIREWALL_UNIT in run.undo.active:
        firewall.start(stale=stale)
    elif firewall.is_held():
        firewall.stop()


def _ours(run: Activation) -> tuple[str, ...]:
    """Return the units of both generations, this one's first."""
    return tuple(dict.fromkeys((*run.generation.enabled, *run.retired.units)))


def _put_link_back(target: str) -> None:
    if target:
        disk.link(ports.CURRENT, target)
    elif ports.CURRENT.is_symlink():
        ports.CURRENT.unlink()


def _stop(names: list[str]) -> None:
    if names:
        units.systemctl("stop", "--", *names)


def _listen_again(names: list[str]) -> None:
    idle = [name for name, unit in units.look(names).items() if unit.active != "active"]
    if idle:
        units.systemctl("start", "--", *idle)


def _has_queen(roles: tuple[Role, ...]) -> bool:
    return any(role.name == "queen" for role in roles)


def _put_database_back(copy: Path) -> None:
    database.stop_queen()
    database.restore(copy)


@contextmanager
def alone() -> Iterator[None]:
    """Be the only activation on this host, or raise ActivationError after some patience."""
    disk.private_folder(places.RUN)
    handle = os.open(places.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ActivationError(
                        "another activation is under way on this host; run the same command later"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(handle)
