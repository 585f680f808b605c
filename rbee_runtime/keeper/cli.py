"""`rbee-keeper`: look at a fleet, chat with it, manage keys, drain hives, start a queen on this machine."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rbee_runtime import __version__
from rbee_runtime.errors import ConfigError, RbeeError
from rbee_runtime.keeper import completion as known
from rbee_runtime.keeper.bench import bench
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.completion import PROGRAM, asked, complete, completion
from rbee_runtime.keeper.exits import Exit, exit_of
from rbee_runtime.keeper.happenings import events
from rbee_runtime.keeper.infer import infer, piped
from rbee_runtime.keeper.key_commands import keys, usage
from rbee_runtime.keeper.local_queen import PASSED_ON, start_queen, stop_queen
from rbee_runtime.keeper.model_commands import explain, models, move
from rbee_runtime.keeper.output import AsJson, list_rows, print_json, print_table, say, settings_of, show_rows
from rbee_runtime.keeper.settings import DEFAULT_URL, settle
from rbee_runtime.keeper.top import top

app = typer.Typer(
    help="Look at a fleet, chat with it, manage it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys, name="keys")

Hive = Annotated[str, typer.Argument(help="Name of the hive.", metavar="HIVE", autocompletion=known.hives)]
Worker = Annotated[str, typer.Argument(metavar="WORKER", help="Id of the worker.", autocompletion=known.workers)]


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    return complete(app) if asked() else _command(arguments)


def _command(arguments: list[str]) -> int:
    try:
        status = app(arguments or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        # What a full disk refuses is known here, not when the interpreter goes.
        sys.stdout.flush()
    except RbeeError as error:
        return _complain(str(error), exit_of(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # `| head` had enough.
        _drop_output()
        return Exit.FAILED
    except OSError as error:
        _drop_output()
        # Only what is written carries no name.
        what = f"use {error.filename}" if error.filename else "write to standard output"
        return _complain(f"cannot {what}: {error.strerror}; make room or name another place", Exit.FAILED)
    except Exception as error:
        # A wrong option; the class is click's, or that of typer's own copy of click, depending on the version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "rbee-keeper"
        said = _as_argument(error, context) or explain().rstrip(".")
        return _complain(f"{said} (see {command} --help)", Exit.USAGE)
    return status if isinstance(status, int) else Exit.DONE


def _as_argument(error: Exception, context: Any) -> str:
    """Return how to say what was typed as an option and is an argument, or ""."""
    name = getattr(error, "option_name", "").lstrip("-")
    parameters = context.command.params if context else []
    arguments = [each.metavar or each.name.upper() for each in parameters if each.param_type_name == "argument"]
    if name.upper() not in arguments:
        return ""
    return f"--{name} is no option; type {context.command_path} {' '.join(arguments)}"


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rbee {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="RBEE_URL", help="The queen's address.")] = DEFAULT_URL,
    api_key: Annotated[str, typer.Option(envvar="RBEE_API_KEY", help="API key.", show_default=False)] = "",
    api_key_file: Annotated[Path | None, typer.Option(envvar="RBEE_API_KEY_FILE", help="File with the key.")] = None,
    ca: Annotated[Path | None, typer.Option(envvar="RBEE_CA", help="Authority of the queen's certificate.")] = None,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep where the queen is; the file is read only when a command asks."""
    if _typed(context, "api_key_file") and not _typed(context, "api_key"):
        # What is typed wins over the environment.
        api_key = ""
    context.obj = lambda: settle(url, api_key, api_key_file, ca)


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the queen, its hives, workers and models."""
    settings = settings_of(context)
    with QueenClient(settings) as client:
        health = client.health()
        found = {kind: client.rows(kind) for kind in ("hives", "workers", "models")}
    if as_json:
        print_json({"queen": {"url": settings.url, **health}, **found})
        return
    from rbee_runtime.keeper.views import queen_line  # noqa: PLC0415 - rich is slow to import

    typer.echo(queen_line(settings.url, health))
    for kind, rows in found.items():
        typer.echo()
        print_table(kind, rows)


@app.command()
def hives(context: typer.Context, as_json: AsJson = False) -> None:
    """List the hosts that run models."""
    list_rows(context, "hives", as_json)


@app.command()
def workers(context: typer.Context, as_json: AsJson = False) -> None:
    """List the workers, one per replica of a model."""
    list_rows(context, "workers", as_json)


@app.command()
def devices(
    context: typer.Context,
    hive: Annotated[
        str,
        typer.Argument(
            metavar="HIVE", help="Ask this hive now; without it all, as last heard.", autocompletion=known.hives
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List what the hosts compute with, and what of its memory is taken."""
    from rbee_runtime.keeper.hosts import devices_of  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        rows = devices_of(client, hive)
    show_rows("devices", rows, as_json)


