"""Routes of the admin API about models on the disk of one hive: fetch, remove, verify."""

from urllib.parse import quote

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from rbee_runtime.errors import ReferenceFormError, RequestError
from rbee_runtime.models.references import check_name, identity
from rbee_runtime.queen import explain
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.openapi import HiveName, ModelName
from rbee_runtime.queen.pulls import has_files, is_there

VERIFY_SECONDS = 3600.0
"""A terabyte from a good disk; a network disk may take as long for less."""


class PullAnswer(BaseModel):
    """Answer to a pull and to its end; `held`: the model is on that disk whole, and nothing was to be fetched.

    `source` is what the hive calls where the model comes from, as its own answers about the model have it.
    """

    hive: str
    model: str
    source: str
    held: bool
    pulled: bool


def register(app: FastAPI, controller: Controller, calls: HiveCalls) -> None:
    """Register the routes; names of models may hold a slash."""

    @app.post("/api/v1/hives/{name}/models/{model:path}/pull", status_code=202)
    async def pull(name: HiveName, model: ModelName) -> PullAnswer:
        """Have a hive fetch a model that nobody needs there yet."""
        calls.url(name)
        answer = _asked(controller, name, model)
        if not answer.held:
            controller.documents.pulls.ask(name, model)
            controller.publish()
        return answer.model_copy(update={"pulled": not answer.held})

    @app.delete("/api/v1/hives/{name}/models/{model:path}/pull")
    async def cancel(name: HiveName, model: ModelName) -> PullAnswer:
        """Give up a pull that was asked for."""
        answer = _asked(controller, name, model)
        dropped = controller.documents.pulls.drop(name, model)
        controller.publish()
        return answer.model_copy(update={"pulled": dropped})

    @app.post("/api/v1/hives/{name}/models/{model:path}/verify")
    async def verify(name: HiveName, model: ModelName) -> Response:
        """Have a hive read a model's files and compare their content with its hashes."""
        return await calls.order("POST", name, f"{_path(model)}/verify", within=VERIFY_SECONDS)

    @app.get("/api/v1/hives/{name}/models/{model:path}")
    async def on_disk(name: HiveName, model: ModelName) -> Response:
        """Return a model on a hive's disk, or on its way there."""
        return await calls.get(name, _path(model))

    @app.delete("/api/v1/hives/{name}/models/{model:path}", status_code=204)
    async def remove(name: HiveName, model: ModelName) -> Response:
        """Have a hive remove a model's files, unless something uses them."""
        return await calls.order("DELETE", name, _path(model))


def _asked(controller: Controller, hive: str, name: str) -> PullAnswer:
    """Return what is known of a model on a hive before anything changes, or raise RequestError."""
    model = explain.declared(controller, name)
    if not has_files(model):
        said = f"model {name} has no files: its engine comes with rbee"
        raise RequestError(409, said, kind="conflict_error", code="no_files", param="model")
    member = controller.membership.members.get(hive)
    report = member.report if member is not None else None
    held = report is not None and is_there(name, model.source, report.models, report.fetches)
    return PullAnswer(hive=hive, model=name, source=identity(model.source), held=held, pulled=False)


def _path(model: str) -> str:
    """Return the path of a model at its hive, or raise RequestError for what is no name of one."""
    try:
        return f"models/{quote(check_name(model), safe='/:')}"
    except ReferenceFormError as error:
        # A name that no model can have is one that is not there.
        raise RequestError(404, str(error), code="model_not_found", param="model") from None
