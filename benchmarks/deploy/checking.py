"""Whether hosts are what was asked for, asked of the hosts themselves: the same questions whoever deployed them."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rbee_runtime import ports

Values = dict[str, Any]


def questions(folder: Path, name: str) -> str:
    """Return the script that names everything on a host that is not as the playbook's folder says."""
    values: Values = json.loads((folder / "host_vars" / f"{name}.json").read_text(encoding="utf-8"))
    lines = (*_paths(folder, values), *_accounts(values), *_units(values))
    return "\n".join(("exec 2>/dev/null", *lines, "true"))


def _paths(folder: Path, values: Values) -> Iterator[str]:
    for file in values["rbee_files"]:
        digest = hashlib.sha256((folder / file["src"]).read_bytes()).hexdigest()
        yield _same(f"sha256sum <{shlex.quote(file['path'])}", f"{digest}  -", file["path"])
    for item in (*values["rbee_files"], *values["rbee_directories"]):
        access = f"{item['mode'].zfill(4)} {item['owner']} {item['group']}"
        yield _same(shlex.join(("stat", "-c", "%04a %U %G", item["path"])), access, f"access of {item['path']}")
    release = values["rbee_release"]["folder"]
    yield _same(shlex.join(("readlink", str(ports.CURRENT))), release, str(ports.CURRENT))
    yield _same(f"test -f {shlex.quote(release)}/release.json && echo there", "there", release)


def _accounts(values: Values) -> Iterator[str]:
    for name in values["rbee_groups"]:
        yield _same(f"getent group {shlex.quote(name)} | cut -d: -f1", name, f"group {name}")
    for user in values["rbee_users"]:
        wanted = " ".join(sorted((user["name"], *user["groups"])))
        found = f"id -nG {shlex.quote(user['name'])} | tr ' ' '\\n' | LC_ALL=C sort | paste -sd ' '"
        yield _same(found, wanted, f"user {user['name']}")


def _units(values: Values) -> Iterator[str]:
    for unit in values["rbee_units"]:
        yield _same(shlex.join(("systemctl", "is-enabled", unit)), "enabled", f"start of {unit} at boot")
        yield _same(shlex.join(("systemctl", "is-active", unit)), "active", unit)
    for service, running in values["rbee_running"].items():
        found = f"grep -o {shlex.quote(running['digest'])} {shlex.quote(running['file'])} | head -n 1"
        yield _same(found, running["digest"], f"what {service} runs")


def _same(command: str, wanted: str, named: str) -> str:
    return f'[ "$({command})" = {shlex.quote(wanted)} ] || echo {shlex.quote(named)}'


def sentence(differences: Iterable[tuple[str, str]]) -> str:
    """Return what is wrong, "" if nothing is; `differences` are pairs of host and what its questions printed."""
    return "; ".join(f"{name}: {', '.join(said.splitlines())}" for name, said in differences if said)
