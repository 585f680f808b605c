"""A person tries one worker: who may, and what happens when it is not there."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from rbee_runtime.queen.records import Scope
from tests.faults.queen.rig import PLAIN, Rig, rig, whole
from tests.unit.gateway.upstream import Call

OPERATOR = (Scope.INFER, Scope.ADMIN_READ)


async def other(call: Call) -> None:
    await call.json(200, json.dumps({"who": "other"}).encode())


@asynccontextmanager
async def two_workers(folder: Path, *scopes: Scope) -> AsyncIterator[tuple[Rig, list[str], dict[str, str]]]:
    """Give a queen with two workers, their ids, and the headers of a key with these scopes."""
    async with rig(folder, [whole, other]) as r:
        by_port = {seat.url.rsplit(":", 1)[1]: seat.worker for seat in r.lines.roster.of("m")}
        ids = [by_port[each.url.rsplit(":", 1)[1]] for each in r.workers]
        yield r, ids, {"authorization": f"Bearer {r.keys.create('o', scopes)[1]}"}


@pytest.mark.parametrize("by_path", [False, True], ids=["header", "path"])
async def test_the_named_worker_answers(tmp_path: Path, *, by_path: bool) -> None:
    """Every time, whichever has less to do."""
    async with two_workers(tmp_path, *OPERATOR) as (r, ids, headers):
        for _ in range(4):
            assert (await _asked(r, ids[1], headers, by_path=by_path)).json() == {"who": "other"}
        assert not r.workers[0].calls


@pytest.mark.parametrize("by_path", [False, True], ids=["header", "path"])
@pytest.mark.parametrize("scopes", [(Scope.INFER,), (Scope.ADMIN_READ,), (Scope.ADMIN_WRITE,)])
async def test_it_takes_both_scopes(tmp_path: Path, scopes: tuple[Scope, ...], *, by_path: bool) -> None:
    """A client need not know which workers there are, and an administrator is no client."""
    async with two_workers(tmp_path, *scopes) as (r, ids, headers):
        assert (await _asked(r, ids[1], headers, by_path=by_path)).status_code == 403
        assert r.calls == 0


async def test_one_that_is_not_there_is_a_404(tmp_path: Path) -> None:
    """Nobody else steps in."""
    async with two_workers(tmp_path, *OPERATOR) as (r, _, headers):
        answer = await _asked(r, "nobody", headers, by_path=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "worker_not_found")
        assert r.calls == 0


async def _asked(r: Rig, worker: str, headers: dict[str, str], *, by_path: bool) -> httpx.Response:
    path = f"/api/v1/workers/{worker}/proxy" if by_path else ""
    more = {} if by_path else {"x-rbee-worker": worker}
    return await r.client.post(f"{path}/v1/chat/completions", json=PLAIN, headers={**headers, **more})
