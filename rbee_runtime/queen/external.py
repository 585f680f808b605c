"""Servers that are not the fleet's own: asked whether they are there, and shown to routing like workers.

Nothing is asked or sent but to the addresses that the inventory names: no redirect is followed, no proxy of the
environment used, no cookie kept, and no credential of the fleet shown.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx
import msgspec

from rbee_runtime import endpoints, logs
from rbee_runtime.brief import cut, few
from rbee_runtime.config import FleetExternal
from rbee_runtime.gateway.seam import Door
from rbee_runtime.gateway.upstream import CONNECT_SECONDS, Pool
from rbee_runtime.link import notice_dead_peers
from rbee_runtime.protocol import decode
from rbee_runtime.queen.seats import Seat

READY_SECONDS, AWAY_SECONDS = 5.0, 2.0
"""How often a server is asked while it serves, and while it does not: requests may wait for it."""

TICK_SECONDS = 0.5
DEADLINE_SECONDS = 4.0
WAIT_SECONDS = 10.0
"""How long a request waits for a server that is away: its owner restarts it in seconds, and nobody here can help."""

MOST_BYTES, MOST_LETTERS, MOST_NAMES = 1024 * 1024, 160, 5
_NO_LIST = frozenset({404, 405, 501})
_ANY_NAME = "llamacpp"
"""The owner in llama-server's list: it has one model and takes it by any name."""


@dataclass(frozen=True)
class Look:
    """What a server said last: why it does not serve, and which models it has, None if it did not say."""

    problem: str = "was not asked yet"
    models: frozenset[str] | None = None

    def lacks(self, model: str) -> str:
        """Return why requests for its own model of that name do not go there, "" if they do."""
        if self.problem or self.models is None or {model, f"{model}:latest"} & self.models:
            return self.problem
        return f"has no model {model!r}; it has {few(sorted(self.models), MOST_NAMES) or 'none'}"


@dataclass(frozen=True)
class Place:
    """One model of one server, by the name that clients ask for; `problem` says why it gets no requests."""

    server: FleetExternal
    model: str
    problem: str

    @property
    def id(self) -> str:
        """Return what it is called among workers, whose own ids have no colon."""
        return f"{self.server.name}:{self.model}"


@dataclass
class _Known:
    """A declared server and what is known of it."""

    server: FleetExternal
    look: Look = field(default_factory=Look)
    authorization: str = ""
    due: float = 0.0


class Externals:
    """Owns what is known of each declared server; changes in plain calls on one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._clock = clock
        self._declared: tuple[FleetExternal, ...] = ()
        self._known: dict[str, _Known] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._pools: dict[str, Pool] = {}

    def follow(self, declared: tuple[FleetExternal, ...]) -> None:
        """Take what the fleet file says; a server whose line is as before stays known."""
        if declared is self._declared:
            return
        same = {name: known for name, known in self._known.items() if known.server in declared}
        self._declared = declared
        self._known = {server.name: same.get(server.name) or _Known(server) for server in declared}

    def places(self) -> Iterator[Place]:
        """Yield every model of every server."""
        for known in self._known.values():
            for model, own in known.server.models.items():
                yield Place(known.server, model, known.look.lacks(own))

    def seats(self) -> list[Seat]:
        """Return them as routing sees them."""
        return [
            Seat(
                place.id,
                place.model,
                place.server.url,
                place.server.slots,
                usable=not place.problem,
                pool=place.server.name,
                door=self._door(place),
            )
            for place in self.places()
        ]

    def absence(self, model: str) -> str:
        """Return why the servers that are to have a model do not serve it, "" if none is to have it or all do."""
        away = [place for place in self.places() if place.model == model and place.problem]
        return "; ".join(f"{place.server.name} {place.problem}" for place in away)

    def doubt(self, worker: str) -> None:
        """Take a server that refuses connections out of rotation until it answers again."""
        place = next((place for place in self.places() if place.id == worker), None)
        if place is not None and not place.problem:
            self._note(self._known[place.server.name], Look("takes no connections"))
            self.on_change()

    async def run(self) -> None:
        """Ask each server when it is due, until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(TICK_SECONDS)

    async def once(self) -> None:
        """Ask those that are due, side by side."""
        due = [known for known in self._known.values() if known.due <= self._clock()]
        changes = await asyncio.gather(*(self._asked(known) for known in due))
        if any(changes):
            self.on_change()

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()
        for client in self._clients.values():
            await client.aclose()

    async def _asked(self, known: _Known) -> bool:
        server, before = known.server, (known.look, known.authorization)
        try:
            known.authorization = authorization(server)
        except (OSError, ValueError) as error:
            look = Look(f"gets no requests: its key cannot be read from {server.key_file}: {error}")
        else:
            look = await _look(self._client(server), server.url, known.authorization)
        self._note(known, look)
        return (known.look, known.authorization) != before

    def _note(self, known: _Known, look: Look) -> None:
        known.due = self._clock() + (AWAY_SECONDS if look.problem else READY_SECONDS)
        if look.problem != known.look.problem:
            logs.info("external", name=known.server.name, state="away" if look.problem else "ready", why=look.problem)
        known.look = look

    def _door(self, place: Place) -> Door:
        server = place.server
        return Door(self._pool(server), server.models[place.model], self._known[server.name].authorization)

    def _pool(self, server: FleetExternal) -> Pool:
        # One for each authority, kept to the end: an answer may still come by it when its server's line is gone.
        if server.ca not in self._pools:
            self._pools[server.ca] = Pool(tls=endpoints.trust(server.ca))
        return self._pools[server.ca]

    def _client(self, server: FleetExternal) -> httpx.AsyncClient:
        if server.ca not in self._clients:
            self._clients[server.ca] = client(server.ca)
        return self._clients[server.ca]


