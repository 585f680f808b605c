"""status, audit and api-key: what hosts run, what was done to them, and where the first key lies."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rbee_deploy import fallback, falling_back, lease
from rbee_deploy.activator import places
from rbee_deploy.authority import FleetAuthority
from rbee_deploy.cli import documents, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.history import Past
from rbee_deploy.operations import ask
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage
from rbee_runtime import ports

MOST_AUDIT_LINES = 50


def register(commands: Commands) -> None:
    """Add the commands."""
    command(commands, "status", _status, "say what every host runs, since when, and who is at work there")
    audit = command(commands, "audit", _audit, "say what was deployed, rolled back or restored, when, by whom and why")
    audit.add_argument("-n", type=int, default=MOST_AUDIT_LINES, metavar="LINES", help="the newest so many")
    key = command(commands, "api-key", _api_key, "say where the first API key is", limits=False, hosts=False)
    key.add_argument("--show", action="store_true", help="print the key itself")


def _status(options: argparse.Namespace) -> int:
    done = running.go(options, wanted=look)
    rows = [row(here) for here in running.hosts()]
    documents.tell(options, *_lines(rows, status_line), hosts=rows)
    return done


def look(_site: Site, title: str = "look") -> tuple[Stage, ...]:
    """Return the one stage that reads what hosts are."""
    read = ("read it", lambda here, name: ask.looked(name=name, accept=here.rootless))
    return (Stage(title, (read,), quiet=True),)


def row(here: Here) -> dict[str, Any]:
    """Return what a host runs, as data."""
    facts = here.known
    if fallback.is_open(here.declared) and fallback.is_taken(facts):
        falling_back.take(here, "it did not get ready in them")
    past = Past.of(facts.deploy)
    units = {name: facts.unit(name).active for name in here.units() if name != ports.TARGET_UNIT}
    return {
        "host": here.declared.name,
        "release": past.now.release if past.now is not None else None,
        "since": past.since,
        "before": past.before.release if past.before is not None else None,
        "units": units,
        "workers": len(facts.workers),
        "fallback": here.declared.mode if fallback.said(here.host) else None,
        "otherwise": otherwise(here, past),
        "activating": bool(facts.raw.get("activating")),
        "cut_off": bool(facts.deploy.get("wanted")) and not facts.raw.get("activating"),
        "lease": facts.raw.get("lease"),
        "freeze": facts.raw.get("freeze"),
    }


def status_line(row: dict[str, Any], width: int) -> str:
    """Return a host's line."""
    if row["release"] is None:
        return f"{row['host']:<{width}}  not deployed"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["since"]))
    down = [f"{name} is {state or 'not there'}" for name, state in row["units"].items() if state != "active"]
    count = f"{row['workers']} worker{'' if row['workers'] == 1 else 's'}"
    if row["otherwise"]:
        # Asked as the inventory has it, it can say neither.
        down, count = [f"it runs {row['otherwise']}: run apply, or correct the inventory"], "workers not counted"
    instead = ["runs bare instead of in containers: apply tries again"] if row["fallback"] else []
    said = [*(down or ["up"]), *instead, *unfinished(row), *holders(row)]
    return "  ".join((f"{row['host']:<{width}}", row["release"], f"since {since}", count, "; ".join(said)))


def otherwise(here: Here, past: Past) -> str:
    """Return how a host runs where that is not the way of the inventory, which is the one that it was asked about."""
    declared = here.declared.container_engine
    wanted, now = ("" if declared is None else declared.value), past.now
    # What releases of before noted has images and no engine.
    if now is None or (now.engine == wanted if now.engine or not now.images else wanted):
        return ""
    there = f"in containers of {now.engine}" if now.engine else "in containers" if now.images else "without containers"
    return f"{there}, and the inventory says {wanted or 'without'}"


def unfinished(row: dict[str, Any]) -> Iterator[str]:
    """Yield what was begun on a host and did not end."""
    if row["activating"]:
        yield "an activation goes on there"
    if row["cut_off"]:
        yield "its last activation was cut off: run apply"
    yield from broken_off(row)


def broken_off(row: dict[str, Any]) -> Iterator[str]:
    """Yield whose deploy ended without giving its lease back; that lies there until the next deploy or boot."""
    if row["lease"] and lease.is_stale(row["lease"]["age"]):
        yield f"a deploy by {row['lease']['by']} since {row['lease']['since']} broke off"


def holders(row: dict[str, Any]) -> Iterator[str]:
    """Yield who keeps others from deploying to a host now."""
    if row["lease"] and not lease.is_stale(row["lease"]["age"]):
        yield f"{row['lease']['by']} is at work since {row['lease']['since']}"
    if row["freeze"]:
        why = f": {row['freeze']['why']}" if row["freeze"]["why"] else ""
        yield f"frozen by {row['freeze']['by']} since {row['freeze']['since']}{why}"


def _audit(options: argparse.Namespace) -> int:
    if options.n < 1:
        raise DeployError(f"-n {options.n}: the newest so many, so 1 or more")
    done = running.go(options, wanted=partial(_ask_audit, options.n))
    lines = [line for here in running.hosts() for line in audit_lines(here)]
    newest = sorted(lines, key=lambda line: str(line.get("time")))[-options.n :]
    documents.tell(options, *_lines(newest, audit_line), events=newest)
    return done


def _ask_audit(count: int, _site: Site) -> tuple[Stage, ...]:
    script = f"[ ! -f {places.AUDIT} ] || tail -n {count:d} {places.AUDIT}"
    return (
        *look(_site),
        Stage("audit", (("read it", lambda _here, name: ask.answered(name=name, script=script)),), quiet=True),
    )


def audit_lines(here: Here) -> Iterator[dict[str, Any]]:
    """Yield what was done to a host, as data; a line that was cut off by a crash is left out."""
    for text in here.host.connector_data.get(ask.ANSWER, ()):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield {"host": here.declared.name, **found}


def audit_line(row: dict[str, Any], width: int) -> str:
    """Return one event's line."""
    took = f" in {row['seconds']} s" if "seconds" in row else ""
    why = row.get("reason") or row.get("why") or ""
    what = f"{row.get('action', ''):<8}  {row.get('release', '')}{took}"
    return f"{row.get('time', '')}  {row['host']:<{width}}  {what}  {row.get('by', '')}  {why}".rstrip()


def _lines(rows: list[dict[str, Any]], line: Callable[[dict[str, Any], int], str]) -> list[str]:
    width = max((len(row["host"]) for row in rows), default=0)
    return [line(row, width) for row in rows]


def _api_key(options: argparse.Namespace) -> int:
    site = options.site
    key, _ = FleetAuthority.open(site.secrets, site.name).first_api_key()
    file = str(site.secrets / "api-key")
    shown = {"key": key.reveal()} if options.show else {}
    documents.tell(options, shown.get("key", file), file=file, **shown)
    return 0
