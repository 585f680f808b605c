"""The admin API's keys and usage: what is made, shown, refused and counted."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.queen.records import KeyLimits, Priority, Scope, UsageRow
from rbee_runtime.states import Observed
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_policy import bearer

Maker = Callable[[FleetFile], Fixture]

LATER = int(time.time()) + 10**6
LIMITS = {"concurrency": 4, "requests_per_minute": 60, "tokens_per_minute": 9000}
NO_LIMITS = dict.fromkeys(LIMITS)


def operator(q: Fixture) -> dict[str, str]:
    """Return the headers of a key that may do everything."""
    _, key = q.keys.create("operator", Scope, priority=Priority.INTERACTIVE)
    return {"authorization": f"Bearer {key}"}


def holder(q: Fixture, **rights: Any) -> dict[str, str]:
    """Return the headers of a key that may do everything but for some of it."""
    _, key = q.keys.create("holder", Scope, **rights)
    return {"authorization": f"Bearer {key}"}


async def made(c: httpx.AsyncClient, headers: dict[str, str], **body: object) -> Any:
    answer = await c.post("/api/v1/keys", headers=headers, json={"name": "n", **body})
    return answer.json() if answer.status_code == 201 else (answer.status_code, answer.json()["error"]["code"])


async def test_keys_are_made_listed_and_revoked(queen: Maker) -> None:
    """The key is in the answer to its making and nowhere else, and opens nothing once it is revoked."""
    q = queen(fleet(model()))
    headers = operator(q)
    async with endpoint(q) as c:
        new = await made(c, headers, models=["m*"])
        listed = (await c.get("/api/v1/keys", headers=headers)).text
        assert new["id"] in listed
        assert new["key"] not in listed
        mine = {"authorization": f"Bearer {new['key']}"}
        assert (await c.get("/v1/models", headers=mine)).json()["data"][0]["id"] == "m"
        assert (await c.delete(f"/api/v1/keys/{new['id']}", headers=headers)).status_code == 204
        assert (await c.get("/v1/models", headers=mine)).status_code == 401


async def test_a_revoked_key_is_refused_with_the_next_request_of_its_connection(queen: Maker) -> None:
    """Also where a client sends the same head again, which is not read again."""
    q = queen(fleet(model()))
    record, key = q.keys.create("n", [Scope.INFER])
    async with endpoint(q) as c:
        statuses = []
        for number in range(4):
            if number == 2:
                q.keys.revoke(record.id)
            body = {"model": f"unknown-{number}"}
            answer = await c.post("/v1/chat/completions", headers={"authorization": f"Bearer {key}"}, json=body)
            statuses.append(answer.status_code)
    assert statuses == [404, 404, 401, 401]


async def test_a_key_is_shown_with_all_that_it_may(queen: Maker) -> None:
    """What was asked for comes back, with who made it and when it was used."""
    q = queen(fleet(model()))
    headers = operator(q)
    asked = {"models": ["m*"], "expires": LATER, "limits": LIMITS, "priority": "batch", "scopes": ["infer", "admin"]}
    async with endpoint(q) as c:
        new = await made(c, headers, **asked)
        await c.get("/v1/models", headers={"authorization": f"Bearer {new['key']}"})
        root, listed = (await c.get("/api/v1/keys", headers=headers)).json()
    assert listed == {
        **asked,
        "scopes": ["admin:read", "admin:write", "infer"],
        **{name: new[name] for name in ("id", "name", "created")},
        "expired": False,
        "parent": root["id"],
        "used": listed["used"],
    }
    assert 0 <= time.time() - listed["used"] < 120
    assert q.store.all_keys()[1].limits == KeyLimits(**LIMITS)


@pytest.mark.parametrize(
    ("creator", "body", "seen"),
    [
        ({}, {}, {"models": ["*"], "expires": 0, "limits": NO_LIMITS, "priority": "normal", "scopes": ["infer"]}),
        ({"models": ["a*", "b"]}, {}, {"models": ["a*", "b"]}),
        ({"expires": LATER}, {}, {"expires": LATER}),
        ({"limits": KeyLimits(**LIMITS)}, {}, {"limits": LIMITS}),
        (
            {"limits": KeyLimits(**LIMITS)},
            {"limits": {"concurrency": 2}},
            {"limits": {**LIMITS, "concurrency": 2}},
        ),
        ({"priority": Priority.BATCH}, {}, {"priority": "batch"}),
        ({"priority": Priority.INTERACTIVE}, {}, {"priority": "normal"}),
    ],
)
async def test_what_is_left_out_is_as_for_the_key_that_asks(
    queen: Maker, creator: dict[str, Any], body: dict[str, object], seen: dict[str, object]
) -> None:
    """A key that may less makes keys that may less without being told so."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        new = await made(c, holder(q, **creator), **body)
    assert {name: new[name] for name in seen} == seen


