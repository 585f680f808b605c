"""The link listener over real mutual TLS, and documents pushed to a real listener."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from rbee_runtime import protocol
from rbee_runtime.config import FleetFile, HiveConfig
from rbee_runtime.hive.heartbeat import KEPT
from rbee_runtime.hive.rhythm import JITTER
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Desired, DesiredAck, HeartbeatAck
from rbee_runtime.queen import link_app
from rbee_runtime.queen.status import Phase, Status
from rbee_runtime.server import KEEP_ALIVE_SECONDS, HttpServer, bind
from tests.unit.certificates import issue_fleet
from tests.unit.damage import UNREADABLE
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]
TIMEOUT = httpx.Timeout(10)


@asynccontextmanager
async def listening(app: ASGIApp, link: Link) -> AsyncIterator[str]:
    listener = bind("127.0.0.1", 0)
    server = HttpServer(app, tls=link.server_context(), drain_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    try:
        yield f"{link.scheme}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def post(link: Link, url: str, hive: str, body: bytes) -> httpx.Response:
    async with link.client(timeout=TIMEOUT, peer=Role.QUEEN) as client:
        return await client.post(f"{url}/api/v1/hives/{hive}/heartbeat", content=body)


async def test_a_queen_that_leaves_ends_connections(queen: Maker) -> None:
    """Hives keep theirs from one heartbeat to the next; the next one is the next queen's."""
    q, status = queen(fleet(model(), hives=("a",))), Status(1)
    link = Link(Role.QUEEN, "laptop", token="t")
    said = []
    async with listening(link_app.build(q.controller, link, status), link) as url:
        for status.phase in (Phase.READY, Phase.DRAINING):
            answer = await post(Link(Role.HIVE, "laptop", token="t"), url, "a", protocol.encode(q.report("a")))
            said.append((answer.status_code, answer.headers.get("connection")))
    assert said == [(200, None), (503, "close")]


def test_a_hive_keeps_its_connection_between_heartbeats() -> None:
    """A new one for each costs more than the heartbeat; the hive closes it first, so that none is lost on its way."""
    period = HiveConfig.model_fields["heartbeat_seconds"].default
    assert period * (1 + JITTER) * 2 < (KEPT.keepalive_expiry or 0) < KEEP_ALIVE_SECONDS


async def test_a_hive_speaks_under_its_own_name_only(queen: Maker, tmp_path: Path) -> None:
    """The certificate decides: hive a may not report as b, and a worker not at all."""
    q = queen(fleet(model(), hives=("a", "b")))
    issue_fleet(tmp_path / "pki", "f", names={"hive": "a"})
    links = {role: Link(role, "f", tmp_path / "pki") for role in Role}
    app = link_app.build(q.controller, links[Role.QUEEN], Status(1))
    async with listening(app, links[Role.QUEEN]) as url:
        good = await post(links[Role.HIVE], url, "a", protocol.encode(q.report("a", url="https://a:8600")))
        assert msgspec.json.decode(good.content, type=HeartbeatAck).epoch == 1
        stranger = await post(links[Role.HIVE], url, "b", protocol.encode(q.report("b")))
        worker = await post(links[Role.WORKER], url, "a", protocol.encode(q.report("a")))
    assert (good.status_code, stranger.status_code, worker.status_code) == (200, 403, 403)
    assert set(q.controller.membership.members) == {"a"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/v1/hives/a/heartbeat", b"{}", 400),
        *(("/api/v1/hives/a/heartbeat", body, 400) for body in UNREADABLE),
        ("/api/v1/hives/b/heartbeat", None, 400),
        ("/api/v1/hives/a", None, 404),
        ("/api/v1/keys", None, 403),
        ("/v1/models", None, 403),
    ],
)
async def test_the_link_takes_heartbeats_and_nothing_else(
    queen: Maker, path: str, body: bytes | None, status: int
) -> None:
    """Anything else is refused in OpenAI's shape and changes nothing."""
    q = queen(fleet(model(), hives=("a", "b")))
    link = Link(Role.QUEEN, "laptop", token="t")
    async with listening(link_app.build(q.controller, link, Status(1)), link) as url:
        content = protocol.encode(q.report("a")) if body is None else body
        async with link.client(timeout=TIMEOUT) as client:
            answer = await client.post(url + path, content=content)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert not q.controller.membership.members


@pytest.mark.parametrize(
    "url",
    [
        "https://a:8600",
        "http://a:8600/x",
        "http://u@a:8600",
        "http://a",
        "http://a:8600#",
        "http://[::1",
        "file:///etc",
    ],
)
async def test_a_hive_cannot_send_the_queen_elsewhere(queen: Maker, url: str) -> None:
    """An address that is more than a host and port of the link's own scheme is refused and not kept."""
    q = queen(fleet(model(), hives=("a",)))
    link = Link(Role.QUEEN, "laptop", token="t")
    async with listening(link_app.build(q.controller, link, Status(1)), link) as base:
        answer = await post(link, base, "a", protocol.encode(q.report("a", url=url)))
    assert (answer.status_code, "is not of the form http://ADDRESS:PORT" in answer.text) == (400, True)
    assert not q.controller.membership.members


async def test_a_caller_without_the_token_is_refused(queen: Maker) -> None:
    """On a laptop the token is what a certificate is elsewhere."""
    q = queen(fleet(model(), hives=("a",)))
    link = Link(Role.QUEEN, "laptop", token="t")
    async with listening(link_app.build(q.controller, link, Status(1)), link) as url:
        answer = await post(Link(Role.HIVE, "laptop", token="x"), url, "a", protocol.encode(q.report("a")))
    assert answer.status_code == 403


class Hive:
    """Takes desired documents, after refusing the first `refusals` of them."""

    def __init__(self, refusals: int = 0) -> None:
        self.documents: list[Desired] = []
        self.refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = msgspec.json.decode((await receive())["body"], type=Desired)
        self.refusals -= 1
        status = 200 if self.refusals < 0 else 503
        ack = DesiredAck(fleet=document.fleet, epoch=document.epoch, revision=document.revision)
        if status == 200:
            self.documents.append(document)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": protocol.encode(ack) if status == 200 else b"later"})

    async def received(self, count: int) -> list[Desired]:
        async with asyncio.timeout(10):
            while len(self.documents) < count:  # noqa: ASYNC110 - the stand-in is polled
                await asyncio.sleep(0.01)
        return self.documents


@pytest.mark.parametrize("refusals", [0, 2])
async def test_a_stale_hive_gets_its_whole_document_until_it_follows(queen: Maker, refusals: int) -> None:
    """A heartbeat with an older revision brings the document; a hive that follows is left in peace."""
    q = queen(fleet(model(), hives=("a",)))
    hive, link = Hive(refusals), Link(Role.HIVE, "laptop", token="t")
    pushing = asyncio.create_task(q.documents.run())
    async with listening(hive, link) as url:
        q.controller.heartbeat(q.report("a", url=url))
        first = (await hive.received(1))[0]
        assert [spec.model for spec in first.workers] == ["m"]
        assert [each.name for each in first.models] == ["m"]
        q.controller.heartbeat(q.report("a", url=url, epoch=first.epoch, revision=first.revision))
        await asyncio.sleep(0.1)
        assert len(hive.documents) == 1
        q.write(fleet(model(context=512), hives=("a",)))
        q.controller.fleet.poll()
        q.controller.reconcile()
        second = (await hive.received(2))[1]
        assert (second.workers[0].context, second.revision) == (512, first.revision + 1)
    pushing.cancel()
    await asyncio.gather(pushing, return_exceptions=True)
    await q.client.aclose()
