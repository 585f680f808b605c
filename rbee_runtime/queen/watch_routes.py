"""Routes by which people and monitors watch a queen: events, figures, and the document of this API."""

from typing import Annotated

import msgspec
from fastapi import FastAPI, Header
from starlette.responses import Response

from rbee_runtime.errors import RequestError
from rbee_runtime.events import EventLog, as_stream
from rbee_runtime.queen import openapi
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.metrics import Meters
from rbee_runtime.streams import SSE, Stream

MAX_READERS = 64
"""Each holds a connection and is woken by each event; what stores events needs one."""

JSON = "application/json"


def register(app: FastAPI, log: EventLog, meters: Meters, calls: HiveCalls) -> None:
    """Register the routes; the last one, so that the document has every other."""

    @app.get("/api/v1/events")
    async def events(
        accept: Annotated[str, Header(include_in_schema=False)] = "",
        last_event_id: Annotated[str, Header(max_length=openapi.MAX_EVENT_ID)] = "",
    ) -> Response:
        """Return what happened in the fleet as a list, or as a stream that goes on."""
        if JSON in accept:
            return Response(msgspec.json.encode(log.held()), media_type=JSON)
        if log.readers >= MAX_READERS:
            raise RequestError(429, f"{MAX_READERS} clients follow the events; end one", retry_after=5)
        return Stream(as_stream(log, last_event_id), stopping=calls.stopping, media_type=SSE)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return the figures of this queen for Prometheus."""
        text, media = meters.exposed()
        return Response(text, media_type=media)

    document = b""

    @app.get("/api/v1/openapi.json")
    async def described() -> Response:
        """Describe this API."""
        nonlocal document
        # It takes some milliseconds, and no two are different.
        document = document or msgspec.json.encode(openapi.document(app))
        return Response(document, media_type=JSON)
