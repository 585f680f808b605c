"""A backup of the queen's database in place of the one in use, by a person's wish."""

import contextlib
from pathlib import Path

from rbee_deploy.activator import database, disk, places, records, units
from rbee_deploy.activator.manifest import Role
from rbee_deploy.activator.units import ActivationError

KEPT = "before-restore-*.db"
"""Copies of what was in use before, by the second."""

KEPT_COPIES = 3


def restore(content: bytes, now: int) -> Path | None:
    """Have the queen run on a backup; return where what was in use is kept, None if nothing was. `now` is Unix seconds.

    Where she does not run on it, or it cannot be put in place, she runs on what she had, and the error says why. What
    is damaged is kept and not put back.
    """
    role = _queen()
    copy, kept = places.DATABASES / "restore.db", places.DATABASES / KEPT.replace("*", str(now))
    disk.private_folder(places.DATABASES)
    try:
        disk.write(copy, content)
        database.check(copy)
        had, is_whole = _keep(kept)
        try:
            database.stop_queen()
            database.restore(copy)
            units.restart(role)
        except (ActivationError, OSError) as error:
            if not is_whole:
                with contextlib.suppress(ActivationError):
                    units.restart(role)
                raise ActivationError(f"{error}; what she had before is damaged and was not put back") from error
            _take_back(role, kept if had else None)
            raise ActivationError(f"the queen runs on what she had before, for this failed: {error}") from error
    finally:
        copy.unlink(missing_ok=True)
    return kept if had else None


def _keep(kept: Path) -> tuple[bool, bool]:
    """Keep what is in use; say whether there is anything, and whether it is whole."""
    try:
        had = database.snapshot(kept)
    except ActivationError as error:
        if not database.is_damage(error.__cause__):
            raise
        database.set_aside(kept)
        return True, False
    return had, not had or database.is_sound(kept)


def other_keys(kept: Path) -> list[dict[str, str]]:
    """Return the keys of the database before that a restore made `valid again` or `gone`, by id and name.

    None can be named where that database, or the one in use now, cannot be read.
    """
    before, after = database.keys(kept), database.keys(database.path())
    if before is None or after is None:
        return []
    is_valid = {key: after.get(key, ("", False))[1] for key in before}
    return [
        {"id": key, "name": name, "became": "valid again" if is_valid[key] else "gone"}
        for key, (name, was_valid) in before.items()
        if was_valid != is_valid[key]
    ]


def _queen() -> Role:
    roles = records.load(records.State.load().current).roles
    role = next((role for role in roles if role.name == "queen"), None)
    if role is None:
        raise ActivationError("this host is not the queen")
    return role


def _take_back(role: Role, kept: Path | None) -> None:
    try:
        database.stop_queen()
        if kept is not None:
            database.restore(kept)
    finally:
        # Also where nothing could be written: what is in use is whole.
        units.restart(role)
