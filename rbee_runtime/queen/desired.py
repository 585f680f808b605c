"""The desired documents: built from assignments, numbered when they change, pushed until each hive follows."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import nsmallest

import httpx
import msgspec

from rbee_runtime import logs, protocol
from rbee_runtime.config import FleetFile, FleetModel
from rbee_runtime.errors import LinkError
from rbee_runtime.protocol import Desired, DesiredAck, ModelSpec, decode
from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.fleet import by_name
from rbee_runtime.queen.pulls import Pulls
from rbee_runtime.queen.records import Assignment

PUSH_TIMEOUT = httpx.Timeout(5.0, connect=2.0)
_RETRY_SECONDS = (0.2, 1.0, 5.0)
"""A hive that starts is back within a second; one that stays away hears from us again with its next heartbeat."""

MOST_AT_ONCE = 32
"""Documents on their way: of a thousand at once most would wait for their connections until it is too late."""

MOST_DOUBTED = 8
"""Of them to hives that did not take their last one: where half of a fleet is cut off, the other half does not wait."""

MOST_ROUNDS = 3
"""A document that was replaced while it waited for the disk is not sent any more, unless that goes on and on."""

MAX_HOLDERS = 4
"""As many as a hive would try before it asks the source."""


Holders = Mapping[str, Mapping[str, str]]
"""Which hives have a model on disk: model → hive → its URL."""


@dataclass(frozen=True)
class Declared:
    """What documents take from the fleet file: models by name, their places in it, and the pinned ones."""

    models: Mapping[str, FleetModel]
    order: Mapping[str, int]
    pins: tuple[str, ...]


def declared(fleet: FleetFile) -> Declared:
    """Return what documents take from the fleet file."""
    order = {model.name: number for number, model in enumerate(fleet.models)}
    return Declared(by_name(fleet), order, tuple(sorted(model.name for model in fleet.models if model.pin)))


def build(
    declared: Declared,
    assignments: Iterable[Assignment],
    base: Desired,
    holders: Holders,
    pulled: Iterable[str] = (),
) -> Desired:
    """Return `base` (fleet, epoch, revision) with a hive's workers, the models of these and of pulls, and all pins."""
    workers = tuple(sorted((entry.spec for entry in assignments), key=lambda spec: spec.id))
    needed = {*(spec.model for spec in workers), *pulled}
    names = sorted(needed & declared.models.keys(), key=declared.order.__getitem__)
    models = tuple(
        ModelSpec(name=m.name, source=m.source, files=m.files, pin=m.pin, holders=others(holders, m.name, base.hive))
        for m in map(declared.models.__getitem__, names)
    )
    return msgspec.structs.replace(base, workers=workers, models=models, pins=declared.pins)


def changed(held: Desired, built: Desired) -> bool:
    """Say whether a hive should hear of `built`.

    Who else has a model is advice: it counts only when a hive has heard of nobody yet, or every copy that is made,
    moved or lost somewhere would give every hive a new document.
    """
    if built.revision == 0 or _without_holders(built) != _without_holders(held):
        return True
    known = {model.name: model.holders for model in held.models}
    return any(model.holders and not known[model.name] for model in built.models)


def others(holders: Holders, model: str, hive: str) -> tuple[str, ...]:
    """Return where a hive can copy a model from; nowhere if it has it itself."""
    urls = holders.get(model, {})
    return () if hive in urls else tuple(urls[name] for name in nsmallest(MAX_HOLDERS, urls))


def _without_holders(document: Desired) -> Desired:
    bare = tuple(msgspec.structs.replace(model, holders=()) for model in document.models)
    return msgspec.structs.replace(document, models=bare)


@dataclass
class _Desk:
    """What a hive is told: it `rests` from when it could not be until it is time to try again."""

    document: Desired
    followed: tuple[int, int] = (0, 0)
    url: str = ""
    tries: int = 0
    problem: str = ""
    rests: bool = False


