"""What a rollback knows of a host on which, as on every one, each deploy was followed by its pruning."""

from collections.abc import Mapping
from pathlib import Path

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
