"""Commands about models: list, load, unload, explain, and move one of their workers."""

from typing import Annotated

import typer

from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.output import AsJson, list_rows, say, settings_of

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
Wait = Annotated[bool, typer.Option(help="Wait until it serves.")]
Worker = Annotated[str, typer.Argument(metavar="WORKER", help="Id of the worker.")]
Target = Annotated[str, typer.Argument(metavar="HIVE", help="Where to; without it the best other one.")]

models = typer.Typer(help="List the models of the fleet, load them, let them go.", invoke_without_command=True)


@models.callback()
def alone(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models of the fleet, load them, let them go."""
    if context.invoked_subcommand is None:
        list_rows(context, "models", as_json)


@models.command("ls")
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models of the fleet."""
    list_rows(context, "models", as_json)


@models.command()
def load(context: typer.Context, model: Model, wait: Wait = True, as_json: AsJson = False) -> None:
    """Load a model, and wait until it serves; one that the inventory keeps up loads by itself."""
    from rbee_runtime.keeper.lifecycle import loaded  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        found = loaded(client, model, wait=wait, say=lambda line: typer.echo(line, err=True))
    say(found, f"{model} serves" if found.get("ready") else f"{model} is being loaded", as_json)


@models.command()
def unload(context: typer.Context, model: Model, as_json: AsJson = False) -> None:
    """Let every worker of a model go as soon as its requests have ended; the next request loads it again."""
    with QueenClient(settings_of(context)) as client:
        found = client.unload(model)
    left = found.get("workers", 0)
    say(found, f"{model}: {left} of its workers end with their requests" if left else f"{model} is unloaded", as_json)


def explain(context: typer.Context, model: Model, as_json: AsJson = False) -> None:
    """Explain a model: why its workers are where they are, what another one would find, who would go for it."""
    from rbee_runtime.keeper.lifecycle import told  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        found = client.explain(model)
    say(found, told(found), as_json)


def move(context: typer.Context, worker: Worker, hive: Target = "", as_json: AsJson = False) -> None:
    """Start a worker's replacement on another hive; the worker goes once that serves."""
    with QueenClient(settings_of(context)) as client:
        found = client.move(worker, hive)
    to = hive or "the best other hive"
    say(found, f"{worker} moves from {found.get('hive')} to {to}; it serves until its replacement does", as_json)
