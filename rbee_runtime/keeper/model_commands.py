"""Commands about models: list, load, unload, pull, remove, verify, explain, and move one of their workers."""

from typing import Annotated

import typer

from rbee_runtime.errors import QueenCallError
from rbee_runtime.keeper import completion as known
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.output import AsJson, list_rows, print_json, say, settings_of

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", autocompletion=known.models)]
Wait = Annotated[bool, typer.Option(help="Wait until it serves.")]
Worker = Annotated[str, typer.Argument(metavar="WORKER", help="Id of the worker.", autocompletion=known.workers)]
On = Annotated[str, typer.Option("--hive", metavar="HIVE", help="On this hive.", autocompletion=known.hives)]
Target = Annotated[
    str, typer.Argument(metavar="HIVE", help="Where to; without it the best other one.", autocompletion=known.hives)
]

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
    from rbee_runtime.keeper.progress import Meter  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        try:
            with Meter() as meter:
                found = loaded(client, model, wait=wait, say=meter.show)
        except KeyboardInterrupt:
            typer.echo(f"\nthe load goes on; stop it with: rbee-keeper models unload {model}", err=True)
            raise
    say(found, f"{model} serves" if found.get("ready") else f"{model} is being loaded", as_json)


@models.command()
def pull(
    context: typer.Context,
    model: Model,
    hive: On = "",
    wait: Annotated[bool, typer.Option(help="Wait until it is there; Ctrl-C cancels it.")] = True,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop one that nobody waits for.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model to a hive's disk, before a worker needs it there."""
    from rbee_runtime.keeper.progress import Meter  # noqa: PLC0415 - brings rich
    from rbee_runtime.keeper.pulling import cancelled, hive_for, pulled  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        place = hive_for(client, hive)
        if cancel:
            said = cancelled(client, place, model)
            say({"hive": place, "model": model, "detail": said}, said, as_json)
            return
        if not wait:
            found = client.pull(place, model)
            there = "is on the disk of" if found.get("held") else "is on its way to"
            say(found, f"{model} {there} {place}", as_json)
            return
        with Meter() as meter:
            found = pulled(client, place, model, say=meter.show)
    say(found, f"{model} is on the disk of {place}", as_json)


@models.command("rm")
def remove(context: typer.Context, model: Model, hive: On = "", as_json: AsJson = False) -> None:
    """Remove a model that no worker uses from a hive's disk, or from all that have it."""
    from rbee_runtime.keeper.pulling import holders  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        found = holders(client, model, hive)
        for each in found:
            client.remove(each, model)
    say({"model": model, "removed": found}, f"{model} is removed from {', '.join(found)}", as_json)


@models.command()
def verify(context: typer.Context, model: Model, hive: On = "", as_json: AsJson = False) -> None:
    """Read a model's files on a hive's disk, or on all that have it, and compare them with their hashes."""
    from rbee_runtime.keeper.progress import Meter  # noqa: PLC0415 - brings rich
    from rbee_runtime.keeper.pulling import holders, verdict, verified  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client, Meter() as meter:
        found = verified(client, holders(client, model, hive), model, meter.show)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(map(verdict, found)))
    if not all(each.get("intact") for each in found):
        raise QueenCallError(f"{model} is damaged; the next worker or rbee-keeper models pull {model} fetches it anew")


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
