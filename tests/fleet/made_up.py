"""An inventory of made-up hosts for pyinfra's fake connector; pyinfra executes this file.

`RBEE_MADE_UP` holds JSON: `secrets`, the number of `hosts`, `faults` by host name, `delay` in seconds per command,
`rollout` as the fields of Rollout; perhaps `given`, by the field of each host the variable that holds its secret,
`glibc` by host name, `engine` as the glibc that the engine of all hosts needs (else they have none).
A fault is `refused` (sudo), `silent`, `outdated` (runs an old digest until it is activated), `broken` (outdated, and
the activation fails), `taken` (outdated, and another deploy has its lease), `foreign` (outdated, and deployed with
another authority), `closed` (`/etc/rbee` has another mode), `spoilt` (outdated, and too old a systemd once it has its
files), `upgraded` (ran another release before) or `stuck` (a queen's: nothing was there before, and workers do not come
up).
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyinfra.context import ctx_state

from rbee_deploy import sources
from rbee_deploy.accounts import directories, groups, users
from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.generation import generation
from rbee_deploy.inventory import Rollout, fleet, host, model, simulated
from rbee_deploy.modes import role_units
from rbee_deploy.operations.root import RUN
from rbee_deploy.plan import HostPlan, Workshop
from rbee_deploy.preflight.trust import CA
from rbee_deploy.render import OwnedFile, roles
from rbee_deploy.secrets import secret_env
from rbee_deploy.site import Host

OUTDATED = {"outdated", "broken", "taken", "stuck", "foreign", "spoilt"}
STUCK = json.dumps({"workers": 1, "problem": "worker smol-1 on box1 is failed (no such file)"})
THEIRS = "0" * 64
"""The sha256 of another authority's certificate."""


class _EngineFromNowhere(sources.Built):
    """Has an engine that nobody compiled; it is on the hosts already, so that nobody reads its archive."""

    def engine(self, name: str, variant: str, target: Target) -> Artefact:
        return Artefact(
            id=f"{name}-{variant}-{target.python}",
            archive=Path(os.devnull),
            sha256="ab" * 32,
            size=1,
            glibc=_wanted["engine"],
        )


def _state(declared: Host, plan: HostPlan, fault: str, run: str, *, first: bool) -> list[str]:
    """Return what a converged host prints, apart from its fault; `run` made it so, perhaps as the `first`."""
    if fault in {"refused", "silent"}:
        return ["@sudo refused"] if fault == "refused" else []
    stats = [f"stat\tregular file\t{f.mode}\t{f.owner}\t{f.group}\t1\t{f.path}" for f in plan.files]
    hashes = [f"sha256\t{_sha256(file, fault)}\t{file.path}" for file in plan.files]
    modes = {"/etc/rbee": "0700"} if fault == "closed" else {}
    folders = [
        f"stat\tdirectory\t{modes.get(d.path, d.mode)}\t{d.owner}\t{d.group}\t1\t{d.path}"
        for d in directories(declared)
    ]
    names = dict.fromkeys(unit for role in roles(declared) for unit in role_units(role).enabled)
    units = [f"Id={name}\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n" for name in names]
    running = [
        f'{role}\t{{"digest":"{"old" if fault in OUTDATED else plan.digest(role)}","release":"{plan.release.id}"}}'
        for role in roles(declared)
    ]
    return [
        *("@sudo ok", "@machine", "arch=x86_64", "python=3.13", "pid1=systemd", "polkit=yes"),
        *(f"glibc=glibc {_glibc(declared)}", f"clock_unix={time.time():.0f}"),
        *("systemd=systemd 257", f"current=/opt/rbee/releases/{plan.release.id}"),
        *("@listen", "*:8500 rbee-queen.socket", "*:8501 rbee-queen.socket"),
        *("@users", *(f"{user.name}\t{' '.join(user.groups)}" for user in users(declared))),
        *("@groups", *(group.name for group in groups(declared))),
        *("@paths", *stats, *hashes, *folders),
        *("@units", *"\n".join(units).splitlines()),
        *("@running", *running, "@releases", f"complete\t{plan.release.id}"),
        *("@engines", *(f"complete\t{engine.id}" for engine in plan.engines)),
        *("@deploy", *_deploy(declared, plan, fault, run, first=first)),
    ]


def _glibc(declared: Host) -> str:
    return str(_wanted.get("glibc", {}).get(declared.name, "2.41"))


def _sha256(file: OwnedFile, fault: str) -> str:
    return THEIRS if fault == "foreign" and file.path == CA else file.sha256