@pytest.mark.parametrize(
    ("creator", "body"),
    [
        ({"models": ["a*"]}, {"models": ["*"]}),
        ({"expires": LATER}, {"expires": 0}),
        ({"limits": KeyLimits(concurrency=2)}, {"limits": {"concurrency": None}}),
        ({}, {"priority": "interactive"}),
    ],
)
async def test_more_than_one_has_is_refused(queen: Maker, creator: dict[str, Any], body: dict[str, object]) -> None:
    """No key comes of asking for it."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        assert await made(c, holder(q, **creator), **body) == (403, "beyond_own_rights")
    assert len(q.keys.listed()) == 1


async def test_a_key_without_inference_gives_none(queen: Maker) -> None:
    """Admin scopes are apart: who may only manage makes no key that infers."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        writer = bearer(q, Scope.ADMIN_WRITE)
        assert await made(c, writer) == (403, "beyond_own_rights")
        assert await made(c, writer, scopes=["admin"]) == (403, "beyond_own_rights")
        assert (await made(c, writer, scopes=["admin:write"]))["scopes"] == ["admin:write"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "name: "),
        ({"name": ""}, "name: "),
        ({"name": "n", "scopes": ["root"]}, "scopes.0: "),
        ({"name": "n", "scopes": "infer"}, "scopes: "),
        ({"name": "n", "scopes": []}, "scopes: "),
        ({"name": "n", "model": []}, "model: "),
        ({"name": "n", "models": ["a b"]}, "models: 'a b' is not a model name with '*' or '?'"),
        ({"name": "n", "expires": 1}, "expires: that time is over"),
        ({"name": "n", "expires": -1}, "expires: "),
        ({"name": "n", "expires": 10**18}, "expires: "),
        ({"name": "n", "limits": {"concurrency": 0}}, "limits.concurrency: "),
        ({"name": "n", "limits": {"concurency": 1}}, "limits.concurency: "),
        ({"name": "n", "priority": "first"}, "priority: "),
    ],
)
async def test_a_wrong_body_is_one_sentence(queen: Maker, body: dict[str, object], said: str) -> None:
    """Bad input names the field and makes no key."""
    q = queen(fleet(model()))
    headers = operator(q)
    async with endpoint(q) as c:
        answer = await c.post("/api/v1/keys", headers=headers, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(said)
    assert len(q.keys.active()) == 1


async def test_an_expired_key_is_still_listed(queen: Maker) -> None:
    """Whoever wonders why it opens nothing sees it."""
    q = queen(fleet(model()))
    headers = operator(q)
    _, key = q.keys.create("over", Scope, expires=5)
    async with endpoint(q) as c:
        listed = (await c.get("/api/v1/keys", headers=headers)).json()
        assert [each["expired"] for each in listed] == [False, True]
        assert (await c.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code == 401


def day(ago: int) -> str:
    return (datetime.now(UTC).date() - timedelta(days=ago)).isoformat()


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", [("k1", 0), ("gone", 0), ("k1", 29)]),
        ("?key=gone0000", [("gone", 0)]),
        ("?model=n", []),
        ("?since={30}", [("k1", 0), ("gone", 0), ("k1", 29), ("k1", 30)]),
        ("?since={29}&until={1}", [("k1", 29)]),
        ("?until={30}", [("k1", 30)]),
        ("?since=0001-01-01&until=0001-01-02", []),
        ("?until=0001-01-02", []),
    ],
)
async def test_usage_is_told_by_key_model_and_days(queen: Maker, query: str, rows: list[tuple[str, int]]) -> None:
    """The last 30 days unless days are given, both of which are included; keys have their names, if they are known."""
    q = queen(fleet(model()))
    headers = operator(q)
    record, _ = q.keys.create("known", [Scope.INFER])
    ids = {"k1": record.id, "gone": "gone0000"}
    stored = [("k1", 0), ("gone", 0), ("k1", 29), ("k1", 30)]
    q.store.add_usage([UsageRow(day(ago), ids[key], "m", 1, 2, 3, 4, 5) for key, ago in stored], {})
    asked = query.replace("{30}", day(30)).replace("{29}", day(29)).replace("{1}", day(1))
    async with endpoint(q) as c:
        answer = (await c.get(f"/api/v1/usage{asked}", headers=headers)).json()
    assert sorted((row["key"], row["day"]) for row in answer) == sorted((ids[key], day(ago)) for key, ago in rows)
    counts = {"requests": 1, "prompt_tokens": 2, "answer_tokens": 3, "errors": 4, "estimated": 5}
    assert all(counts.items() <= row.items() for row in answer)
    assert {row["name"] for row in answer} <= {"known", ""}


