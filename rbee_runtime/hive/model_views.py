"""The hive's routes about models on disk, and the bytes themselves for other hives."""

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from rbee_runtime.errors import ModelInUseError, ModelStoreError, ReferenceFormError, RequestError
from rbee_runtime.hive import answers
from rbee_runtime.hive.answers import HiveModel, VerifyAnswer
from rbee_runtime.hive.facts import Facts, as_json
from rbee_runtime.hive.fetching import PATIENCE
from rbee_runtime.models.references import check_name
from rbee_runtime.protocol import FetchReport, ModelReport
from rbee_runtime.streams import Stream

T = TypeVar("T")

BYTES = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


async def models(facts: Facts, _: Request) -> Response:
    """Return every model on disk or on its way there."""
    held = {report.name: report for report in await _known(facts)}
    fetches = _fetches(facts)
    found = (
        answers.model(name, held.get(name), fetches.get(name), _users(facts, name))
        for name in sorted({*held, *fetches})
    )
    return as_json(tuple(found))


async def model(facts: Facts, request: Request) -> Response:
    """Return one model."""
    return as_json(await _model(facts, _name(request)))


async def verify(facts: Facts, request: Request) -> Response:
    """Read a model's files and compare their content with its hashes; damaged ones go to quarantine."""
    name = await _held(facts, _name(request))
    damaged = await facts.store.layout.threads.hashing.run(facts.store.verify, name)
    said = "" if not damaged else "moved to quarantine; the model is fetched again while a worker wants it"
    return as_json(VerifyAnswer(name=name, intact=not damaged, damaged=damaged, detail=said))


async def pin(facts: Facts, request: Request) -> Response:
    """Keep a model on disk whatever else needs room."""
    return await _pinned(facts, request, pinned=True)


async def unpin(facts: Facts, request: Request) -> Response:
    """Let a model go when its room is needed and nobody uses it."""
    return await _pinned(facts, request, pinned=False)


async def retry(facts: Facts, request: Request) -> Response:
    """Fetch a model now that waits for its next try, such as one in quarantine."""
    name = _name(request)
    if not facts.supervisor.fetching.retry(name):
        await _held(facts, name)
        raise RequestError(409, f"model {name} is on this host already", kind="conflict_error", code="model_held")
    return as_json(await _model(facts, name))


async def delete(facts: Facts, request: Request) -> Response:
    """Remove a model that no worker uses from the disk."""
    name = await _held(facts, _name(request))
    users = _users(facts, name)
    if users:
        raise _in_use(f"model {name} is used by {', '.join(users)}; take it out of the inventory first")
    try:
        await _answered(facts, facts.store.remove, name)
    except ModelInUseError as error:
        raise _in_use(str(error)) from error
    return Response(status_code=204)


async def chunks(facts: Facts, request: Request) -> Response:
    """Return the digests of a blob's chunks, with which another hive checks what it copies."""
    name, _ = await _blob(facts, request)
    try:
        return as_json(await facts.blobs.table(name))
    except ModelStoreError as error:
        raise _no_blob(str(error)) from error


async def blob(facts: Facts, request: Request) -> Response:
    """Return the bytes of a blob, or one range of them."""
    name, size = await _blob(facts, request)
    wanted = request.headers.get("range")
    first, end = (0, size) if wanted is None else _range(wanted, size)
    headers = {"accept-ranges": "bytes", "content-length": str(end - first), "etag": f'"{name}"'}
    if wanted is not None:
        headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
    status = 200 if wanted is None else 206
    if request.method == "HEAD":
        return Response(None, status, headers, BYTES)
    parts = facts.blobs.read(name, start=first, end=end)
    return Stream(parts, stopping=facts.stopping, media_type=BYTES, status=status, headers=headers)


async def manifest(facts: Facts, request: Request) -> Response:
    """Return which files a model has, for a hive that cannot ask its source."""
    name = _name(request)
    report = await _answered(facts, facts.store.named, name)
    if report is None:
        raise _missing(name)
    return as_json(report)


def _range(text: str, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last, or raise RequestError 416; several ranges are not served."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise _no_range(text, size)
    if not found[1]:
        first, end = max(0, size - int(found[2])), size
    else:
        first, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    if not first < end:
        raise _no_range(text, size)
    return first, end


def _no_range(text: str, size: int) -> RequestError:
    return RequestError(416, f"range {text[:60]!r} is not one range within {size} bytes", param="range")


def _fetches(facts: Facts) -> dict[str, FetchReport]:
    return {fetch.name: fetch for fetch in facts.supervisor.fetching.fetches}


async def _model(facts: Facts, name: str) -> HiveModel:
    held = next((report for report in await _known(facts, name) if report.name == name), None)
    fetch = _fetches(facts).get(name)
    if held is None and fetch is None:
        raise _missing(name)
    return answers.model(name, held, fetch, _users(facts, name))


async def _known(facts: Facts, name: str = "") -> Sequence[ModelReport]:
    """Return the models on disk, or only `name`; as the last look found them where the disk does not answer now."""
    store = facts.store
    try:
        if not name:
            return await _answered(facts, store.reports)
        found = await _answered(facts, store.named, name)
    except RequestError:
        return facts.supervisor.fetching.reports
    return () if found is None else (found,)


async def _answered(facts: Facts, work: Callable[..., T], *given: object) -> T:
    """Return what the disk says, or refuse with 503 if it does not answer; one that hangs is not asked at all."""
    fetching, threads = facts.supervisor.fetching, facts.store.layout.threads
    silence = fetching.silence
    if not silence:
        try:
            async with asyncio.timeout(PATIENCE):
                return await threads.work.run(work, *given)
        except TimeoutError:
            silence = (
                fetching.silence or f"the model store {facts.store.layout.root} has not answered for {PATIENCE:g} s"
            )
    raise RequestError(503, silence, kind="server_error", code="store_silent", retry_after=10)


def _name(request: Request) -> str:
    try:
        return check_name(request.path_params["name"])
    except ReferenceFormError as error:
        raise RequestError(400, str(error), param="name") from None


async def _held(facts: Facts, name: str) -> str:
    if await _answered(facts, facts.store.named, name) is None:
        raise _missing(name)
    return name


def _missing(name: str) -> RequestError:
    return RequestError(404, f"this host has no model {name}", code="model_not_found")


def _users(facts: Facts, name: str) -> tuple[str, ...]:
    """Return the workers that run with a model or are to."""
    views = facts.supervisor.views.items()
    return tuple(
        worker
        for worker, view in views
        if (view.wanted is not None and view.wanted.model == name)
        or (view.status is not None and view.status.alive and view.decision.record.model == name)
    )


async def _pinned(facts: Facts, request: Request, *, pinned: bool) -> Response:
    name = await _held(facts, _name(request))
    await _answered(facts, partial(facts.store.pin, name, pinned=pinned))
    return as_json(await _model(facts, name))


async def _blob(facts: Facts, request: Request) -> tuple[str, int]:
    """Return the name and the size of a blob that is there; what is still coming lies elsewhere."""
    name = request.path_params["blob"]
    try:
        return name, await _answered(facts, lambda: facts.blobs.path(name).stat().st_size)
    except ReferenceFormError as error:
        raise RequestError(400, str(error), param="blob") from None
    except (ModelStoreError, OSError):
        raise _no_blob(f"this host has no {name}") from None


def _in_use(said: str) -> RequestError:
    return RequestError(409, said, kind="conflict_error", code="model_in_use")


def _no_blob(said: str) -> RequestError:
    return RequestError(404, said, code="blob_not_found")