def _deploy(declared: Host, plan: HostPlan, fault: str, run: str, *, first: bool) -> Iterator[str]:
    """Return what its activator has noted."""
    wanted, outdated = generation(declared, plan.release.id, plan.files), fault in OUTDATED
    ways = [("old", "before"), (wanted.id, run)][first:] if run else []
    good = [{"generation": name, "release": plan.release.id, "since": 1, "run": by} for name, by in ways]
    if fault == "upgraded":
        good = [{"generation": "old", "release": "0.0.9-aaaa", "since": 1}]
        good.append({"generation": wanted.id, "release": plan.release.id, "since": 86400 * 365})
    yield f"state\t{json.dumps({'current': 'old' if outdated else wanted.id, 'good': good})}"
    if not outdated:
        yield f"generation\t{wanted.id}.json"
        yield from (f"content\t{file.sha256}" for file in wanted.files)


class _Activation(dict[str, Any]):
    """The answer to an activation: from then on the host is as it should be, unless it fails."""

    def __init__(self, answers: "_Answers", *, fails: bool) -> None:
        super().__init__(success=not fails, stderr=["rbee did not become ready", "last journal line"] if fails else [])
        self._answers = answers

    def get(self, key: str, otherwise: Any = None) -> Any:
        self._answers.activated = bool(self["success"])
        return super().get(key, otherwise)


class _Staging(dict[str, Any]):
    """The answer to files, after which the host is not fit for them any more."""

    def __init__(self, answers: "_Answers") -> None:
        super().__init__(success=True)
        self._answers = answers

    def get(self, key: str, otherwise: Any = None) -> Any:
        self._answers.spoilt = True
        return super().get(key, otherwise)


class _Answers(dict[str, Any]):
    """What a host answers, by a part of the command."""

    def __init__(self, declared: Host, plan: HostPlan, fault: str) -> None:
        self.activated = self.spoilt = False
        self._host = (declared, plan, fault)
        super().__init__({"answers": "not empty"})

    def items(self) -> Any:
        declared, plan, fault = self._host
        now = "" if self.activated and fault in OUTDATED else fault
        run = ctx_state.get().__dict__.get(RUN, "") if self.activated else ""
        state = _state(declared, plan, now, run, first=fault == "stuck")
        yield "@sudo ok", ["systemd=systemd 200" if self.spoilt and "systemd=" in line else line for line in state]
        if fault == "spoilt":
            yield "activator stage", _Staging(self)
        yield "activator activate", _Activation(self, fails=fault == "broken")
        if fault == "stuck":
            yield "activator workers", [STUCK]
        if fault == "taken":
            yield "/run/rbee-deploy/lease", {"success": False, "stderr": ["anna@desk deploys to this host since noon"]}


def _made_up(entry: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the same host behind the fake connector."""
    name, data = entry
    placed = data["rbee"]
    plan = _shop.plan(placed.host, Target(glibc=_glibc(placed.host)))
    answers = _Answers(placed.host, plan, _wanted["faults"].get(name, ""))
    return f"@fake/{name}", {
        "rbee": placed,
        "fake_responses": answers,
        "fake_delay": _wanted["delay"],
        "fake_delay_jitter": 0,
    }


_wanted = json.loads(os.environ["RBEE_MADE_UP"])
_given: dict[str, Any] = {field: secret_env(name) for field, name in _wanted.get("given", {}).items()}
_declared = (
    host(
        f"box{number}",
        address=f"192.0.2.{number}",
        queen=number == 1,
        engines=["llama-cpp"] if "engine" in _wanted else [],
        **({"devices": [simulated("gpu0", memory=_wanted["gpu"])]} if "gpu" in _wanted else {}),
        **_given,
    )
    for number in range(1, _wanted["hosts"] + 1)
)
_queen, _hives = fleet(
    "made-up",
    hosts=list(_declared),
    models=[model("big", source=f"file:{_wanted['model']}", context=16384)] if "model" in _wanted else [],
    client_endpoint="plain-http",
    secrets_dir=_wanted["secrets"],
    rollout=Rollout(**_wanted.get("rollout", {})),
)
if "engine" in _wanted:
    sources.choose(_EngineFromNowhere())
# What is on the hosts has nothing to do with what a command brings there.
_from = _EngineFromNowhere() if "engine" in _wanted else sources.Built()
_shop = Workshop(_queen[0][1]["rbee"].site, _from)
hives = [_made_up(entry) for entry in _hives]
