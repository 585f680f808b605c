"""Routes of the admin API that load, unload, move and explain models."""

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from rbee_runtime.queen import explain
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.explain import Explanation, LoadAnswer
from rbee_runtime.queen.lifecycle import check_unload
from rbee_runtime.queen.openapi import ModelName, WorkerId
from rbee_runtime.queen.records import Cause


class Move(BaseModel):
    """Body of `POST /api/v1/workers/{id}/move`; without a hive the best other one is taken."""

    model_config = ConfigDict(extra="forbid")

    hive: str = Field(default="", max_length=253)


class LifecycleAnswer(BaseModel):
    """Answer to load and unload: how many workers serve, how many there are, and the load that goes on or failed."""

    model: str
    ready: int
    workers: int
    load: LoadAnswer | None = None


class MoveAnswer(BaseModel):
    """Answer to a move: the worker serves until its replacement does."""

    worker: str
    model: str
    hive: str
    to: str


def register(app: FastAPI, controller: Controller) -> None:
    """Register the routes; names of models may hold a slash."""

    @app.get("/api/v1/loads")
    async def loads() -> list[LoadAnswer]:
        """List the loads that go on, and those whose failure is still told."""
        return explain.loads(controller)

    @app.get("/api/v1/models/{name:path}/explain")
    async def why(name: ModelName) -> Explanation:
        """Say why a model's workers are where they are."""
        return explain.explanation(controller, name)

    @app.post("/api/v1/models/{name:path}/load", status_code=202)
    async def load(name: ModelName) -> LifecycleAnswer:
        """Have a model loaded."""
        controller.want(explain.declared(controller, name).name, Cause.OPERATOR)
        return _answer(controller, name)

    @app.post("/api/v1/models/{name:path}/unload", status_code=202)
    async def unload(name: ModelName) -> LifecycleAnswer:
        """Let every worker of a model go."""
        model = explain.declared(controller, name)
        check_unload(model)
        controller.lifecycle.unload(model, waiting=controller.waiting(name))
        controller.reconcile()
        return _answer(controller, name)

    @app.post("/api/v1/workers/{worker}/move", status_code=202)
    async def move(worker: WorkerId, body: Move) -> MoveAnswer:
        """Have a worker replaced on another hive."""
        entry = explain.check_move(controller, worker, body.hive)
        controller.lifecycle.move(entry, body.hive)
        controller.reconcile()
        return MoveAnswer(worker=worker, model=entry.spec.model, hive=entry.hive, to=body.hive)


def _answer(controller: Controller, name: str) -> LifecycleAnswer:
    mine = controller.assignments.of(name)
    ready = sum(entry.serves for entry in mine)
    return LifecycleAnswer(model=name, ready=ready, workers=len(mine), load=explain.load_of(controller, name))
