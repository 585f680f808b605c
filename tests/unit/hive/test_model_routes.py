"""Models and their bytes through the API of a hive that holds a real file."""

import asyncio
import hashlib
from pathlib import Path

import httpx
import pytest

from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import Desired, ModelSpec, WorkerSpec
from tests.unit.hive.conftest import FLEET, Queen, Start, desired, fake
from tests.unit.hive.waiting import until
from tests.unit.models.gguf_builder import gguf

NAME = "org/m:q4"


@pytest.fixture
def content() -> bytes:
    return gguf()


@pytest.fixture
def model_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    return path


async def holding(queen: Queen, path: Path) -> None:
    """Make the hive take the file in as a model that no worker uses."""
    document = Desired(fleet=FLEET, epoch=1, revision=1, models=(ModelSpec(name=NAME, source=f"file:{path}"),))
    await queen.put(document)

    async def there() -> bool:
        found = (await queen.get(f"/api/v1/models/{NAME}")).json()
        return bool(found.get("state") == "ready" and found["files"])

    await until(there)


def put(path: Path, content: bytes) -> None:
    """Replace a file, as what a link in the store has stays the old content."""
    path.unlink()
    path.write_bytes(content)


def blob_of(content: bytes) -> str:
    return f"/api/v1/blobs/sha256-{hashlib.sha256(content).hexdigest()}"


async def ranged(queen: Queen, path: str, wanted: str) -> httpx.Response:
    return await queen.client.get(f"{queen._base}{path}", headers={"range": wanted})


async def test_a_blob_is_served_whole_and_in_ranges(start: Start, model_file: Path, content: bytes) -> None:
    """Bytes are the file's; a range that cannot be is refused with one sentence; chunks cover the whole."""
    _, queen = await start()
    await holding(queen, model_file)
    path = blob_of(content)
    whole = await queen.get(path)
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, content, "bytes")
    for wanted, part in {"bytes=3-9": content[3:10], "bytes=-5": content[-5:], "bytes=100-": content[100:]}.items():
        answer = await ranged(queen, path, wanted)
        assert (answer.status_code, answer.content) == (206, part)
    assert (await ranged(queen, path, "bytes=0-1")).headers["content-range"] == f"bytes 0-1/{len(content)}"
    for wanted in ("bytes=5-2", f"bytes={len(content)}-", "bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=-0"):
        answer = await ranged(queen, path, wanted)
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (416, True)
    chunks = (await queen.get(f"{path}/chunks")).json()
    assert (chunks["size"], chunks["sha256s"]) == (len(content), [hashlib.sha256(content).hexdigest()])
    assert (await queen.client.head(f"{queen._base}{path}")).headers["content-length"] == str(len(content))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/models/none", 404),
        ("GET", "/api/v1/models/a%20b", 400),
        ("POST", "/api/v1/models/none/verify", 404),
        ("POST", "/api/v1/models/..%2F..%2Fx/pin", 400),
        ("POST", "/api/v1/models/none/retry", 404),
        ("DELETE", "/api/v1/models/none", 404),
        ("GET", f"/api/v1/blobs/sha256-{'0' * 64}", 404),
        ("GET", f"/api/v1/blobs/sha256-{'0' * 64}/chunks", 404),
        ("GET", "/api/v1/blobs/..%2Fdesired.json", 404),
        ("GET", "/api/v1/blobs/nonsense", 400),
        ("POST", "/api/v1/drain", 400),
    ],
)
async def test_what_is_not_there_is_one_sentence(start: Start, method: str, path: str, status: int) -> None:
    """Absent models and names that are none are told apart, in the usual error form."""
    _, queen = await start()
    answer = await queen.client.request(method, f"{queen._base}{path}")
    assert (answer.status_code, bool(answer.json()["error"]["message"])) == (status, True)


