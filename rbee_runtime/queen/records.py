"""What the queen remembers: keys, their usage, loads, hives and assignments, as plain frozen values."""

from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.states import Intent, Observed


class Scope(StrEnum):
    """What a client key allows; none of them includes another."""

    INFER = "infer"
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"


class Priority(StrEnum):
    """Whose requests go first where several wait for one model, see fairness.py; the first is the highest."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BATCH = "batch"

    @property
    def rank(self) -> int:
        """Return 0 for the highest, more for those below."""
        return list(Priority).index(self)


@dataclass(frozen=True)
class KeyLimits:
    """How much a key may use; None: as much as there is. `concurrency` counts requests that wait, too."""

    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __bool__(self) -> bool:
        """Say whether there is any limit."""
        return (self.concurrency, self.requests_per_minute, self.tokens_per_minute) != (None, None, None)


NO_LIMITS = KeyLimits()


@dataclass(frozen=True)
class KeyRecord:
    """A client key at rest. `digest` is sha256 (hex) of the whole key; `models` are globs.

    Times are Unix seconds, 0 for never: `revoked` when it was ended, `expires` the first second in which it is refused,
    `used` the start of the minute in which it was used last, as far as that was written down. `parent` is the id of the
    key that made it, "" if none did.
    """

    id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    models: tuple[str, ...]
    created: int
    revoked: int = 0
    expires: int = 0
    limits: KeyLimits = NO_LIMITS
    priority: Priority = Priority.NORMAL
    parent: str = ""
    used: int = 0

    def works(self, now: float) -> bool:
        """Say whether it opens anything at a time."""
        return not self.revoked and not (self.expires and now >= self.expires)


@dataclass(frozen=True)
class UsageRow:
    """What one key used of one model on one day (UTC, `2026-11-30`).

    `requests` are those that reached a worker, `errors` tries that a worker failed, also where another one made it
    good. Tokens are as workers counted them, but of `estimated` requests, of which none did.
    """

    day: str
    key: str
    model: str
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    errors: int = 0
    estimated: int = 0

    def __add__(self, other: "UsageRow") -> "UsageRow":
        """Return the sum of two rows of one key, model and day."""
        return UsageRow(
            self.day,
            self.key,
            self.model,
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
            self.errors + other.errors,
            self.estimated + other.estimated,
        )


class Cause(StrEnum):
    """Who wanted a load."""

    REQUEST = "request"
    OPERATOR = "operator"


@dataclass(frozen=True)
class LoadRecord:
    """What outlives a restart about a load that goes on; `created` is Unix seconds.

    `content` is as in an assignment, `failures` how many loads failed before it in a row.
    """

    model: str
    content: str
    cause: Cause
    created: float
    failures: int = 0


@dataclass(frozen=True)
class HiveRecord:
    """What outlives a restart about a hive: where it answered last, and whether the operator drains it."""

    name: str
    url: str = ""
    drained: bool = False


@dataclass(frozen=True)
class Assignment:
    """One worker that the queen wants on one hive, and where it was last seen.

    `content` identifies the model's files, so that a model of the same name with other content gets a new worker.
    `port` 0 means not seen yet; `observed` is None until the hive reports it; `slots` 0 until it reports those.
    """

    spec: WorkerSpec
    hive: str
    content: str
    intent: Intent = Intent.PLACED
    address: str = ""
    port: int = 0
    observed: Observed | None = None
    slots: int = 0

    @property
    def id(self) -> str:
        """Return the worker's id."""
        return self.spec.id

    @property
    def serves(self) -> bool:
        """Say whether its hive is there and has it ready, be it that it takes no new requests just now."""
        return self.intent is Intent.PLACED and self.observed is Observed.READY

    @property
    def capacity(self) -> int:
        """Return how many requests it takes at a time."""
        return max(self.slots or self.spec.slots, 1)
