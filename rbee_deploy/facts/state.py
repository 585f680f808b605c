"""RbeeState: everything that a deploy reads from a host, in one command that needs a POSIX shell and little else."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyinfra.api import FactBase

from rbee_deploy.elevation import probe_as_root
from rbee_deploy.facts import equipment, guard, reach, script, selinux, worker_rules

Lines = list[str]


@dataclass(frozen=True)
class Asked:
    """What one host is asked about; `password` says that sudo reads one from standard input.

    `queen` is the address and port that the host is to try, None where there is nothing to try. `firewall` is the kind
    that the inventory asks for, `container_engine` the engine, which keeps images in `image_stores`. `caches` are
    folders of the operator's that workers see as well.
    """

    paths: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    models_dir: str = "/var/lib/rbee/models"
    password: bool = False
    queen: tuple[str, int] | None = None
    firewall: str | None = None
    container_engine: str | None = None
    image_stores: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "this host"


class RbeeState(FactBase[dict[str, Any]]):
    """Return the host's state as JSON-like data; `sudo` is `ok`, `missing`, `refused` or `silent`."""

    @staticmethod
    def default() -> dict[str, Any]:
        """Return what is known of a host that answered nothing."""
        return {"sudo": "silent", "sudo_works": False}

    def command(self, asked: Asked) -> str:
        """Return the one command."""
        return probe_as_root(script.build(asked), password=asked.password)

    def process(self, output: list[str]) -> dict[str, Any]:
        """Return the sections of the output, each by its own reader; what is not there stays out."""
        sections = _sections(output)
        state: dict[str, Any] = self.default()
        for name, lines in sections.items():
            if name in _READERS:
                state.update(_READERS[name](lines))
        return state


def _sections(output: list[str]) -> dict[str, Lines]:
    sections: dict[str, Lines] = {}
    for line in output:
        if line.startswith("@"):
            name, _, rest = line[1:].partition(" ")
            if name in sections:
                break  # the script prints each once: from here on somebody else speaks
            sections[name] = [rest] if rest else []
        elif sections:
            sections[next(reversed(sections))].append(line)
    return sections


def _pairs(lines: Lines) -> dict[str, str]:
    split = (line.partition("=") for line in lines)
    return {key: value.strip('"') for key, mark, value in split if mark}


def _fields(lines: Lines) -> list[list[str]]:
    return [line.split("\t") for line in lines if line]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _sudo(lines: Lines) -> dict[str, Any]:
    word = lines[0] if lines else "silent"
    return {"sudo": word, "sudo_works": word == "ok"}


def _os(lines: Lines) -> dict[str, Any]:
    pairs = _pairs(lines)
    return {"os_id": pairs.get("ID", ""), "os_version": pairs.get("VERSION_ID", "")}


def _machine(lines: Lines) -> dict[str, Any]:
    pairs = _pairs(lines)
    words = pairs.get("systemd", "").split()
    glibc = pairs.get("glibc", "").split()
    python, _, lacks = pairs.get("python", "").partition(" ")
    return {
        "arch": pairs.get("arch") or None,
        "boot_id": pairs.get("boot_id", ""),
        "clock_unix": float(pairs["clock_unix"]) if pairs.get("clock_unix") else None,
        "memory_bytes": int(pairs["memory_kib"]) * 1024 if pairs.get("memory_kib") else None,
        "glibc": glibc[-1] if glibc else None,
        "systemd": int(words[1]) if len(words) > 1 and words[1].isdigit() else None,
        "is_systemd_pid1": pairs.get("pid1") == "systemd",
        "polkit": pairs.get("polkit") == "yes",
        "polkit_version": pairs.get("polkit_version", ""),
        "python": python or None,
        "python_lacks": lacks,
        "python_path": pairs.get("python_path") or None,
        "current": pairs.get("current") or None,
    }


_V2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def _cpu(lines: Lines) -> dict[str, Any]:
    """Return the x86-64 level (x86-64 psABI) that the flags of /proc/cpuinfo amount to; None elsewhere."""
    flags = set(lines[0].split()) if lines else set()
    levels = (("x86_64_v4", _V4), ("x86_64_v3", _V3), ("x86_64_v2", _V2), ("x86_64", {"sse2"}))
    return {"cpu_baseline": next((name for name, needs in levels if needs <= flags), None)}


def _disk(lines: Lines) -> dict[str, Any]:
    rows = [row for row in _fields(lines) if len(row) == 2 and row[1].isdigit()]
    return {"disk_free": {path: int(kib) * 1024 for path, kib in rows}}


def _listen(lines: Lines) -> dict[str, Any]:
    return {"listeners": {int(port): owner for port, owner in map(_listener, lines) if port.isdigit()}}


def _listener(line: str) -> tuple[str, str]:
    words = line.split(maxsplit=2)
    local, owner = [*words, "", ""][:2]
    return local.rpartition(":")[2], owner or "unknown"


def _users(lines: Lines) -> dict[str, Any]:
    return {"users": {row[0]: row[1].split() for row in _fields(lines) if len(row) == 2}}


def _groups(lines: Lines) -> dict[str, Any]:
    return {"groups": [line for line in lines if line]}


_KINDS = {"regular file": "file", "regular empty file": "file", "directory": "directory", "symbolic link": "link"}


