"""What a rollback knows of a host on which, as on every one, each deploy was followed by its pruning."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.activator import places, pruning
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.records import State
from rbee_deploy.history import Past, Step, back
from tests.unit.deploy.test_history import ran


def brings(brought: str) -> Step:
    """Return the step that a release and a way of running it, such as "r2 docker hw", make: see `ran`."""
    release, _, way = brought.partition(" ")
    return ran(release, way)


def deploy(run: int, brought: str, *, pruned: bool = True, goes_back: bool = False) -> None:
    """Have the host become ready with what a run brought, which may prune afterwards."""
    step = brings(brought)
    wanted = Generation(step.release, "1", engine=step.engine, images=step.images, kinds=step.kinds)
    State.load().reached(wanted, now=run, run=f"run{run}", goes_back=goes_back).save()
    if pruned:
        pruning.prune(keep=pruning.KEPT, wanted=set())


def host(runs: str, *, pruned: bool = True) -> Past:
    """Return the past of a host out of what one run after another brought, "-" where it did not reach the host."""
    places.STATE.unlink(missing_ok=True)
    for run, brought in enumerate(map(str.strip, runs.split("|")), start=1):
        if brought != "-":
            deploy(run, brought, pruned=pruned)
    return Past(State.load().good)


CASES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    # hosts with what runs brought, where a rollback takes them
    "new images after a while in bare, with all that got them": (
        {"b1": "r1 | r2 | r2 hw | r2 | r2 hW", "b2": "r1 hw | r2 hw | - | - | r2 hW"},
        {"b1": "r2", "b2": "r2 hw"},
    ),
    "new images of one host alone": ({"b1": "r1 | r2 | r2 hw | r2 | r2 hW"}, {"b1": "r2"}),
    "a new image of a kind that came without a change": ({"b1": "r1 h | r2 h | r2 hv | r2 | r2 hV"}, {"b1": "r2"}),
    "a new image of a kind that came and went": ({"b1": "r1 h | r2 h | r2 hv | r2 h | r2 hV"}, {"b1": "r2 h"}),
    "new images after a while at another engine": (
        {"b1": "r1 | r2 | r2 hw | r2 docker hw | r2 hW"},
        {"b1": "r2 docker hw"},
    ),
    "not who got before what stayed over a while in bare": (
        {"b1": "r1 | r2 hw | r2 Hw | r2 | r2 HW", "b2": "r1 | r2 hv | r2 Hv | - | -"},
        {"b1": "r2"},
    ),
    "nor after an image more since then": (
        {"b1": "r1 | r2 hw | r2 Hw | r2 | r2 HW | r2 HWx", "b2": "r1 | r2 hv | r2 Hv | - | - | -"},
        {"b1": "r2"},
    ),
    "not who got before what stayed while another image was away": (
        {"b1": "r1 | r2 hv | r2 Hv | r2 H | r2 HV", "b2": "r1 | r2 hw | r2 Hw | - | -"},
        {"b1": "r2 H"},
    ),
    "new images from which one host went away again by another way": (
        {"b1": "r1 | r2 | r2 hw | r2 | r2 hW | r2", "b2": "r1 hw | r2 hw | - | - | r2 hW | -"},
        {"b1": "r2", "b2": "r2 hw"},
    ),
    "with all that got an image while one host ran bare": (
        {"b1": "r1 | r2 hw | r2 | r2 Hw", "b2": "r1 | r2 hv | r2 Hv | -"},
        {"b1": "r2", "b2": "r2 hv"},
    ),
    "past the same images after a while in bare": ({"b1": "r1 | r2 | r2 hw | r2 | r2 hw"}, {"b1": "r1"}),
    "past another engine, in whatever images": ({"b1": "r1 | r2 | r2 hw | r2 | r2 docker hW"}, {"b1": "r1"}),
    "past the images of the release before": ({"b1": "r1 | r1 hw | r2 | r2 hW"}, {"b1": "r1 hw"}),
    "past an image more after new ones": ({"b1": "r1 | r2 | r2 hw | r2 | r2 hW | r2 hWv | r2 hW"}, {"b1": "r2"}),
}


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_rollback_goes_where_it_would_if_nothing_were_pruned(root: Path, name: str, *, pruned: bool) -> None:
    """An image is new or not by what the host had last for the same, although that step is known no more."""
    hosts, wanted = CASES[name]
    found = back({name: host(runs, pruned=pruned) for name, runs in hosts.items()})
    assert {name: (step.engine, step.programs) for name, step in found.items()} == {
        name: (brings(way).engine, brings(way).programs) for name, way in wanted.items()
    }


def test_what_was_taken_back_is_a_change_when_it_comes_again(root: Path) -> None:
    """A host that went back to bare from new images still knows those that it had before them."""
    host("r1 | r2 | r2 hw | r2")
    for run in (5, 6):
        deploy(run, "r2 hW")
        past = Past(State.load().good)
        assert (past.since, past.before) == (run, past.steps[-2])
        assert past.steps[-2].programs == ("r2", ())
        deploy(run, "r2", goes_back=True)


def test_a_change_stays_one_when_what_was_before_it_leaves_its_place(root: Path) -> None:
    """A host that comes to what it ran before the last change once more can still go back twice."""
    past = host("r2 hw | r2 Hw | r2 h | r2 Hw")
    for run, before in ((5, "r2 h"), (6, "r2 hw")):
        assert past.before is not None
        assert past.before.programs == brings(before).programs
        deploy(run, before, goes_back=True)
        past = Past(State.load().good)


def without(noted: Any, *names: str) -> Any:
    """Return records as they are without these fields."""
    if isinstance(noted, dict):
        return {name: without(value, *names) for name, value in noted.items() if name not in names}
    return [without(item, *names) for item in noted] if isinstance(noted, list | tuple) else noted


def test_images_that_came_with_the_release_are_known_from_older_records(root: Path) -> None:
    """Where nobody noted what a host had last, new images are held to those of its last change."""
    past = host("r1 | r2 hw | r2")
    known = without(asdict(State("r2", past.steps)), "had", "brought")
    places.STATE.write_text(json.dumps(known))
    deploy(4, "r2 hW")
    found = Past(State.load().good)
    assert (found.since, found.before) == (4, past.steps[-1])


AS_OF_OLD = {
    "b1": "r2 hw | r2 | r2 HW | r2 HWx",
    "b2": "r2 hw | r2 hW | r2 hWx",
    "b3": "r2 hv | - | - | - | r2 Hv",
    "not who got what b2 had before": "r2 Hy | r2 hy",
}


def test_all_images_count_where_nobody_noted_which_came(root: Path) -> None:
    """Hosts that an older release deployed are still one with those that got the same images."""
    pasts = {}
    for name, text in AS_OF_OLD.items():
        steps = [asdict(step) for step in host(text).steps]
        pasts[name] = Past.of(json.loads(json.dumps({"good": without(steps, "had", "brought", "run")})))
    assert {name: step.programs for name, step in back(pasts).items()} == {
        name: brings(way).programs for name, way in {"b1": "r2", "b2": "r2 hw", "b3": "r2 hv"}.items()
    }


def test_going_back_over_images_that_are_away_leaves_the_host_as_it_is(root: Path) -> None:
    """A host that ran bare before new images and does so again has them taken back by a rollback, and no release."""
    past = host("r1 | r2 | r2 hw | r2 | r2 hW | r2")
    assert past.before is not None
    assert (past.before.generation, past.before.run) == (past.steps[-1].generation, "run4")
    deploy(7, "r2", goes_back=True)
    found = Past(State.load().good)
    assert (found.since, found.before, found.steps[-1].run) == (7, past.steps[0], "run4")
