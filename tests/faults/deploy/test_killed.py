"""S6: a deploy and a rollback are killed at every boundary there is, on the operator's machine and on the host."""

import runpy
from collections.abc import Callable
from functools import partial

import pytest

import tests.unpatched  # noqa: F401 - before rbee_deploy.cli
from rbee_deploy import report, stages
from rbee_deploy.activator import activation
from rbee_deploy.cli import going_back
from rbee_deploy.inventory import host
from rbee_deploy.site import Site
from tests.faults.deploy.trio import KILLED, Trio, activator, pids, release
from tests.faults.rows import FULL
from tests.sampling import pairs, sample
from tests.unit.deploy import sites

pytestmark = pytest.mark.lab

ACTIVATOR_STEPS = [name for name, _ in activation.STEPS]
Command = Callable[[Site], tuple[stages.Stage, ...]]
COMMANDS: dict[str, Command] = {"boundary": stages.of, "back": partial(going_back.stages_of, "")}
"""The stages of apply and of rollback, by the argument of the tests that try them."""


def boundaries(site: Site, command: str = "boundary") -> list[list[str]]:
    """Return the steps of a command by their operations' names, a list for each stage."""
    made = COMMANDS[command](site)
    return [[f"{stage.title}{report.separator()}{step}" for step, _ in stage.steps] for stage in made]


def three_hosts() -> Site:
    """Return a fleet of as many hosts as the one that is deployed."""
    queen = host("queen", address="192.0.2.1", queen=True, hive=False)
    hives = (host(f"gpu{number}", address=f"192.0.2.1{number}") for number in (1, 2))
    return sites.site_of(queen, *hives, client_endpoint="plain-http")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have every boundary, role and step tried in the full run, of every two stages or steps one in the short one."""
    for name in COMMANDS.keys() & metafunc.fixturenames:
        found = boundaries(three_hosts(), name)
        every = [step for group in found for step in group]
        some = sample(metafunc.config, [[step for group in pair for step in group] for pair in pairs(found)])
        metafunc.parametrize(name, every if FULL else some)
    if "role" in metafunc.fixturenames:
        roles = ["queen", "gpu1"]
        metafunc.parametrize("role", roles if FULL else sample(metafunc.config, [roles]))
    if "steps" in metafunc.fixturenames:
        some = ACTIVATOR_STEPS if FULL else sample(metafunc.config, pairs(ACTIVATOR_STEPS))
        metafunc.parametrize("steps", [some], ids=["steps"])


def test_s6_every_boundary_is_tried(trio: Trio) -> None:
    """The boundaries that are tried are those of the deployed fleet's own stages."""
    site = runpy.run_path(str(trio.fleet.inventory))["queen"][0][1]["rbee"].site
    assert [boundaries(site, name) for name in COMMANDS] == [boundaries(three_hosts(), name) for name in COMMANDS]


def test_s6_a_killed_deploy_converges(trio: Trio, boundary: str) -> None:
    """Killed where a step begins, the fleet answers, the same command converges, and one more changes nothing."""
    trio.turn()
    trio.killed_at(boundary)
    trio.answers()
    trio.converge()
    trio.answers()
    assert trio.changes() == {}


def test_s6_a_killed_rollback_ends(trio: Trio, back: str) -> None:
    """Killed where a step of it begins, the fleet answers, and the same command takes every host one release back."""
    names = ("queen", "gpu1", "gpu2")
    before = [release(trio.host(name)) for name in names]
    trio.turn()
    trio.converge()
    assert before != [release(trio.host(name)) for name in names]
    trio.killed_at(back, "rollback")
    trio.answers()
    again = trio.apply(command="rollback")
    assert again.code == 0, again.errors
    assert [release(trio.host(name)) for name in names] == before
    trio.serves()
    trio.turn()
    assert trio.changes() == {}


def test_s6_a_killed_activation_converges(trio: Trio, role: str, steps: list[str]) -> None:
    """Killed after any of its steps, an activation is finished by the same command, and one more restarts nothing."""
    there, back = generations(trio, role)
    for step in steps:
        machine = trio.host(role)
        killed = activator(machine, step, ("activate", there))
        assert killed.returncode == KILLED, (step, killed.stderr)
        trio.answers()
        again = activator(machine, "", ("activate", there))
        assert again.returncode == 0, (step, again.stderr)
        before = daemons(trio, role)
        assert activator(machine, "", ("activate", there)).returncode == 0
        assert daemons(trio, role) == before, step
        there, back = back, there
    trio.converge()
    trio.serves()
    assert trio.changes() == {}


def daemons(trio: Trio, name: str) -> dict[str, str]:
    """Return the processes of queen and hive on a host; the queen replaces workers meanwhile, as she should."""
    return {unit: pid for unit, pid in pids(trio.host(name)).items() if not unit.startswith("rbee-worker@")}


def generations(trio: Trio, name: str) -> tuple[str, str]:
    """Return a generation of another release that a host has been in, and the one that it is in."""
    trio.turn()
    trio.converge()
    (*_, other, now) = trio.host(name).run("python3 -c " + _LAST_TWO).stdout.split()
    return other, now


_LAST_TWO = (
    '\'import json; print(*[one["generation"] for one in json.load(open("/var/lib/rbee/deploy/state.json"))["good"]])\''
)