@pytest.mark.parametrize("query", ["since=yesterday", "until=2026-13-01", f"key={'k' * 101}"])
async def test_a_wrong_question_for_usage_is_one_sentence(queen: Maker, query: str) -> None:
    """The parameter is named."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        answer = await c.get(f"/api/v1/usage?{query}", headers=operator(q))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


HOSTILE = [
    "'",
    "' OR '1'='1",
    "x'; DROP TABLE keys; --",
    "%",
    "_",
    "x\x00y",
    "\u2019",
    "') UNION SELECT digest FROM keys --",
    ":key",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_text_is_taken_for_a_question_to_the_database(queen: Maker, text: str) -> None:
    """What a caller writes is a value wherever it ends up, and finds nothing that is not called that."""
    q = queen(fleet(model()))
    headers = operator(q)
    q.store.add_usage([UsageRow(day(0), "k", "m", 1)], {})
    async with endpoint(q) as c:
        assert (await c.get("/api/v1/usage", headers=headers, params={"key": text})).json() == []
        assert (await c.get("/api/v1/usage", headers=headers, params={"model": text})).json() == []
        assert (await c.get("/api/v1/usage", headers=headers, params={"since": text})).status_code == 400
        assert (await c.delete(f"/api/v1/keys/{quote(text, safe='')}", headers=headers)).status_code == 404
        new = await made(c, headers, name=text)
        assert (await c.get("/v1/models", headers={"authorization": f"Bearer {new['key']}"})).status_code == 200
        # No client sends a NUL in a header, and the server's parser takes none.
        wrong = [(b"authorization", f"Bearer {text}".replace("\0", "\t").encode())]
        assert (await c.get("/v1/models", headers=wrong)).status_code == 401
    assert [record.name for record in q.store.all_keys()] == ["operator", text]


async def test_an_answer_says_what_is_left_of_its_keys_limits(queen: Maker) -> None:
    """Under the names of OpenAI's headers, and only for keys that have such limits."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a", state=Observed.CRASH_LOOP)
    limited = q.keys.create("t", [Scope.INFER], limits=KeyLimits(requests_per_minute=60))[1]
    free = q.keys.create("t", [Scope.INFER])[1]
    async with endpoint(q) as c:
        for key, left in ((limited, "60"), (free, None)):
            headers = {"authorization": f"Bearer {key}"}
            answer = await c.post("/v1/chat/completions", headers=headers, json={"model": "m"})
            assert answer.status_code == 503
            assert answer.headers.get("x-ratelimit-limit-requests") == left
