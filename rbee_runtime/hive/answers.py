"""What the hive's API answers besides the messages of `protocol.py`: typed, so that the OpenAPI document is too."""

from typing import Any

from rbee_runtime.hive.ledger import Account
from rbee_runtime.protocol import FetchReport, Message, ModelReport, WorkerReport, WorkerSpec
from rbee_runtime.states import FetchState


class ErrorDetail(Message, frozen=True, kw_only=True):
    """Why a call was refused, in the shape that OpenAI's clients know."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorAnswer(Message, frozen=True, kw_only=True):
    """Body of every refusal."""

    error: ErrorDetail


class HealthAnswer(Message, frozen=True, kw_only=True):
    """The process answers; `digest` is that of the settings which it started with."""

    status: str
    digest: str
    version: str


class ReadyAnswer(Message, frozen=True, kw_only=True):
    """Whether the workers of this host have been looked at."""

    ready: bool
    detail: str = ""


class HiveModel(Message, frozen=True, kw_only=True):
    """One model on this host's disk or on its way there; `workers` are the ids of those that use it.

    Sizes in bytes; `done`, `total`, `rate` (bytes/s), `eta` and `next_try` (seconds) are of a fetch; `last_used` unix
    seconds.
    """

    name: str
    state: FetchState
    size: int = 0
    source: str = ""
    revision: str = ""
    pinned: bool = False
    last_used: float = 0.0
    files: int = 0
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta: float | None = None
    detail: str = ""
    next_try: float = 0.0
    workers: tuple[str, ...] = ()


class WorkerDetail(Message, frozen=True, kw_only=True):
    """All that this host knows of one worker: why it is in its state, and what happens next.

    `host` is this hive, `report` what the queen hears, `wanted` the spec that the queen asks for (None: no more).
    `streak` counts failures since it last served well, `recent_failures` those within the crash-loop window; `blocked`
    says that the same attempt is not made again; `silent` is seconds since the last probe that got an answer.
    """

    host: str
    report: WorkerReport
    wanted: WorkerSpec | None = None
    pid: int | None = None
    phase: str = ""
    next_step: str = ""
    streak: int = 0
    recent_failures: int = 0
    blocked: bool = False
    silent: float | None = None
    said: str = ""


class DrainOrder(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /api/v1/drain`: empty this host, or take workers again."""

    drain: bool


class DrainAnswer(Message, frozen=True, kw_only=True):
    """Whether this host empties itself, and how many workers still run."""

    draining: bool
    workers: int


class VerifyAnswer(Message, frozen=True, kw_only=True):
    """Whether a model's files still have the content that their names say; `damaged` names those that have not."""

    name: str
    intact: bool
    damaged: tuple[str, ...] = ()
    detail: str = ""


class LedgerHolder(Message, frozen=True, kw_only=True):
    """One worker on one device; `need` is what it may take, `measured` what it takes (None: not known), in bytes."""

    worker: str
    need: int
    measured: int | None = None
    loading: bool = False
    stopping: bool = False


class LedgerAccount(Message, frozen=True, kw_only=True):
    """What one device's memory is taken for, in bytes; `leaving` was of workers that ended and is not seen free yet."""

    device: str
    total: int
    used: int
    foreign: int
    reserved: int
    held: int
    free: int
    leaving: int = 0
    holders: tuple[LedgerHolder, ...] = ()


def model(name: str, held: ModelReport | None, fetch: FetchReport | None, workers: tuple[str, ...]) -> HiveModel:
    """Return one model from what is on disk and what is being fetched; at least one of both is given."""
    built: dict[str, Any] = {"name": name, "state": FetchState.READY, "workers": workers}
    if held is not None:
        built |= {field: getattr(held, field) for field in ("size", "source", "revision", "pinned", "last_used")}
        built["files"] = len(held.files)
    if fetch is not None:
        built |= {
            field: getattr(fetch, field) for field in ("state", "done", "total", "rate", "eta", "detail", "next_try")
        }
    return HiveModel(**built)


def account(books: Account) -> LedgerAccount:
    """Return one account of the ledger."""
    return LedgerAccount(
        device=books.device,
        total=books.total,
        used=books.used,
        foreign=books.foreign,
        reserved=books.reserved,
        held=books.held,
        free=books.free,
        leaving=sum(each.size for each in books.leaving),
        holders=tuple(
            LedgerHolder(
                worker=holder.worker,
                need=holder.need,
                measured=books.measured.get(holder.worker),
                loading=holder.loading,
                stopping=holder.stopping,
            )
            for holder in books.holders
        ),
    )
