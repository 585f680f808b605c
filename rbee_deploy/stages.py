"""The stages of a deploy, in order: what each is called, and which operations it runs.

Every host calls every operation, so that pyinfra keeps one order for all: a step that does not concern a host gets
nothing to do there. An operation is finished on all hosts before the next begins, which puts the queen before hives
and one turn of hives before the next.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rbee_deploy import fallback, falling_back, report
from rbee_deploy.errors import DeployError, UnfitRunError
from rbee_deploy.here import EVERY, HERE, Here
from rbee_deploy.history import Past
from rbee_deploy.operations import activate, host, images, lease, models, noting, release, workers
from rbee_deploy.operations.root import NOTES
from rbee_deploy.site import Host, Site

Call = Callable[[Here, str], Any]


@dataclass(frozen=True)
class Stage:
    """A part of the deploy that a person sees: steps by name, each calling one operation.

    One that is `quiet` gets a line only where it fails.
    """

    title: str
    steps: tuple[tuple[str, Call], ...]
    applies: Callable[[Host], bool] = lambda _host: True
    quiet: bool = False


CHOOSE = ("settle how it runs", lambda here, name: host.settled(name=name, choose=lambda: _choose(here)))
PREFLIGHT = Stage(
    "preflight",
    (
        CHOOSE,
        ("check the host", lambda here, name: host.accepted(name=name, problems=here.problems)),
        ("make what it needs", lambda here, name: host.prepared(name=name, plan=here.fitting_plan)),
        ("check that it fits", lambda here, name: host.accepted(name=name, problems=here.room)),
    ),
)
LEASE = Stage("lease", (("take it", lambda here, name: lease.taken(name=name, needed=here.has_work)),))


def _noted(here: Here, name: str, *, activated: bool) -> Any:
    return noting.noted(name=name, site=here.site, declared=here.declared, activated=activated)


SETUP = Stage(
    "setup",
    (
        # From here on there is something for a purge to find, whatever becomes of the rest.
        ("note how it is reached", partial(_noted, activated=False)),
        ("install packages", lambda here, name: host.packages(name=name, needed=here.fits, wanted=here.needs())),
        # What was installed meanwhile could be other than it was to be.
        ("settle again how it runs", CHOOSE[1]),
        ("check the host again", lambda here, name: host.accepted(name=name, problems=here.problems)),
        ("make groups", lambda here, name: host.groups(name=name, groups=here.groups)),
        ("make users", lambda here, name: host.users(name=name, users=here.users)),
        ("make directories", lambda here, name: host.directories(name=name, directories=here.directories)),
    ),
)


def _fetch(here: Here, name: str) -> Any:
    return models.fetched(name=name, specs=here.ahead, wanted=here.generation)


def _choose(here: Here) -> None:
    falling_back.choose(here, tries=tries)


def _load(here: Here, name: str) -> Any:
    engine = here.declared.container_engine
    loading = images.loaded(
        name=name,
        wanted=here.images,
        engine=engine,
        release=here.release_id,
        # Who only brings things does not fall back.
        _ignore_errors=fallback.is_open(here.declared) and chosen is not preseed,
    )
    falling_back.brought(here, loading)
    return loading


def _activate(here: Here, name: str, wanted: Callable[[], Any], blocked: Callable[[], str] | str = "") -> Any:
    may = fallback.is_open(here.declared)
    activation = activate.activated(
        name=name, wanted=wanted, wrong=here.to_activate, blocked=blocked, _ignore_errors=may
    )
    falling_back.activated(here, activation)
    return activation


STAGING = Stage(
    "stage",
    (
        ("install the release", lambda here, name: release.installed(name=name, release=here.release, uv=here.uv)),
        ("install engines", lambda here, name: release.engines(name=name, artefacts=here.engines)),
        ("load images", _load),
        ("bring models", lambda here, name: models.seeded(name=name, seeds=here.seeds)),
        ("bring files", lambda here, name: activate.staged(name=name, wanted=here.generation, files=here.files)),
        ("fetch models ahead", _fetch),
    ),
)
NOTE = Stage("note", (("that it is deployed", partial(_noted, activated=True)),), quiet=True)
QUEEN = Stage(
    "activate queen",
    (("go over to it", lambda here, name: _activate(here, name, here.queens_generation)),),
    applies=lambda declared: declared.queen,
)
WORKERS = Stage(
    "workers",
    (
        (
            "wait for the queen to replace them",
            lambda here, name: workers.followed(name=name, queen=here.queens_door, releases=here.releases),
        ),
    ),
    applies=lambda declared: declared.queen,
)
UNDO = Stage(
    "take back",
    (
        ("hives", lambda here, name: _take_back(here, name, lambda: not here.declared.queen)),
        ("queen", lambda here, name: _take_back(here, name, lambda: here.declared.queen)),
    ),
    quiet=True,
)
VERIFY = Stage(
    "verify",
    (("compare", lambda here, name: activate.converged(name=name, wrong=here.damaged_or_wrong, left=here.left)),),
)
PRUNE = Stage(
    "prune",
    (
        (
            "remove what is left over",
            lambda here, name: activate.pruned(
                name=name, release=here.release_id, engines=here.engine_ids, needed=here.was_changed
            ),
        ),
    ),
)


def hives(turns: int) -> Stage:
    """Return the stage in which hives are activated, a turn after the other."""
    return Stage(
        "activate hives",
        tuple((f"turn {turn + 1}", partial(_activate_hives, turn)) for turn in range(turns)),
        applies=lambda declared: not declared.queen,
    )


def _take_back(here: Here, name: str, mine: Callable[[], bool]) -> Any:
    return activate.taken_back(
        name=name,
        step=lambda: here.way_back() if mine() else None,
        now=lambda: Past.of(here.facts.deploy).now,
        why=here.why_back,
    )


def _activate_hives(turn: int, here: Here, name: str) -> Any:
    return _activate(here, name, partial(here.generation_in_turn, turn), here.gate)


def _fall_back(title: str, *, queen: bool) -> Stage:
    """Return the stage in which those run bare that did not get ready in containers."""

    def mine(here: Here) -> bool:
        return here.declared.queen is queen and bool(fallback.said(here.host))

    def wanted(here: Here) -> Any:
        return here.generation() if mine(here) else None

    def problems(here: Here) -> list[str]:
        if here.declared.queen is not queen:
            return []
        return falling_back.unsettled(here) or (here.problems() if mine(here) else [])

    steps = (
        ("settle how it runs", lambda here, name: host.settled(name=name, choose=lambda: _settle(here, title, queen))),
        ("check the host", lambda here, name: host.accepted(name=name, problems=lambda: problems(here))),
        ("install engines", lambda here, name: release.engines(name=name, artefacts=here.engines)),
        ("bring files", lambda here, name: activate.staged(name=name, wanted=lambda: wanted(here), files=here.files)),
        (
            "go over to it",
            lambda here, name: activate.activated(
                name=name,
                wanted=lambda: wanted(here),
                wrong=here.to_activate,
                blocked=(lambda: "") if queen else here.gate,
            ),
        ),
    )
    return Stage(title, steps, applies=lambda declared: declared.queen is queen, quiet=True)


def _settle(here: Here, title: str, queen: bool) -> None:
    if here.declared.queen is queen and falling_back.settle(here):
        here.host.connector_data[report.QUIET].discard(title)
        here.host.connector_data.setdefault(NOTES, {})[title] = fallback.said(here.host)


def of(site: Site) -> tuple[Stage, ...]:
    """Return the stages of a deploy of a fleet."""
    open_ = any(fallback.is_open(item) for item in site.hosts)
    queen = (_fall_back("activate bare queen", queen=True),) if open_ else ()
    return (PREFLIGHT, LEASE, SETUP, STAGING, NOTE, QUEEN, *queen, *_late(site))


def preseed(_site: Site) -> tuple[Stage, ...]:
    """Return the stages that bring what is large and slow, and change nothing that is in use."""
    return (PREFLIGHT, LEASE, SETUP, STAGING)


chosen: Callable[[Site], tuple[Stage, ...]] = of
"""What `run` runs: a command of rbee-deploy other than apply sets its own."""

tries: bool = True
"""Whether the run tries again what hosts have a fallback for; commands that only look do not."""


def _late(site: Site) -> tuple[Stage, ...]:
    followers = sum(not item.queen for item in site.hosts)
    waits = (WORKERS,) if site.rollout.workers_seconds else ()
    bare = (_fall_back("activate bare hives", queen=False),) if any(map(fallback.is_open, site.hosts)) else ()
    return (hives(site.rollout.turns(followers)), *bare, *waits, UNDO, VERIFY, PRUNE)


def _check_images(here: Here) -> None:
    """End the run where no host could get what this machine has: a mistake that a fallback would hide."""
    try:
        here.workshop.check_images(here.declared)
    except DeployError as error:
        raise UnfitRunError(str(error)) from error


def run() -> None:
    """Run the chosen stages on the host at hand."""
    here = Here.of_context()
    report.arm(here.host.state)
    mine = chosen(here.site)
    if PREFLIGHT in mine:
        _check_images(here)
    here.host.connector_data[HERE] = here
    here.host.connector_data[EVERY] = chosen is preseed
    here.host.connector_data[report.ELSEWHERE] = {item.title for item in mine if not item.applies(here.declared)}
    here.host.connector_data[report.QUIET] = {item.title for item in mine if item.quiet}
    for stage in here.host.loop(mine):
        for step, call in here.host.loop(stage.steps):
            call(here, f"{stage.title}{report.separator()}{step}")
