"""Client keys: made once, kept as digests, checked without telling which part was wrong."""

import hashlib
import hmac
import re
import secrets
import string
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rbee_runtime.errors import ConfigError, RequestError
from rbee_runtime.queen.admission import unauthenticated
from rbee_runtime.queen.grants import excess
from rbee_runtime.queen.history import EventKind, Record, unrecorded
from rbee_runtime.queen.records import NO_LIMITS, KeyLimits, KeyRecord, Priority, Scope
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


class Keys:
    """Every key, in memory for checks and in the store for good."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self.now = now
        self.record: Record = unrecorded
        self._records = {record.id: record for record in store.all_keys()}
        self._used = {record.id: record.used for record in self._records.values()}
        self._unwritten: dict[str, int] = {}

    def authenticate(self, authorization: str) -> KeyRecord | None:
        """Return the key in an Authorization header, or None; an unknown id takes the same path as a wrong secret.

        Nothing is remembered of what was presented: all of it takes some 2 µs, and a key must not outlive its request.
        """
        scheme, _, presented = authorization.partition(" ")
        presented = presented.strip() if scheme.lower() == "bearer" else ""
        match = _KEY.fullmatch(presented)
        record = self._records.get(match[1] if match else "", _NOBODY)
        genuine = hmac.compare_digest(digest(presented), record.digest)
        now = self.now()
        if not genuine or not record.works(now):
            return None
        self._note(record.id, int(now) // 60 * 60)
        return record

    def _note(self, key_id: str, minute: int) -> None:
        if self._used.get(key_id) != minute:
            self._used[key_id] = self._unwritten[key_id] = minute

    def used(self, key_id: str) -> int:
        """Return the minute in which a key was used last, in Unix seconds, 0 for never."""
        return self._used.get(key_id, 0)

    def unwritten(self) -> dict[str, int]:
        """Return when keys were used last, of those of which the store does not know that yet."""
        return dict(self._unwritten)

    def written(self, used: Mapping[str, int]) -> None:
        """Note what the store knows now."""
        for key_id, minute in used.items():
            if self._unwritten.get(key_id) == minute:
                del self._unwritten[key_id]

    def get(self, key_id: str) -> KeyRecord | None:
        """Return the key with that id if it works."""
        record = self._records.get(key_id)
        return record if record is not None and record.works(self.now()) else None

    def find(self, key_id: str) -> KeyRecord | None:
        """Return the key with that id, also one that does not work any more."""
        return self._records.get(key_id)

    def listed(self) -> list[KeyRecord]:
        """Return the keys that nobody revoked, expired ones included, oldest first."""
        return [record for record in self._records.values() if not record.revoked]

    def active(self) -> list[KeyRecord]:
        """Return the keys that work, oldest first."""
        return [record for record in self._records.values() if record.works(self.now())]

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        models: Iterable[str] = ("*",),
        *,
        expires: int = 0,
        limits: KeyLimits = NO_LIMITS,
        priority: Priority = Priority.NORMAL,
        creator: KeyRecord | None = None,
    ) -> tuple[KeyRecord, str]:
        """Return a new record and its key, which nobody can read again.

        Raise RequestError 403 if it had more than its creator, 401 if that was ended meanwhile.
        """
        key, key_id = generate()
        record = KeyRecord(
            key_id,
            name,
            digest(key),
            frozenset(scopes),
            tuple(models),
            int(self.now()),
            expires=expires,
            limits=limits,
            priority=priority,
            parent="" if creator is None else creator.id,
        )
        if creator is not None:
            self._check(creator, record)
        self._save(record)
        self._tell(record, "created")
        return record, key

    def _check(self, creator: KeyRecord, wanted: KeyRecord) -> None:
        if self.get(creator.id) is None:
            raise unauthenticated()
        if more := excess(creator, wanted):
            message = f"a key gives no more than it has, and {creator.id} has not {more}"
            raise RequestError(403, message, kind="permission_error", code="beyond_own_rights")

    def revoke(self, key_id: str) -> None:
        """End a key at once, or raise RequestError 404 or 409."""
        record = self._records.get(key_id)
        if record is None or record.revoked:
            called = [record.id for record in self.listed() if record.name == key_id]
            others = f"; keys are revoked by id, and called that: {', '.join(called)}" if called else ""
            raise RequestError(404, f"there is no key {key_id!r}{others}", code="key_not_found")
        if why := self._irreplaceable(record):
            raise RequestError(409, f"{key_id} is {why}; create another one first", code="last_admin_key")
        self._save(replace(record, revoked=int(self.now())))
        self._tell(record, "revoked")

    def _irreplaceable(self, record: KeyRecord) -> str:
        """Return why without this key some right could be given to nobody any more, "" if another one has them all."""
        if Scope.ADMIN_WRITE not in record.scopes or not record.works(self.now()):
            return ""
        others = [other for other in self.active() if other is not record and Scope.ADMIN_WRITE in other.scopes]
        lacks = [excess(other, record) for other in others]
        if not all(lacks):
            return ""
        return f"the last admin key with {lacks[-1]}" if lacks else "the last admin key"

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
        created, first = int(self.now()), Priority.INTERACTIVE
        self._save(KeyRecord(match[1], "bootstrap", match[2], frozenset(Scope), ("*",), created, priority=first))
        return True

    def _tell(self, record: KeyRecord, change: str) -> None:
        said = {"change": change, "name": record.name, "scopes": sorted(record.scopes), "parent": record.parent}
        self.record(EventKind.KEY, record.id, said)

    def _save(self, record: KeyRecord) -> None:
        self._store.put_key(replace(record, used=self.used(record.id)))
        self._records[record.id] = record
