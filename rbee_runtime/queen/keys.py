"""Client keys: made once, kept as digests, checked without telling which part was wrong."""

import fnmatch
import hashlib
import hmac
import re
import secrets
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from rbee_runtime.errors import ConfigError, RequestError
from rbee_runtime.queen.records import KeyRecord, Scope
from rbee_runtime.queen.store import Store

_BASE62 = string.ascii_letters + string.digits
_ID_LETTERS = string.ascii_lowercase + string.digits
_SECRET_LENGTH = 43
"""43 letters of 62 carry as much as 32 random bytes."""

_KEY = re.compile(r"rbee_([a-z0-9]{8})_[A-Za-z0-9]{20,100}")
_BOOTSTRAP = re.compile(r"([a-z0-9]{8}):([0-9a-f]{64})")
_NOBODY = KeyRecord("", "", "0" * 64, frozenset(), (), 0)


def generate() -> tuple[str, str]:
    """Return a new key and its id."""
    key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
    return f"rbee_{key_id}_{''.join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))}", key_id


def digest(key: str) -> str:
    """Return what is stored of a key; it is random enough that no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def may_use(record: KeyRecord, model: str) -> bool:
    """Say whether one of the key's globs covers the model."""
    return any(fnmatch.fnmatchcase(model, glob) for glob in record.models)


class Keys:
    """Every key, in memory for checks and in the store for good."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._records = {record.id: record for record in store.all_keys()}

    def authenticate(self, authorization: str) -> KeyRecord | None:
        """Return the key in an Authorization header, or None; an unknown id takes the same path as a wrong secret."""
        scheme, _, presented = authorization.partition(" ")
        presented = presented.strip() if scheme.lower() == "bearer" else ""
        match = _KEY.fullmatch(presented)
        record = self._records.get(match[1] if match else "", _NOBODY)
        genuine = hmac.compare_digest(digest(presented), record.digest)
        return record if genuine and not record.revoked else None

    def get(self, key_id: str) -> KeyRecord | None:
        """Return the key with that id unless it is revoked."""
        record = self._records.get(key_id)
        return None if record is None or record.revoked else record

    def active(self) -> list[KeyRecord]:
        """Return the keys that work, oldest first."""
        return [record for record in self._records.values() if not record.revoked]

    def create(self, name: str, scopes: Iterable[Scope], models: Iterable[str] = ("*",)) -> tuple[KeyRecord, str]:
        """Return a new record and its key, which nobody can read again."""
        key, key_id = generate()
        record = KeyRecord(key_id, name, digest(key), frozenset(scopes), tuple(models), int(self._now()))
        self._save(record)
        return record, key

    def revoke(self, key_id: str) -> None:
        """End a key at once, or raise RequestError 404 or 409."""
        record = self.get(key_id)
        if record is None:
            called = [record.id for record in self.active() if record.name == key_id]
            others = f"; keys are revoked by id, and called that: {', '.join(called)}" if called else ""
            raise RequestError(404, f"there is no key {key_id!r}{others}", code="key_not_found")
        admins = [other for other in self.active() if Scope.ADMIN in other.scopes]
        if admins == [record]:
            raise RequestError(409, f"{key_id} is the last admin key; create another one first", code="last_admin_key")
        self._save(replace(record, revoked=int(self._now())))

    def import_bootstrap(self, path: Path) -> bool:
        """Take over the operator's first key from `<id>:<sha256 hex>` unless its id was ever known; say whether."""
        try:
            text = path.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise ConfigError(
                f"cannot read the bootstrap key {path}: {error.strerror}; run the deploy again"
            ) from error
        match = _BOOTSTRAP.fullmatch(text)
        if match is None:
            raise ConfigError(f"{path} must hold <8 letters or digits>:<sha256 hex of the key>; run the deploy again")
        if match[1] in self._records:
            return False
        scopes = frozenset({Scope.INFER, Scope.ADMIN})
        self._save(KeyRecord(match[1], "bootstrap", match[2], scopes, ("*",), int(self._now())))
        return True

    def _save(self, record: KeyRecord) -> None:
        self._store.put_key(record)
        self._records[record.id] = record
