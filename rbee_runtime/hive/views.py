"""The hive's routes about itself, its devices, its workers and the document that it follows."""

from starlette.requests import Request
from starlette.responses import Response

from rbee_runtime import __version__
from rbee_runtime.errors import RequestError
from rbee_runtime.events import as_stream
from rbee_runtime.hive import desired as documents
from rbee_runtime.hive import metrics as exposition
from rbee_runtime.hive.answers import DrainAnswer, DrainOrder, HealthAnswer, ReadyAnswer, WorkerDetail, account
from rbee_runtime.hive.details import detail
from rbee_runtime.hive.facts import Facts, accepts, as_json, body, decoded
from rbee_runtime.streams import SSE, Stream

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""A hundred workers are some 50 kB."""

MAX_ORDER_BYTES = 1024


async def health(facts: Facts, _: Request) -> Response:
    """Say that the process answers."""
    return as_json(HealthAnswer(status="ok", digest=facts.digest, version=__version__))


async def ready(facts: Facts, _: Request) -> Response:
    """Say whether the workers of this host have been looked at."""
    known = facts.supervisor.reconciled.is_set()
    troubles = facts.supervisor.troubles
    said = "" if known else "; ".join(("the workers on this host have not been looked at yet", *troubles))
    return as_json(ReadyAnswer(ready=known, detail=said), 200 if known else 503)


async def info(facts: Facts, _: Request) -> Response:
    """Return what the heartbeat tells the queen."""
    return as_json(await facts.heartbeat())


async def devices(facts: Facts, _: Request) -> Response:
    """Return the devices as they are now."""
    return as_json(await facts.devices())


async def workers(facts: Facts, _: Request) -> Response:
    """Return every worker."""
    return as_json((await facts.heartbeat()).workers)


async def worker(facts: Facts, request: Request) -> Response:
    """Return all that is known of one worker."""
    return as_json(await _detail(facts, request))


async def held_document(facts: Facts, _: Request) -> Response:
    """Return the document that is followed."""
    document = facts.supervisor.document
    if document is None:
        said = "; ".join(("no desired document has come yet", *facts.supervisor.unread))
        raise RequestError(404, said, code="no_document")
    return as_json(document)


async def follow_document(facts: Facts, request: Request) -> Response:
    """Follow a newer document from now on."""
    document = documents.parse(await body(request, most=MAX_DOCUMENT_BYTES, what="a desired document"))
    return as_json(await facts.supervisor.follow(document))


async def draining(facts: Facts, _: Request) -> Response:
    """Say whether this host empties itself."""
    return as_json(_drain_answer(facts))


async def drain(facts: Facts, request: Request) -> Response:
    """Empty this host of workers, or let it take them again."""
    data = await body(request, most=MAX_ORDER_BYTES, what="this order")
    order = decoded(data, DrainOrder, what='an order of the form {"drain": true}')
    await facts.supervisor.drain(order.drain)
    return as_json(_drain_answer(facts))


async def events(facts: Facts, request: Request) -> Response:
    """Return what happened as a list, or as a stream that goes on."""
    log = facts.events
    if accepts(request, "application/json"):
        return as_json(log.held())
    last = request.headers.get("last-event-id", "")
    return Stream(as_stream(log, last), stopping=facts.stopping, media_type=SSE)


async def ledger(facts: Facts, _: Request) -> Response:
    """Return what each device's memory is taken for."""
    return as_json(tuple(account(each) for each in facts.supervisor.ledger.accounts.values()))


async def metrics(facts: Facts, _: Request) -> Response:
    """Return the figures of this host for Prometheus."""
    await facts.heartbeat()
    text, media = exposition.exposed(facts.meters)
    return Response(text, media_type=media)


async def _detail(facts: Facts, request: Request) -> WorkerDetail:
    name = documents.check_worker_id(request.path_params["worker"])
    reports = {report.id: report for report in (await facts.heartbeat()).workers}
    if name not in reports:
        raise RequestError(404, f"this host has no worker {name!r}", code="worker_not_found")
    return detail(facts.config.name, reports[name], facts.supervisor, now=facts.clock())


def _drain_answer(facts: Facts) -> DrainAnswer:
    alive = [view for view in facts.supervisor.views.values() if view.status is not None and view.status.alive]
    return DrainAnswer(draining=facts.supervisor.draining, workers=len(alive))
