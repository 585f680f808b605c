"""The route by which a queen without a fleet takes another model of its machine; a fleet's are in its inventory."""

import asyncio
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from rbee_runtime import logs
from rbee_runtime.errors import ConfigError, RequestError
from rbee_runtime.models.references import MAX_SOURCE, shown
from rbee_runtime.queen import laptop
from rbee_runtime.queen.controller import Controller


class ModelOrder(BaseModel):
    """Body of `POST /api/v1/models`: what clients call a model, and where it comes from."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    source: str = Field(max_length=MAX_SOURCE)


class ModelTaken(BaseModel):
    """Answer to that; `added` is false for a model that was there already."""

    name: str
    source: str
    added: bool


def register(app: FastAPI, controller: Controller, fleet_file: Path, engines_dir: Path) -> None:
    """Register the route; a model is served until the queen ends, and the next start names its own."""
    one_at_a_time = asyncio.Lock()

    @app.post("/api/v1/models", status_code=201)
    async def take(order: ModelOrder) -> ModelTaken:
        """Serve another model of this machine."""
        async with one_at_a_time:
            known = controller.model(order.name)
            if known is not None and known.source == order.source:
                return ModelTaken(name=order.name, source=shown(order.source), added=False)
            if order.name in controller.fleet.names:
                said = f"the model {order.name!r} is another one already; choose a name: NAME={shown(order.source)}"
                raise RequestError(409, said, kind="conflict_error", code="model_exists", param="name")
            try:
                fleet = await asyncio.to_thread(
                    laptop.with_model, controller.fleet.current, f"{order.name}={order.source}", engines_dir
                )
            except ConfigError as error:
                raise RequestError(400, str(error), param="source") from None
            await asyncio.to_thread(laptop.write_fleet, fleet_file, fleet)
            controller.fleet.poll()
            controller.reconcile()
            logs.info("model taken", model=order.name, source=shown(order.source))
            return ModelTaken(name=order.name, source=shown(order.source), added=True)