async def test_a_model_is_pinned_verified_and_removed(start: Start, model_file: Path, content: bytes) -> None:
    """Each is told in the answer; after the removal it is not there and its bytes are not served."""
    _, queen = await start()
    await holding(queen, model_file)
    url = f"{queen._base}/api/v1/models/{NAME}"
    assert (await queen.client.post(f"{url}/pin")).json()["pinned"] is True
    assert (await queen.client.post(f"{url}/unpin")).json()["pinned"] is False
    assert (await queen.client.post(f"{url}/verify")).json()["intact"] is True
    await queen.put(desired(2))
    assert (await queen.client.delete(url)).status_code == 204
    assert (await queen.client.get(url)).status_code == 404
    assert (await queen.get(blob_of(content))).status_code == 404


async def test_a_model_in_use_is_not_removed(start: Start, model_file: Path) -> None:
    """409 names the worker that uses it."""
    _, queen = await start()
    await holding(queen, model_file)
    worker = WorkerSpec(id="w-1", model=NAME, engine="fake")
    await queen.put(desired(2, worker, sources={NAME: f"file:{model_file}"}))
    await until(lambda: queen.in_state("w-1", "ready", "starting"))
    answer = await queen.client.delete(f"{queen._base}/api/v1/models/{NAME}")
    assert (answer.status_code, "w-1" in answer.json()["error"]["message"]) == (409, True)


async def test_a_model_that_another_hive_uses_is_not_removed(start: Start, model_file: Path) -> None:
    """409 names the hive on the same disk that uses it."""
    hive, queen = await start()
    await holding(queen, model_file)
    ModelStore(hive.supervisor.fetching.store.layout.root, holder="neighbour").leases.keep([NAME])
    await queen.put(desired(2))
    answer = await queen.client.delete(f"{queen._base}/api/v1/models/{NAME}")
    assert (answer.status_code, "in use by neighbour-" in answer.json()["error"]["message"]) == (409, True)


async def test_a_drain_empties_the_host(start: Start) -> None:
    """Workers end and do not come back until it is taken back."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    url = f"{queen._base}/api/v1/drain"
    assert (await queen.client.post(url, json={"drain": True})).json() == {"draining": True, "workers": 1}

    async def empty() -> bool:
        return bool((await queen.client.get(url)).json() == {"draining": True, "workers": 0})

    await until(empty)
    assert (await queen.client.post(url, json={"drain": False})).json()["draining"] is False
    await until(lambda: queen.in_state("w-1", "ready"))


async def test_a_worker_is_explained_and_its_log_followed(start: Start) -> None:
    """Details name host, unit and next step; a followed log ends when its reader goes."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    found = (await queen.get("/api/v1/workers/w-1")).json()
    assert (found["host"], found["report"]["unit"], found["next_step"]) == (
        "h1", f"pid {found['pid']}", "it takes requests",
    )  # fmt: skip
    assert (await queen.get("/api/v1/workers/w-9")).status_code == 404
    url = f"{queen._base}/api/v1/workers/w-1/logs?follow=1"
    async with queen.client.stream("GET", url, headers={"accept": "text/event-stream"}) as answer:
        line = await asyncio.wait_for(anext(answer.aiter_lines()), 20)
    assert line.startswith("data: ")


async def test_a_person_has_a_waiting_model_tried_at_once(start: Start, model_file: Path, content: bytes) -> None:
    """Content that was refused is fetched again when asked for, not after its pause; one that is held is not."""
    _, queen = await start()
    put(model_file, b"GGUF and no model")
    spec = ModelSpec(name=NAME, source=f"file:{model_file}")
    await queen.put(Desired(fleet=FLEET, epoch=1, revision=1, models=(spec,)))
    url = f"{queen._base}/api/v1/models/{NAME}"

    async def quarantined() -> bool:
        return bool((await queen.client.get(url)).json().get("state") == "quarantined")

    await until(quarantined)
    put(model_file, content)
    assert (await queen.client.post(f"{url}/retry")).status_code == 200

    async def held() -> bool:
        return bool((await queen.client.post(f"{url}/retry")).status_code == 409)

    await until(held)
