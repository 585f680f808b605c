"""`rbee-keeper keys …` and `usage`: who may use the fleet, how much, and how much of that was used."""

import difflib
import time
from dataclasses import fields
from datetime import date
from typing import Annotated

import typer

from rbee_runtime.errors import ConfigError
from rbee_runtime.keeper.client import QueenClient, Row
from rbee_runtime.keeper.output import AsJson, list_rows, print_json, say, settings_of, show_rows
from rbee_runtime.keeper.times import instant, span
from rbee_runtime.queen.records import KeyLimits, Priority

keys = typer.Typer(help="API keys of clients.")


_LIMITS = tuple(field.name for field in fields(KeyLimits))


@keys.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str], typer.Option(help="infer, admin:read, admin:write, or admin for both of them; repeatable.")
    ] = ["infer"],  # noqa: B006 - typer copies it
    model: Annotated[
        list[str], typer.Option(help="Model or pattern that it may use; repeatable.", show_default="as yours")
    ] = [],  # noqa: B006 - typer copies it
    expires: Annotated[
        str, typer.Option(help="When it ends: 12h, 30d, 2027-01-31 or never.", show_default="as yours")
    ] = "",
    limit: Annotated[
        list[str],
        typer.Option(
            help="concurrency=N, requests_per_minute=N or tokens_per_minute=N; repeatable.", show_default="as yours"
        ),
    ] = [],  # noqa: B006 - typer copies it
    priority: Annotated[Priority | None, typer.Option(help="Whose turn comes first.", show_default="normal")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it; it is never shown again. It may do no more than the key that you use."""
    asked: Row = {"name": name, "scopes": scope}
    given = {"models": model, "limits": _limits(limit), "priority": priority}
    asked |= {field: value for field, value in given.items() if value}
    if expires:
        asked["expires"] = moment(expires, time.time())
    with QueenClient(settings_of(context)) as client:
        made = client.create_key(asked)
    if as_json:
        print_json(made)
        return
    typer.echo(made["key"])
    typer.echo(f"id {made['id']}; keep the key, it is not shown again", err=True)


@keys.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    list_rows(context, "keys", as_json)


@keys.command("revoke")
def revoke_key(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key.")],
    as_json: AsJson = False,
) -> None:
    """Make a key invalid at once."""
    with QueenClient(settings_of(context)) as client:
        client.revoke_key(key_id)
    say({"id": key_id, "revoked": True}, f"key {key_id} is revoked", as_json)


def usage(
    context: typer.Context,
    key: Annotated[str, typer.Option(help="Of the key with this id only.")] = "",
    model: Annotated[str, typer.Option(help="Of this model only.")] = "",
    since: Annotated[str, typer.Option(help="First day, 2026-11-30.", show_default="30 days ago")] = "",
    until: Annotated[str, typer.Option(help="Last day.", show_default="today")] = "",
    as_json: AsJson = False,
) -> None:
    """Show what keys used: requests and tokens by key, model and day (UTC)."""
    asked = {"key": key, "model": model, "since": _day("since", since), "until": _day("until", until)}
    with QueenClient(settings_of(context)) as client:
        rows = client.usage({name: value for name, value in asked.items() if value})
    show_rows("usage", rows, as_json)


def moment(text: str, now: float) -> int:
    """Return Unix seconds from `30d`, `12h`, `2027-01-31` (its begin, UTC) or `never` (0), or raise ConfigError."""
    if text == "never":
        return 0
    if (length := span(text)) is not None:
        return int(now) + length
    if (given := instant(text)) is not None:
        return given
    raise ConfigError(f"--expires {text!r} is no time: write 12h, 30d, 2027-01-31 or never")


def _day(option: str, text: str) -> str:
    """Return a day as it was given, or raise ConfigError."""
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError:
        raise ConfigError(f"--{option} {text!r} is no day: write it like 2026-11-30") from None


def _limits(given: list[str]) -> dict[str, int]:
    found = {}
    for each in given:
        name, _, value = each.partition("=")
        field = name.replace("-", "_")
        if field not in _LIMITS or not value.isascii() or not value.isdigit() or not int(value):
            near = difflib.get_close_matches(field, _LIMITS, n=1)
            known = f"did you mean {near[0]}" if near else f"known: {', '.join(_LIMITS)}"
            form = "write it like --limit requests_per_minute=60, from 1 on"
            raise ConfigError(f"--limit {each!r} is no limit: {form}; {known}")
        found[field] = int(value)
    return found
