"""Four hundred names that are none, wherever the queen takes a name: refused in a sentence, and nothing is changed."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from pydantic import ValidationError

from rbee_runtime.config import FleetExternal, FleetFile, FleetHive
from rbee_runtime.errors import ConfigError, ReferenceFormError, RequestError
from rbee_runtime.hive.desired import check_worker_id
from rbee_runtime.models.references import check_file_name, check_name
from rbee_runtime.queen import fleet as files
from rbee_runtime.queen.laptop import parse_model
from rbee_runtime.queen.records import Scope
from tests.hostile import NAMES
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_policy import bearer

Maker = Callable[[FleetFile], Fixture]
KINDS = pytest.mark.parametrize("kind", NAMES)

IN_PATHS = (
    ("GET", "/v1/models/{}"),
    ("GET", "/api/v1/models/{}/explain"),
    ("POST", "/api/v1/models/{}/load"),
    ("POST", "/api/v1/models/{}/unload"),
    ("GET", "/api/v1/hives/{}/models"),
    ("POST", "/api/v1/hives/{}/drain"),
    ("GET", "/api/v1/workers/{}"),
    ("GET", "/api/v1/workers/{}/logs"),
    ("POST", "/api/v1/workers/{}/proxy/v1/chat/completions"),
    ("DELETE", "/api/v1/keys/{}"),
)


def tree(folder: Path) -> dict[str, int]:
    """Return every file below the parent of a folder, with its size but for the database's, which keys change."""
    found = (path for path in folder.parent.rglob("*") if path.is_file())
    return {str(path): path.stat().st_size for path in found if "queen.db" not in path.name}


def test_there_are_four_hundred() -> None:
    """As many as are promised, no two alike."""
    assert len({name for names in NAMES.values() for name in names}) == sum(map(len, NAMES.values())) == 400


@KINDS
def test_t13_no_such_name_gets_into_an_inventory(kind: str) -> None:
    """As the name of a model, an alias or a model of another server it is refused in one sentence."""
    for name in NAMES[kind]:
        with pytest.raises(ReferenceFormError):
            check_name(name)
        other = FleetExternal(name="x", url="http://x:1", models={name: "m"})
        for declared in (
            fleet(model(name)),
            fleet(model("m")).model_copy(update={"aliases": {name: "m"}}),
            fleet().model_copy(update={"external": (other,)}),
        ):
            with pytest.raises(ConfigError, match="is not allowed"):
                files.check(declared, where="fleet.yaml")
        with pytest.raises((ConfigError, ReferenceFormError)):
            parse_model(f"{name}=fake:")


HOSTS = {"a..b", "AA", "aa", "a" * 63}


@KINDS
def test_t13_no_such_name_is_one_of_a_host_a_worker_or_a_file(kind: str) -> None:
    """What becomes a part of an address, of a unit or of a path has letters, digits and few signs, and no more."""
    plain = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
    for name in NAMES[kind]:
        for make in (lambda n: FleetHive(name=n), lambda n: FleetExternal(name=n, url="http://x:1", models={"m": "m"})):
            try:
                make(name)
            except ValidationError:
                continue
            assert set(name) <= plain
            assert len(name) <= 63
        with pytest.raises(RequestError):
            check_worker_id(name)
        try:
            check_file_name(name)
        except ReferenceFormError:
            continue
        assert ".." not in name
        assert not name.startswith(("/", "-"))


async def status(client: httpx.AsyncClient, method: str, path: str) -> int:
    """Return the answer to a path as it stands, which the client would otherwise tidy up."""
    url = client.base_url.copy_with(raw_path=path.encode())
    return (await client.request(method, url)).status_code


@pytest.mark.slow
@KINDS
async def test_t13_no_such_name_in_a_path_finds_anything(queen: Maker, kind: str) -> None:
    """Encoded once or twice it is refused or not found, and the queen's files stay as they are."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    before, workers = tree(q.directory), set(q.controller.assignments)
    seen: dict[tuple[str, str], int] = {}
    paths = itertools.cycle(IN_PATHS)
    async with endpoint(q) as c:
        c.headers.update(bearer(q, *Scope))
        for name in NAMES[kind]:
            # Every byte, or a client that tidies up would take `..` for a step to the folder above.
            once = "".join(f"%{byte:02x}" for byte in name.encode())
            for method, path in (next(paths), next(paths)):
                seen[path, once] = await status(c, method, path.format(once))
            seen["twice", once] = await status(c, "GET", f"/v1/models/{quote(once, safe='')}")
    assert {key: code for key, code in seen.items() if code not in (400, 404, 405, 414)} == {}
    assert {path for path, _ in seen} == {path for _, path in IN_PATHS} | {"twice"}
    assert (tree(q.directory), set(q.controller.assignments)) == (before, workers)
    assert not q.controller.membership.members["a"].record.drained


@pytest.mark.slow
@KINDS
async def test_t13_no_such_name_in_a_body_is_taken(queen: Maker, kind: str) -> None:
    """A key for it, a worker moved to it, an answer of it, a look at what it used: 400 or 404, and nobody has more."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a")
    headers, worker, chat = bearer(q, *Scope), q.workers("a")[0], {"messages": [{"role": "user", "content": "x"}]}
    keys, seen = len(q.keys.listed()), {}
    async with endpoint(q) as c:
        c.headers.update({**headers, "content-type": "application/json"})
        for name in NAMES[kind]:
            for path, body in (
                (f"/api/v1/workers/{worker}/move", {"hive": name}),
                ("/v1/chat/completions", {"model": name, **chat}),
                ("/api/v1/keys", {"name": "n", "models": [name]}),
            ):
                seen[path, name] = (await c.post(path, content=json.dumps(body))).status_code
            params = {"key": name[:100], "model": name[:300]}
            assert (await c.get("/api/v1/usage", params=params)).json() == []
    wrong = {key: code for key, code in seen.items() if code not in (400, 404)}
    # With `*` and `?` for any letters, some are patterns of names.
    assert {key for key, code in wrong.items() if code != 201 or not {"*", "?"} & set(key[1])} == set()
    assert len(q.keys.listed()) == keys + len(wrong)
