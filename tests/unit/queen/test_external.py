"""What the queen makes of servers that are not the fleet's own."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime import config
from rbee_runtime.config import FleetExternal, FleetFile
from rbee_runtime.errors import ConfigError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen import views
from rbee_runtime.queen.admission import Refusal, admit
from rbee_runtime.queen.ejection import FAILURES, OPEN_SECONDS, Breaker
from rbee_runtime.queen.external import WAIT_SECONDS, Externals, Look, authorization, listed
from rbee_runtime.queen.fleet import check
from rbee_runtime.queen.records import Scope
from rbee_runtime.queen.seats import Seat
from rbee_runtime.states import Observed
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]


def server(name: str = "ollama", **fields: object) -> FleetExternal:
    values = {"name": name, "url": f"http://{name}:11434", "models": {"m": "llama3"}, **fields}
    return FleetExternal.model_validate(values)


def with_external(*servers: FleetExternal, **fields: object) -> FleetFile:
    return fleet(hives=()).model_copy(update={"external": servers, **fields})


def seen(q: Fixture, name: str, look: Look) -> None:
    """Have a server say something."""
    externals = q.controller.externals
    externals._note(externals._known[name], look)
    q.controller.publish()


def ask(q: Fixture, name: str) -> Seat | Refusal:
    record, _ = q.keys.create("t", [Scope.INFER])
    return admit(Ask(record.id, name), q.controller, queue_wait=5.0)


@pytest.mark.parametrize(
    ("status", "body", "own", "problem"),
    [
        (200, b'{"data":[{"id":"a","owned_by":"vllm"}]}', "a", ""),
        (200, b'{"data":[{"id":"a"}]}', "b", "has no model 'b'; it has a"),
        (200, b'{"data":[{"id":"llama3:latest","owned_by":"library"}]}', "llama3", ""),
        (200, b'{"data":null}', "a", "has no model 'a'; it has none"),
        (200, b'{"data":[{"id":"/srv/x.gguf","owned_by":"llamacpp"}]}', "anything", ""),
        (200, b"<html>", "a", "answers something that is no list of models"),
        (200, b"\xff", "a", "answers something that is no list of models"),
        (401, b"", "a", "refuses the key that the inventory gives for it (401)"),
        (503, b'{"error":{"message":"Loading model"}}', "a", "answers 503 when it is asked for its models"),
        (302, b"", "a", "answers 302 when it is asked for its models"),
    ],
)
def test_a_list_of_models_says_whether_one_is_served(status: int, body: bytes, own: str, problem: str) -> None:
    """A model gets requests where it is listed, by llama-server under any name, and else one sentence says why not."""
    assert listed(status, body).lacks(own) == problem


async def test_a_server_that_answers_gets_requests_by_its_own_name(queen: Maker) -> None:
    """Before it was asked, and while it is away, requests wait a moment; then they go there, through its door."""
    q = queen(with_external(server()))
    first = ask(q, "m")
    assert isinstance(first, Refusal)
    assert (first.wait, "ollama was not asked yet" in str(first.error)) == (WAIT_SECONDS, True)
    seen(q, "ollama", Look())
    seen(q, "ollama", Look("", frozenset({"llama3"})))
    route = ask(q, "m")
    assert isinstance(route, Seat)
    assert route.door is not None
    assert (route.worker, route.url, route.door.model) == ("ollama:m", "http://ollama:11434", "llama3")


async def test_a_server_that_refuses_connections_is_out_until_it_answers(queen: Maker) -> None:
    """One refused connection takes all of its models out of rotation, and it is asked again soon."""
    q = queen(with_external(server(models=["m", "n"])))
    seen(q, "ollama", Look(""))
    q.controller.doubt("ollama:m")
    assert [isinstance(ask(q, name), Seat) for name in ("m", "n")] == [False, False]
    assert {row.detail for row in views.workers(q.controller)} == {"takes no connections"}
    seen(q, "ollama", Look(""))
    assert isinstance(ask(q, "n"), Seat)


async def test_models_of_one_server_share_its_slots(queen: Maker) -> None:
    """What is in flight for one of its models leaves less room for the others."""
    q = queen(with_external(server(models=["m", "n"], slots=2)))
    seen(q, "ollama", Look(""))
    q.controller.roster.take("ollama:m")
    assert isinstance(ask(q, "n"), Seat)
    q.controller.roster.take("ollama:n")
    full = ask(q, "m")
    assert isinstance(full, Refusal)
    assert full.error.status == 429


async def test_own_workers_and_servers_of_others_take_turns(queen: Maker) -> None:
    """A model that both have goes to whoever has the fewest requests in flight."""
    declared = fleet(model(slots=4), hives=("a",)).model_copy(update={"external": (server(),)})
    q = queen(declared)
    q.beat("a")
    q.beat("a")
    seen(q, "ollama", Look(""))
    (own,) = q.workers("a")
    taken = []
    for _ in range(4):
        route = ask(q, "m")
        assert isinstance(route, Seat)
        q.controller.roster.take(route.worker)
        taken.append(route.worker)
    assert sorted(taken) == sorted([own, "ollama:m"] * 2)


async def test_who_fails_is_ejected_whose_ever_it_is(queen: Maker) -> None:
    """A server that is not ours is left out as a worker is, and people see that and when it is tried again."""
    declared = fleet(model(slots=4), hives=("a",)).model_copy(update={"external": (server(),)})
    q = queen(declared)
    q.beat("a")
    q.beat("a")
    seen(q, "ollama", Look(""))
    q.controller.roster.take("ollama:m", 700)
    for _ in range(FAILURES):
        q.controller.roster.settle("ollama:m", answered=False)
    (own,) = q.workers("a")
    mine, its = views.workers(q.controller)
    assert (mine.id, mine.breaker, mine.ejected, mine.detail) == (own, Breaker.CLOSED, 0.0, "")
    assert (its.id, its.breaker, its.ejected, its.outstanding) == ("ollama:m", Breaker.OPEN, OPEN_SECONDS, 700)
    assert its.detail == "ejected as its requests failed; gets none for 10 s, then one to try it"
    routes = [ask(q, "m") for _ in range(4)]
    assert {route.worker for route in routes if isinstance(route, Seat)} == {own}


async def test_people_and_clients_see_them(queen: Maker) -> None:
    """A model that only a server of others has is listed; its row among workers has no hive."""
    q = queen(with_external(server()))
    seen(q, "ollama", Look(""))
    (row,) = views.workers(q.controller)
    assert (row.id, row.model, row.hive, row.state) == ("ollama:m", "m", "", Observed.READY)
    (shown,) = views.models(q.controller)
    assert (shown.name, shown.engine, shown.ready, shown.workers) == ("m", "external", 1, 1)
    record, _ = q.keys.create("t", [Scope.INFER])
    assert [item["state"] for item in views.openai_models(q.controller, record)["data"]] == ["ready"]
    assert views.openai_model(q.controller, record, "m")["id"] == "m"


async def test_a_changed_line_is_a_new_server_and_others_stay_known(queen: Maker) -> None:
    """A server with another address is asked before it gets requests; one that is as before goes on at once."""
    q = queen(with_external(server("one"), server("two", models={"n": "x"})))
    seen(q, "one", Look(""))
    seen(q, "two", Look(""))
    q.controller.fleet.current = with_external(
        server("one", url="http://elsewhere:1"), server("two", models={"n": "x"})
    )
    q.controller.publish()
    assert [isinstance(ask(q, name), Seat) for name in ("m", "n")] == [False, True]
    q.controller.fleet.current = with_external()
    q.controller.publish()
    gone = ask(q, "n")
    assert isinstance(gone, Refusal)
    assert gone.error.status == 404


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ollama=s3cret\n", "Bearer s3cret"),
        ("other=x\n\nollama = a=b \n", "Bearer a=b"),
        ("other=x\n", None),
        ("", None),
    ],
)
def test_a_key_is_the_line_with_the_servers_name(tmp_path: Path, text: str, found: str | None) -> None:
    """Each server gets its own key and no other's; a missing line is said."""
    (tmp_path / "keys").write_text(text)
    declared = server(key_file=tmp_path / "keys")
    if found is None:
        with pytest.raises(ValueError, match="it has no line ollama="):
            authorization(declared)
    else:
        assert authorization(declared) == found