def _paths(lines: Lines) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for row in _fields(lines):
        if row[0] == "stat" and len(row) == 7:
            _, kind, mode, owner, group, size, path = row
            paths.setdefault(path, {}).update(
                kind=_KINDS.get(kind, kind), mode=mode.zfill(4), owner=owner, group=group, size=int(size)
            )
        elif row[0] in {"sha256", "target"} and len(row) == 3:
            paths.setdefault(row[2], {})[row[0]] = row[1]
    return {"paths": paths}


def _units(lines: Lines) -> dict[str, Any]:
    blocks = "\n".join(lines).split("\n\n")
    units = (_pairs(block.splitlines()) for block in blocks)
    return {"units": {unit["Id"]: _unit(unit) for unit in units if unit.get("Id")}}


def _unit(unit: dict[str, str]) -> dict[str, Any]:
    return {
        "load": unit.get("LoadState", ""),
        "active": unit.get("ActiveState", ""),
        "sub": unit.get("SubState", ""),
        "result": unit.get("Result", ""),
        "file_state": unit.get("UnitFileState", ""),
        "need_reload": unit.get("NeedDaemonReload") == "yes",
        "main_pid": int(unit.get("MainPID") or 0),
        "restarts": int(unit.get("NRestarts") or 0),
    }


_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def _engine(lines: Lines) -> dict[str, Any]:
    return {"engine": [line for line in lines if line in {"answers", "containerd", "cdi"}]}


def _networks(lines: Lines) -> dict[str, Any]:
    """Return what makes the networks of a Podman that was asked, None where that failed."""
    if lines == [script.NO_ANSWER]:
        return {"networks": None}
    backend, _, more = " ".join(lines).strip().partition(" ")
    found = _NUMBER.search(more)
    return {"networks": {"backend": backend, "version": found[0] if found else ""}}


def _images(lines: Lines) -> dict[str, Any]:
    return {"images": [line for line in lines if line]}


def _containers(lines: Lines) -> dict[str, Any]:
    return {"containers": [line for line in lines if line]}


def _drop_ins(lines: Lines) -> dict[str, Any]:
    return {"drop_ins": [line for line in lines if line]}


def _running(lines: Lines) -> dict[str, Any]:
    rows = ((role, _json(text)) for role, text in (row for row in _fields(lines) if len(row) == 2))
    return {"running": {role: value for role, value in rows if isinstance(value, dict)}}


def _installed(kind: str) -> Callable[[Lines], dict[str, Any]]:
    def read(lines: Lines) -> dict[str, Any]:
        rows = [row for row in _fields(lines) if len(row) == 2]
        return {
            kind: sorted(name for mark, name in rows if mark == "complete"),
            f"{kind}_partial": sorted(name for mark, name in rows if mark == "partial"),
            f"{kind}_damaged": sorted(name for mark, name in rows if mark == "damaged"),
        }

    return read


def _listing(kind: str) -> Callable[[Lines], dict[str, Any]]:
    def read(lines: Lines) -> dict[str, Any]:
        rows = [row for row in _fields(lines) if len(row) == 2 and row[1].isdigit()]
        return {kind: {name: int(size) for name, size in rows}}

    return read


def _models(lines: Lines) -> dict[str, Any]:
    rows = _fields(lines)
    manifests = {row[1]: _json(row[2]) for row in rows if row[0] == "manifest" and len(row) == 3}
    blobs = {row[1]: int(row[2]) for row in rows if row[0] == "blob" and len(row) == 3}
    return {
        "models": [{"slug": slug, **(m if isinstance(m, dict) else {})} for slug, m in manifests.items()],
        "blobs": blobs,
    }


def _deploy(lines: Lines) -> dict[str, Any]:
    """Return what was activated; what an activation would put back is of no interest here, and large."""
    rows = _fields(lines)
    states = (_json(row[1]) for row in rows if row[0] == "state" and len(row) == 2)
    state = next((state for state in states if isinstance(state, dict)), {})
    leases = (row[1:] for row in rows if row[0] == "lease" and len(row) == 5 and row[1].lstrip("-").isdigit())
    return {
        "deploy": {name: value for name, value in state.items() if name != "undo"},
        "activating": ["activating"] in rows,
        "generations": [row[1].removesuffix(".json") for row in rows if row[0] == "generation"],
        "contents": [row[1] for row in rows if row[0] == "content" and len(row) == 2],
        "lease": next(({"age": int(age), "id": key, "by": by, "since": since} for age, key, by, since in leases), None),
        "freeze": next(
            ({"by": row[1], "since": row[2], "why": row[3]} for row in rows if row[0] == "freeze" and len(row) == 4),
            None,
        ),
    }


_READERS: dict[str, Callable[[Lines], dict[str, Any]]] = {
    "sudo": _sudo,
    "os": _os,
    "machine": _machine,
    "cpu": _cpu,
    "disk": _disk,
    "cgroup": equipment.cgroup,
    "nvidia": equipment.nvidia,
    "cdi": equipment.cdi,
    "programs": equipment.programs,
    "userns": equipment.userns,
    "gpus": equipment.gpus,
    "addresses": reach.addresses,
    "queen": reach.queen,
    "firewall": guard.firewall,
    "worker_rules": worker_rules.worker_rules,
    "selinux": selinux.selinux,
    "listen": _listen,
    "users": _users,
    "groups": _groups,
    "paths": _paths,
    "units": _units,
    "drop_ins": _drop_ins,
    "running": _running,
    "releases": _installed("releases"),
    "engines": _installed("engines"),
    "tools": _listing("tools"),
    "incoming": _listing("incoming"),
    "engine": _engine,
    "networks": _networks,
    "images": _images,
    "containers": _containers,
    "models": _models,
    "deploy": _deploy,
}
