"""rollback: hosts go back to the release that they ran before, the queen first, behind the same gate as a deploy."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rbee_deploy import history
from rbee_deploy.cli import documents, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import HERE, Here
from rbee_deploy.history import Past, Step
from rbee_deploy.operations import activate, ask, lease
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage

_TARGETS = "rbee_rollback"
_MOST_NAMES = 8
"""Of hosts that go the same way; a line of two hundred is read by nobody."""


def register(commands: Commands) -> None:
    """Add the command."""
    text = "go back to the release before the last one, or to another that hosts still have"
    added = command(commands, "rollback", _rollback, text)
    added.add_argument("release", nargs="?", default="", help="a release id or a version; left out, the one before")


def _rollback(options: argparse.Namespace) -> int:
    status = running.go(options, wanted=partial(stages_of, options.release))
    found = {here.declared.name: here.host.connector_data.get(_TARGETS) for here in running.hosts()}
    documents.tell(options, targets={name: step.release for name, step in found.items() if step is not None})
    if status == 0 and not any(found.values()):
        what = f"runs anything but {options.release} already" if options.release else "has an earlier release"
        raise DeployError(f"no host {what}; rbee-deploy status -i {options.inventory} shows what each has")
    return status


def stages_of(release: str, site: Site) -> tuple[Stage, ...]:
    """Return the stages of a rollback to a release, or with "" to the one before."""
    followers = sum(not item.queen for item in site.hosts)
    look = partial(_acceptable, release)
    taken = lambda here, name: lease.taken(name=name, needed=lambda: _target(release, here) is not None)  # noqa: E731
    return (
        Stage("look", (("read it", lambda here, name: ask.looked(name=name, accept=partial(look, here))),)),
        Stage("lease", (("take it", taken),)),
        Stage(
            "activate queen",
            (("go back", lambda here, name: _go_back(release, here, name, lambda: here.declared.queen)),),
            applies=lambda declared: declared.queen,
        ),
        Stage(
            "activate hives",
            tuple((f"turn {turn + 1}", partial(_turn, release, turn)) for turn in range(site.rollout.turns(followers))),
            applies=lambda declared: not declared.queen,
        ),
    )


def _turn(release: str, turn: int, here: Here, name: str) -> Any:
    return _go_back(release, here, name, lambda: here.turn() == turn)


def _go_back(release: str, here: Here, name: str, mine: Callable[[], bool]) -> Any:
    return activate.rolled_back(
        name=name,
        step=lambda: _target(release, here) if mine() else None,
        now=lambda: Past.of(here.facts.deploy).now,
        blocked=here.gate,
    )


def _acceptable(release: str, here: Here) -> list[str]:
    problems = here.rootless()
    past = Past.of(here.facts.deploy)
    if not problems and release and history.lacking(release, {"": past}):
        has = ", ".join(dict.fromkeys(step.release for step in reversed(past.steps))) or "none"
        return [f"it has no release {release} to go back to (it has {has}); deploy that version instead"]
    return problems


def _target(release: str, here: Here) -> Step | None:
    """Return where a host goes; all hosts decide by what all of them ran."""
    state: Any = here.host.state
    if _TARGETS not in state.__dict__:
        state.__dict__[_TARGETS] = _targets(release, state)
    target: Step | None = state.__dict__[_TARGETS].get(here.declared.name)
    here.host.connector_data[_TARGETS] = target
    return target


def _targets(release: str, state: Any) -> Mapping[str, Step]:
    reached = [item for item in state.inventory if item in state.active_hosts and HERE in item.connector_data]
    heres: list[Here] = [item.connector_data[HERE] for item in reached]
    pasts = {here.declared.name: Past.of(here.facts.deploy) for here in heres}
    targets = history.to(release, pasts) if release else history.back(pasts)
    if targets:
        print(announced(release, pasts, targets), file=sys.stderr, flush=True)
    return targets


def announced(release: str, pasts: Mapping[str, Past], targets: Mapping[str, Step]) -> str:
    """Return the line that says which hosts go where; `release` is what was asked for, "" for the one before."""
    ways: dict[str, list[str]] = {}
    for name, step in targets.items():
        now = pasts[name].now
        stays = now is not None and now.release == step.release
        ways.setdefault(f"the images before, of {step.release}" if stays else step.release, []).append(name)
    moves = "; ".join(f"{_names(names)} to {way}" for way, names in ways.items())
    switches = (pasts[name].switch for name in targets)
    begun = min((switch.since for switch in switches if switch is not None), default=0)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(begun))
    return f"rolling back to {release or f'what was before {when}'}: {moves}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
