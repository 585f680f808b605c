"""The stages of a deploy, in order: what each is called, and which operations it runs.

Every host calls every operation, so that pyinfra keeps one order for all: a step that does not concern a host gets
nothing to do there. An operation is finished on all hosts before the next begins, which puts the queen before hives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rbee_deploy import report
from rbee_deploy.here import Here
from rbee_deploy.operations import activate, host, models, place, release, units
from rbee_deploy.site import Host

Call = Callable[[Here, str], Any]


@dataclass(frozen=True)
class Stage:
    """A part of the deploy that a person sees: steps by name, each calling one operation."""

    title: str
    steps: tuple[tuple[str, Call], ...]
    applies: Callable[[Host], bool] = lambda _host: True


STAGES = (
    Stage(
        "preflight",
        (
            ("check the host", lambda here, name: host.accepted(name=name, problems=here.problems)),
            ("make what it needs", lambda here, name: host.prepared(name=name, plan=here.fitting_plan)),
            ("check that it fits", lambda here, name: host.accepted(name=name, problems=here.room)),
        ),
    ),
    Stage(
        "setup",
        (
            ("install packages", lambda here, name: host.packages(name=name, needed=here.fits)),
            ("make groups", lambda here, name: host.groups(name=name, groups=here.groups)),
            ("make users", lambda here, name: host.users(name=name, users=here.users)),
            ("make directories", lambda here, name: host.directories(name=name, directories=here.directories)),
        ),
    ),
    Stage(
        "stage",
        (
            (
                "install the release",
                lambda here, name: release.installed(name=name, release=here.release, uv=here.uv),
            ),
            ("install engines", lambda here, name: release.engines(name=name, artefacts=here.engines)),
            ("bring models", lambda here, name: models.seeded(name=name, seeds=here.seeds)),
        ),
    ),
    Stage("place files", (("write them", lambda here, name: place.files(name=name, files=here.files)),)),
    Stage(
        "units",
        (
            ("register them", lambda here, name: units.registered(name=name, enabled=here.fitting_units)),
            # Not before: systemd would not start a unit again of which it knows the old text, which names them.
            ("remove old files", lambda here, name: place.absent(name=name, paths=here.unwanted)),
        ),
    ),
    Stage(
        "activate queen",
        (
            (
                "switch the release",
                lambda here, name: activate.release_link(name=name, release=lambda: here.release_id("queen")),
            ),
            ("start it", lambda here, name: activate.running(name=name, role=lambda: here.role("queen"))),
        ),
        applies=lambda declared: declared.queen,
    ),
    Stage(
        "activate hives",
        (
            (
                "switch the release",
                lambda here, name: activate.release_link(name=name, release=lambda: here.release_id("hive")),
            ),
            (
                "start them",
                lambda here, name: activate.running(
                    name=name, role=lambda: here.role("hive"), blocked=here.queen_failed
                ),
            ),
            ("start the target", lambda here, name: units.up(name=name, units=here.target)),
        ),
    ),
    Stage("verify", (("compare", lambda here, name: activate.converged(name=name, wrong=here.wrong, left=here.left)),)),
)


def run(stages: tuple[Stage, ...] = STAGES) -> None:
    """Run the stages on the host at hand."""
    here = Here.of_context()
    report.arm(here.host.state)
    here.host.connector_data[report.ELSEWHERE] = {item.title for item in stages if not item.applies(here.declared)}
    for stage in here.host.loop(stages):
        for step, call in here.host.loop(stage.steps):
            call(here, f"{stage.title}{report.separator()}{step}")
