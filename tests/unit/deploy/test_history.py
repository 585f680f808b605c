"""Which hosts a rollback concerns, and where each of them goes."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import pytest

from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.records import Good, State
from rbee_deploy.history import Past, Step, back, lacking, to

Ran = tuple[str, str, int, str]


def past(*steps: Ran) -> Past:
    """Return the past of a host out of (generation, release, since, run)."""
    fields = ("generation", "release", "since", "run")
    return Past.of({"good": [dict(zip(fields, step, strict=True)) for step in steps]})


def imaged(*steps: tuple[Ran, str]) -> Past:
    """Return the past of a host out of such steps, each with a letter for each of its images."""
    ran = zip(past(*(step for step, _ in steps)).steps, steps, strict=True)
    return Past.of({"good": [{**asdict(step), "images": list(letters)} for step, (_, letters) in ran]})


FIRST, SECOND, THIRD = ("a", "0.1.0-a", 10, "run1"), ("b", "0.2.0-b", 20, "run2"), ("c", "0.3.0-c", 30, "run3")
EDITED = ("b2", "0.2.0-b", 25, "run9")
REBUILT, REBUILT_LATER = ("b3", "0.2.0-b", 26, "run8"), ("b4", "0.2.0-b", 27, "run8again")

CASES: Mapping[str, tuple[Mapping[str, Past], Mapping[str, str]]] = {
    "everybody": ({"q": past(FIRST, SECOND), "h": past(FIRST, SECOND)}, {"q": "a", "h": "a"}),
    "those that a deploy which stopped half-way had reached": (
        {"q": past(FIRST, SECOND, THIRD), "h": past(FIRST, SECOND)},
        {"q": "b"},
    ),
    "all that a deploy reached which was run again": (
        {"q": past(FIRST, SECOND), "h": past(FIRST, ("b", "0.2.0-b", 29, "run2again"))},
        {"q": "a", "h": "a"},
    ),
    "by way of a host with the same release": (
        {
            "q": past(FIRST, SECOND),
            "h": past(FIRST, ("y", "0.2.0-y", 21, "run2")),
            "late": past(FIRST, ("y", "0.2.0-y", 29, "run2again")),
        },
        {"q": "a", "h": "a", "late": "a"},
    ),
    "not a host that was left behind by the run before": (
        {"q": past(FIRST, SECOND, THIRD), "h": past(("z", "0.0.1-z", 1, ""), SECOND)},
        {"q": "b"},
    ),
    "past a change of files alone": ({"q": past(FIRST, SECOND, EDITED)}, {"q": "a"}),
    "to the newest files of the release before": ({"q": past(FIRST, SECOND, EDITED, THIRD)}, {"q": "b2"}),
    "nobody without an earlier release": ({"q": past(FIRST), "h": past()}, {}),
    "not a host that was added since": ({"q": past(FIRST, SECOND), "new": past(SECOND)}, {"q": "a"}),
    "hosts with other builds of the same releases": (
        {"q": past(FIRST, SECOND), "h": past(("x", "0.1.0-x", 11, "run1"), ("y", "0.2.0-y", 26, "run2"))},
        {"q": "a", "h": "x"},
    ),
    "a change of images alone, and not who only runs the same release": (
        {"q": past(FIRST, SECOND), "h": imaged((FIRST, "hw"), (SECOND, "HW"), (REBUILT, "hw"))},
        {"h": "b"},
    ),
    "all that got one of the images, by a deploy that was run again": (
        {
            "q": imaged((SECOND, "qhw"), (REBUILT, "QHW")),
            "h": imaged((SECOND, "hw"), (REBUILT_LATER, "HW")),
            "other": imaged((SECOND, "hx"), (("b5", "0.2.0-b", 20, "run5"), "hX")),
        },
        {"q": "b", "h": "b"},
    ),
    "past a change of files after one of images": (
        {"h": imaged((SECOND, "hw"), (REBUILT, "HW"), (REBUILT_LATER, "HW"))},
        {"h": "b"},
    ),
    "a release before, where its images changed with it": (
        {"q": imaged((FIRST, "qhw"), (SECOND, "QHW")), "h": imaged((FIRST, ""), (SECOND, ""))},
        {"q": "a", "h": "a"},
    ),
    "to bare, where containers came last": ({"h": imaged((SECOND, ""), (REBUILT, "hw"))}, {"h": "b"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_last_change_of_release_or_images_is_taken_back(name: str) -> None:
    """Hosts that it did not reach stay where they are."""
    pasts, wanted = CASES[name]
    assert {host: step.generation for host, step in back(pasts).items()} == wanted


def test_a_rollback_that_is_run_again_reaches_the_rest_and_moves_nobody_twice() -> None:
    """A host that went back stays there when the same command is run again for those that did not."""
    second = Generation("0.2.0-b", "0.2.0")
    everywhere = tuple(Step(*step) for step in (FIRST, (second.id, *SECOND[1:]), THIRD))
    went = State(current="c", good=everywhere).reached(second, now=99.0, run="run7", goes_back=True)
    assert went.good == (everywhere[0], replace(everywhere[1], again=99))
    assert back({"a": Past(went.good), "b": Past(everywhere)}) == {"b": everywhere[1]}


def test_a_host_runs_its_release_since_it_came_to_it_last() -> None:
    """A change of files alone is not a new release, images and a rollback are; a host that ran nothing has no time."""
    returned = past(FIRST, SECOND, EDITED).steps
    again = (*returned[:-1], replace(returned[-1], again=99))
    assert [Past(steps).since for steps in ((), returned[:1], returned, again)] == [None, 10, 20, 99]
    assert Past((*again, Step(*THIRD))).since == 30
    assert imaged((SECOND, "hw"), (REBUILT, "HW"), (REBUILT_LATER, "HW")).since == REBUILT[2]


@pytest.mark.parametrize("release", ["0.1.0-a", "0.1.0"])
def test_a_release_is_named_by_id_or_version(release: str) -> None:
    """Hosts that run it stay, those that ran it go there, those that have it no more are named."""
    pasts = {"q": past(FIRST, SECOND), "h": past(FIRST), "n": past(SECOND)}
    assert {host: step.generation for host, step in to(release, pasts).items()} == {"q": "a"}
    assert lacking(release, pasts) == ["n"]


def test_only_what_a_run_brought_is_taken_back() -> None:
    """A host goes to what it ran before the run; one that the run only repaired, or first installed, stays."""
    ran = [Good(*step) for step in (FIRST, SECOND)]
    edited = Generation("0.2.0-b", "0.2.0")
    brought = State(current="b", good=tuple(ran)).reached(edited, now=40.0, run="run4")
    repaired = brought.reached(edited, now=50.0, run="run5")
    assert repaired == brought
    found = {run: Past(repaired.good).before_run(run) for run in ("run4", "run5")}
    assert found == {"run4": ran[1], "run5": None}
    assert Past(tuple(ran[:1])).before_run("run1") is None