def client(ca: str) -> httpx.AsyncClient:
    """Return a client for servers that are verified by these authorities (PEM; "": those that this host trusts)."""
    transport = httpx.AsyncHTTPTransport(
        verify=endpoints.trust(ca), trust_env=False, socket_options=notice_dead_peers()
    )
    nobody = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
    return httpx.AsyncClient(
        transport=transport, timeout=timeout, trust_env=False, cookies=nobody, follow_redirects=False
    )


def authorization(server: FleetExternal) -> str:
    """Return what is sent as Authorization, "" without a key; raise OSError or ValueError if a key is not there."""
    if server.key_file is None:
        return ""
    keys = (line.partition("=") for line in Path(server.key_file).read_text(encoding="utf-8").splitlines())
    key = next((key.strip() for name, _, key in keys if name.strip() == server.name), "")
    if not key:
        raise ValueError(f"it has no line {server.name}=…")
    return f"Bearer {key}"


async def _look(to: httpx.AsyncClient, url: str, key: str) -> Look:
    headers = {"accept": "application/json", **({"authorization": key} if key else {})}
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            status, body = await _get(to, f"{url}/v1/models", headers)
            if status not in _NO_LIST:
                return listed(status, body)
            status, _ = await _get(to, f"{url}/health", headers)
            return Look("" if status == 200 else f"has no list of models, and answers {status} to /health")
    except TimeoutError:
        return Look(f"did not answer within {DEADLINE_SECONDS:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        # Also an address, or one that it sends elsewhere to, that cannot be read: nobody else may suffer from that.
        return Look(f"does not answer: {cut(str(error).rstrip('.') or type(error).__name__, MOST_LETTERS).lower()}")


async def _get(to: httpx.AsyncClient, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    body = b""
    async with to.stream("GET", url, headers=headers) as response:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MOST_BYTES:
                break
    return response.status_code, body


class _Row(msgspec.Struct):
    id: str
    owned_by: str | None = None


class _List(msgspec.Struct):
    data: list[_Row] | None


def listed(status: int, body: bytes) -> Look:
    """Return what an answer of `GET /v1/models` says; Ollama without models has null for a list."""
    if status in {401, 403}:
        return Look(f"refuses the key that the inventory gives for it ({status})")
    if status != 200:
        return Look(f"answers {status} when it is asked for its models")
    try:
        rows: Iterable[_Row] = decode(body, _List).data or ()
    except msgspec.DecodeError:
        return Look("answers something that is no list of models")
    if any(row.owned_by == _ANY_NAME for row in rows):
        return Look("")
    return Look("", frozenset(row.id for row in rows))