async def test_without_its_key_a_server_gets_no_requests(queen: Maker, tmp_path: Path) -> None:
    """A key file that is not there is one sentence at the server's row, and nothing is sent without it."""
    q = queen(with_external(server(key_file=tmp_path / "none")))
    await q.controller.externals.once()
    assert "its key cannot be read" in next(views.workers(q.controller)).detail


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "ftp://x"}, "it must be http:// or https://"),
        ({"url": "http://user:pw@x"}, "it must be http:// or https://"),
        ({"url": "http://x:99999"}, "it must be http:// or https://"),
        ({"url": "http://x/../y"}, "it must be http:// or https://"),
        ({"url": "http://192.0.2.300:8080"}, "it must be http:// or https://"),
        ({"url": "http://[::1]x:80"}, "it must be http:// or https://"),
        ({"url": "http://xn--zz:80"}, "it must be http:// or https://"),
        ({"models": []}, "at least 1 item"),
        ({"models": ["a", "a"]}, "valid dictionary"),
        ({"models": ["a b"]}, "a b"),
        ({"slots": 0}, "slots"),
        ({"ca": "nonsense"}, "it holds no certificate"),
        ({"name": "a=b"}, "name"),
        ({"adress": "x"}, "adress"),
    ],
)
def test_what_is_wrong_in_the_fleet_file_is_refused(fields: dict[str, object], said: str) -> None:
    """A mistake is one sentence that names the field, and the last good file stays in force."""
    raw: dict[str, object] = {"external": [{"name": "ollama", "url": "http://x:1", "models": ["m"], **fields}]}
    with pytest.raises(ConfigError, match=said):
        check(config.parse(raw, FleetFile, where="fleet.yaml"), where="fleet.yaml")


def test_two_servers_have_two_names() -> None:
    """A name that is there twice is refused."""
    with pytest.raises(ConfigError, match="external 'ollama' is declared twice"):
        check(with_external(server(), server()), where="fleet.yaml")


@pytest.mark.parametrize("elsewhere", ["http://xn--zz/", "http://[::1]x/", "http://192.0.2.300/", "//" + "a" * 300])
async def test_a_server_that_sends_nowhere_is_away_and_nobody_ends(elsewhere: str) -> None:
    """A redirect that cannot be read makes the server one that does not serve, and the next look finds it back."""
    answers = [f"HTTP/1.1 302 Found\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[0].encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        now = [0.0]
        externals = Externals(lambda: now[0])
        externals.follow((server(url=f"http://127.0.0.1:{port}"),))
        await externals.once()
        away = [place.problem for place in externals.places()]
        answers[0] = 'HTTP/1.1 200 OK\r\ncontent-length: 26\r\n\r\n{"data":[{"id":"llama3"}]}'
        now[0] = 100.0
        await externals.once()
        back = [place.problem for place in externals.places()]
        await externals.aclose()
    assert away[0].startswith(("does not answer", "answers 302"))
    assert back == [""]


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_address_ends_where_v1_begins(end: str) -> None:
    """Whichever form of a base URL is written, the same place is asked."""
    assert server(url=f"https://x:1/openai{end}").url == "https://x:1/openai"