class Documents:
    """One document per hive. `run` is the only task that sends them.

    Each waits until all that led to it is `written`: no hive is to follow what a queen that starts anew does not know.
    """

    def __init__(
        self,
        fleet_id: str,
        epoch: int,
        client: httpx.AsyncClient,
        *,
        written: Callable[[], Awaitable[None]],
    ) -> None:
        self._fleet_id = fleet_id
        self._epoch = epoch
        self._client = client
        self.signature = protocol.signature(epoch, secrets.token_hex(8))
        self._written = written
        self._desks: dict[str, _Desk] = {}
        self.pulls = Pulls()
        self._new: set[str] = set()
        self._fleet: FleetFile | None = None
        self._declared = Declared({}, {}, ())
        self._wake = asyncio.Event()
        self._pushing, self._doubted = asyncio.Semaphore(MOST_AT_ONCE), asyncio.Semaphore(MOST_DOUBTED)

    def update(self, fleet: FleetFile, assigned: Assigned, hives: Iterable[str], holders: Holders) -> None:
        """Build the documents of some hives again, all after the fleet file changed, and number those that changed."""
        if fleet is not self._fleet:
            self._fleet, self._declared = fleet, declared(fleet)
            hives = {*assigned.hives(), *self._desks}
        for hive in {*hives, *self._new, *self.pulls.take_changed()}:
            desk, pulled = self._desk(hive), self.pulls.of(hive)
            built = build(self._declared, assigned.on(hive), desk.document, holders, pulled)
            if changed(desk.document, built):
                desk.document = msgspec.structs.replace(built, revision=built.revision + 1)
                desk.tries, desk.rests = 0, False
                self._wake.set()
        self._new.clear()

    def heard(self, hive: str, url: str, epoch: int, revision: int) -> Desired:
        """Note what a hive says that it follows, send it the document if that is another one, and return it."""
        desk = self._desk(hive)
        desk.url, desk.followed, desk.tries, desk.rests = url, (epoch, revision), 0, False
        if self._stale(desk):
            self._wake.set()
        return desk.document

    def unheard(self, hive: str) -> bool:
        """Say whether a hive still follows an older document than its own."""
        desk = self._desks.get(hive)
        return desk is not None and self._stale(desk)

    def problem(self, hive: str) -> str:
        """Return why a hive does not follow, or an empty string."""
        desk = self._desks.get(hive)
        return "" if desk is None else desk.problem

    def document(self, hive: str) -> Desired:
        """Return the document of a hive."""
        return self._desk(hive).document

    async def run(self) -> None:
        """Send documents until cancelled: one at a time to a hive, and to others meanwhile."""
        sending: set[str] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for hive, desk in self._desks.items():
                    if desk.url and not desk.rests and self._stale(desk) and hive not in sending:
                        sending.add(hive)
                        group.create_task(self._in_turn(hive, sending))

    def _desk(self, hive: str) -> _Desk:
        if hive not in self._desks:
            self._new.add(hive)
            self._desks[hive] = _Desk(Desired(fleet=self._fleet_id, hive=hive, epoch=self._epoch, revision=0))
        return self._desks[hive]

    @staticmethod
    def _stale(desk: _Desk) -> bool:
        wanted = (desk.document.epoch, desk.document.revision)
        return desk.document.revision > 0 and desk.followed != wanted

    async def _in_turn(self, hive: str, sending: set[str]) -> None:
        """Send a hive its document, once there is room."""
        desk = self._desks[hive]
        async with self._doubted if desk.problem else self._pushing:
            for _ in range(MOST_ROUNDS):
                sent = desk.document
                await self._written()
                if desk.document is sent:
                    break
            await self._push(hive, sent)
        sending.discard(hive)
        if desk.document is not sent:
            # What changed meanwhile was left to us.
            self._wake.set()

    async def _push(self, hive: str, document: Desired) -> None:
        desk = self._desks[hive]
        problem = await self._send(desk, document)
        if problem and problem != desk.problem:
            logs.warning("desired not accepted", hive=hive, revision=document.revision, why=problem)
        desk.problem = problem
        if not problem:
            logs.info("desired accepted", hive=hive, revision=document.revision, workers=len(document.workers))
            return
        desk.rests = desk.document is document
        if desk.tries < len(_RETRY_SECONDS):
            asyncio.get_running_loop().call_later(_RETRY_SECONDS[desk.tries], self._try_again, desk)
            desk.tries += 1

    def _try_again(self, desk: _Desk) -> None:
        desk.rests = False
        self._wake.set()

    async def _send(self, desk: _Desk, document: Desired) -> str:
        """Send one document and return what went wrong, or an empty string."""
        try:
            async with asyncio.timeout(PUSH_TIMEOUT.read):
                headers = {"content-type": "application/json", protocol.QUEEN: self.signature}
                answer = await self._client.put(
                    f"{desk.url}/api/v1/desired", content=protocol.encode(document), headers=headers
                )
            if answer.status_code != 200:
                return f"{answer.status_code}: {_sentence(answer)}"
            ack = decode(answer.content, DesiredAck)
        except (httpx.HTTPError, LinkError, TimeoutError) as error:
            return f"cannot reach {desk.url}: {error or type(error).__name__}"
        except msgspec.DecodeError as error:
            return f"{desk.url} answered something else than an acknowledgement: {error}"
        desk.followed = (ack.epoch, ack.revision)
        return ""


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
