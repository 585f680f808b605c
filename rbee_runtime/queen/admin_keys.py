"""The admin API's routes for keys and what they use."""

import re
from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rbee_runtime.errors import RbeeError, RequestError
from rbee_runtime.models.references import check_name
from rbee_runtime.queen.admission import unauthenticated
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.openapi import KeyId
from rbee_runtime.queen.records import KeyLimits, KeyRecord, Priority, Scope, UsageRow
from rbee_runtime.queen.usage import Usage

KEY = "rbee.key"
"""ASGI scope key of the `KeyRecord` that asks."""

USAGE_DAYS = 30
MAX_NAME = 194
_PART = "[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,63}"
GLOB = rf"^(?!.*\.\.){_PART}(/{_PART})?(:{_PART})?$"
"""A model name (references.py) with `*` and `?`; the check itself is `_check_globs`."""

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LAST_SECOND = 253_402_300_799
"""9999-12-31, the last day that a date can name."""


def _spelled_out(scopes: object) -> object:
    """Let `admin` stand for both of its scopes, as it did when there was one."""
    if not isinstance(scopes, list):
        return scopes
    both = [Scope.ADMIN_READ, Scope.ADMIN_WRITE]
    return [each for scope in scopes for each in (both if scope == "admin" else [scope])]


def _a_day(given: object) -> object:
    """Refuse numbers, which would be taken for seconds since 1970."""
    if isinstance(given, str) and not _DAY.fullmatch(given):
        raise ValueError("write a day as 2026-11-30")
    return given


Day = Annotated[date, BeforeValidator(_a_day)]
Glob = Annotated[str, Field(max_length=MAX_NAME, json_schema_extra={"pattern": GLOB})]
Limit = Annotated[int | None, Field(ge=1, le=10**9)]


class LimitsBody(BaseModel):
    """Limits of a key; None: no limit of its own."""

    model_config = ConfigDict(extra="forbid")

    concurrency: Limit = None
    requests_per_minute: Limit = None
    tokens_per_minute: Limit = None


class NewKey(BaseModel):
    """Body of `POST /api/v1/keys`. What is left out is as it is for the key that asks, but a priority above normal.

    `expires` is in Unix seconds, 0 for never.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    scopes: Annotated[list[Scope], BeforeValidator(_spelled_out)] = Field(default=[Scope.INFER], min_length=1)
    models: list[Glob] | None = Field(default=None, min_length=1, max_length=100)
    expires: int | None = Field(default=None, ge=0, le=_LAST_SECOND)
    limits: LimitsBody = LimitsBody()
    priority: Priority | None = None


class KeyAnswer(BaseModel):
    """One client key, without its secret; times in Unix seconds, 0 for never.

    `used` is the minute of its last use; `expired` says that its end has come; `parent` is the key that made it.
    """

    id: str
    name: str
    scopes: list[Scope]
    models: list[str]
    created: int
    expires: int
    expired: bool
    limits: LimitsBody
    priority: Priority
    used: int
    parent: str


class KeyCreated(KeyAnswer):
    """Answer to a new key: the only time that the key itself is shown."""

    key: str


class UsageAnswer(BaseModel):
    """What one key used of one model on one day (UTC); see `records.UsageRow`. `name` is the key's."""

    day: date
    key: str
    name: str
    model: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    errors: int
    estimated: int


def add_routes(app: FastAPI, keys: Keys, usage: Usage) -> None:
    """Register the routes."""

    @app.get("/api/v1/keys")
    async def listed() -> list[KeyAnswer]:
        """List the keys that nobody revoked, without their secrets."""
        return [KeyAnswer.model_validate(_shown(keys, record)) for record in keys.listed()]

    @app.post("/api/v1/keys", status_code=201)
    async def create(new: NewKey, request: Request) -> KeyCreated:
        """Make a key; the only time that it is shown."""
        record, key = _create(keys, new, request.scope.get(KEY))
        return KeyCreated.model_validate({"key": key, **_shown(keys, record)})

    @app.delete("/api/v1/keys/{key_id}", status_code=204)
    async def revoke(key_id: KeyId) -> None:
        """End a key at once."""
        keys.revoke(key_id)

    @app.get("/api/v1/usage")
    async def used(
        key: Annotated[str, Query(max_length=100)] = "",
        model: Annotated[str, Query(max_length=300)] = "",
        since: Day | None = None,
        until: Day | None = None,
    ) -> list[UsageAnswer]:
        """Return what keys used, by day and model; of the last 30 days if no others are asked for."""
        last = until or datetime.now(UTC).date()
        first = since or _earlier(last, USAGE_DAYS - 1)
        return [_used(keys, row) for row in usage.report(key=key, model=model, since=first, until=last)]


def _create(keys: Keys, new: NewKey, creator: KeyRecord | None) -> tuple[KeyRecord, str]:
    if creator is None:
        raise unauthenticated()
    _check_globs(new.models or [])
    if new.expires and new.expires <= keys.now():
        raise RequestError(400, "expires: that time is over; give Unix seconds in the future", param="expires")
    wanted = new.limits.model_dump(exclude_unset=True)
    return keys.create(
        new.name,
        new.scopes,
        creator.models if new.models is None else new.models,
        expires=creator.expires if new.expires is None else new.expires,
        limits=KeyLimits(**{**vars(creator.limits), **wanted}),
        priority=new.priority or max(Priority.NORMAL, creator.priority, key=lambda priority: priority.rank),
        creator=creator,
    )


def _shown(keys: Keys, record: KeyRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "scopes": sorted(record.scopes),
        "models": list(record.models),
        "created": record.created,
        "expires": record.expires,
        "expired": not record.works(keys.now()),
        "limits": vars(record.limits),
        "priority": record.priority,
        "used": keys.used(record.id),
        "parent": record.parent,
    }


def _used(keys: Keys, row: UsageRow) -> UsageAnswer:
    record = keys.find(row.key)
    return UsageAnswer.model_validate({**vars(row), "name": "" if record is None else record.name})


def _earlier(day: date, days: int) -> date:
    return date.fromordinal(max(day.toordinal() - days, 1))


def _check_globs(globs: list[str]) -> None:
    """Refuse a glob that could match no model name."""
    for glob in globs:
        try:
            check_name(glob.replace("*", "x").replace("?", "x"))
        except RbeeError:
            message = f"models: {glob[:100]!r} is not a model name with '*' or '?'"
            raise RequestError(400, message, param="models") from None
