"""The schema of the queen's database and its way from one version to the next; there is none back.

An older release refuses a file of a newer one, so the file as it was is kept beside it before anything changes; the
deployer keeps a copy of its own and puts that back when it goes back over a version.
"""

import os
import sqlite3
from pathlib import Path

from rbee_runtime import durable
from rbee_runtime.errors import StateError

_STEPS = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, scopes TEXT NOT NULL, models TEXT NOT NULL,
    created INTEGER NOT NULL, revoked INTEGER NOT NULL
) STRICT;
CREATE TABLE hives (name TEXT PRIMARY KEY, url TEXT NOT NULL, drained INTEGER NOT NULL) STRICT;
CREATE TABLE assignments (
    id TEXT PRIMARY KEY, hive TEXT NOT NULL REFERENCES hives (name), model TEXT NOT NULL, spec TEXT NOT NULL,
    content TEXT NOT NULL, intent TEXT NOT NULL, address TEXT NOT NULL, port INTEGER NOT NULL,
    observed TEXT NOT NULL, slots INTEGER NOT NULL
) STRICT;
""",
    """
ALTER TABLE keys ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
ALTER TABLE keys ADD COLUMN concurrency INTEGER;
ALTER TABLE keys ADD COLUMN requests_per_minute INTEGER;
ALTER TABLE keys ADD COLUMN tokens_per_minute INTEGER;
ALTER TABLE keys ADD COLUMN priority TEXT NOT NULL DEFAULT 'normal';
ALTER TABLE keys ADD COLUMN parent TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
UPDATE keys SET priority = 'interactive' WHERE scopes LIKE '%"admin"%';
UPDATE keys SET scopes = replace(scopes, '"admin"', '"admin:read","admin:write"');
CREATE TABLE usage (
    day TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, answer_tokens INTEGER NOT NULL, errors INTEGER NOT NULL,
    estimated INTEGER NOT NULL, PRIMARY KEY (day, key, model)
) STRICT, WITHOUT ROWID;
""",
    # Queens from between two releases made it beside the second version.
    """
CREATE TABLE IF NOT EXISTS load_jobs (
    model TEXT PRIMARY KEY, content TEXT NOT NULL, cause TEXT NOT NULL, created REAL NOT NULL,
    failures INTEGER NOT NULL
) STRICT;
""",
)
"""The first makes a new file; each further one moves a file on by one version and is never changed again."""

SCHEMA_VERSION = len(_STEPS)


def version(db: sqlite3.Connection) -> int:
    """Return the version of a file, 0 for a new one."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def is_current(db: sqlite3.Connection) -> bool:
    """Say whether a file is of this version."""
    return version(db) == SCHEMA_VERSION


def kept(path: Path, found: int) -> Path:
    """Return where a file of an older version is kept as it was."""
    return path.with_name(f"{path.name}.schema-{found}")


def upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Bring a file to this version in one transaction, or raise StateError or sqlite3.Error and leave it as it was."""
    found = version(db)
    if found > SCHEMA_VERSION:
        raise StateError(
            f"{path} was written by a newer rbee (schema {found}, this one knows {SCHEMA_VERSION}); "
            "install that release again or restore the backup from before the upgrade"
        )
    if found == SCHEMA_VERSION:
        return
    if found:
        _keep(db, kept(path, found))
    steps = "".join(_STEPS[found:])
    db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _keep(db: sqlite3.Connection, copy: Path) -> None:
    draft = copy.with_name(f".{copy.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    try:
        db.execute("VACUUM INTO ?", (str(draft),))
        _settle(draft)
        draft.replace(copy)
    finally:
        draft.unlink(missing_ok=True)
    durable.sync_folder(copy.parent)


def _settle(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