@app.command()
def worker(context: typer.Context, worker: Worker, as_json: AsJson = False) -> None:
    """Explain one worker: why it is in its state and what happens next."""
    from rbee_runtime.keeper.hosts import explained  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        found = client.worker(worker)
    say(found, explained(found), as_json)


@app.command()
def logs(
    context: typer.Context,
    worker: Worker,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=2000, help="How many of the last lines.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what it writes.")] = False,
) -> None:
    """Show what a worker wrote."""
    from rbee_runtime.keeper.views import printable  # noqa: PLC0415 - brings rich

    with QueenClient(settings_of(context)) as client:
        for line in client.logs(worker, lines, follow=follow):
            typer.echo(printable(line))


@app.command()
def chat(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Model; by default the first that is ready.", autocompletion=known.models)
    ] = "",
    prompt: Annotated[str, typer.Argument(help="What to say; without it a conversation.")] = "",
    taken: Annotated[
        str, typer.Option("--model", metavar="[NAME=]file:PATH", help="Have the queen of this machine serve a file.")
    ] = "",
) -> None:
    """Chat with a model; the answer comes as it is made."""
    from rbee_runtime.keeper.chat import choose_model, converse, declared, show_answer  # noqa: PLC0415 - brings rich

    if taken and model:
        # What stands first is no model then.
        model, prompt = "", f"{model} {prompt}".strip()
    text = prompt or piped().strip()
    with QueenClient(settings_of(context)) as client:
        chosen = declared(client, taken) if taken else model or choose_model(client)
        if not text and not sys.stdin.isatty():
            raise ConfigError("there is nothing to say: give a PROMPT, or text on standard input")
        if not text:
            converse(client, chosen, input)
            return
        _, line = show_answer(client.chat(chosen, [{"role": "user", "content": text}]), sys.stdout)
    typer.echo(f"[{chosen}: {line}]", err=True)


app.command()(infer)
app.command()(usage)


@app.command()
def drain(context: typer.Context, hive: Hive, as_json: AsJson = False) -> None:
    """Send a hive no new requests and move its workers away when they are idle."""
    with QueenClient(settings_of(context)) as client:
        waits = client.set_drained(hive, drained=True)
    said = f"hive {hive} does not drain yet: {waits}" if waits else f"hive {hive} drains"
    found = {"name": hive, "drained": True, "detail": waits}
    say(found, f"{said}; take it back with: rbee-keeper undrain {hive}", as_json)


@app.command()
def undrain(context: typer.Context, hive: Hive, as_json: AsJson = False) -> None:
    """Take a drained hive back."""
    with QueenClient(settings_of(context)) as client:
        client.set_drained(hive, drained=False)
    say({"name": hive, "drained": False}, f"hive {hive} takes requests again", as_json)


def _typed(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _drop_output() -> None:
    """Keep the interpreter from trying to flush the rest when it goes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(sentence: str, status: Exit) -> int:
    sys.stderr.write(f"rbee-keeper: {sentence}\n")
    return status


app.add_typer(models, name="models")
app.command()(explain)
app.command()(move)
app.command()(events)
app.command()(bench)
app.command()(top)
app.command("start-queen", context_settings=PASSED_ON)(start_queen)
app.command("stop-queen")(stop_queen)
app.command()(completion)
