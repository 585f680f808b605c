"""Which hosts a rollback concerns, and where each of them goes."""

import json
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
    """Return the past of a host out of such steps, each with its way of running: see `ran`."""
    pairs = zip(past(*(step for step, _ in steps)).steps, (way for _, way in steps), strict=True)
    ways = ((step, ran(step.release, way)) for step, way in pairs)
    return Past(tuple(replace(step, images=it.images, engine=it.engine, kinds=it.kinds) for step, it in ways))


def ran(release: str, way: str, *, noted: bool = True) -> Step:
    """Return a step that runs a release in a way: "" is bare, "hw" in containers of two kinds, "Hw" another image of h.

    "docker hw" is another engine than the usual one; without `noted` it is as releases of before noted it.
    """
    engine, _, letters = way.rpartition(" ")
    kinds = tuple(letters.lower()) if noted else ()
    return Step("g", release, 1, images=tuple(letters), engine=engine or ("podman" if letters else ""), kinds=kinds)


FIRST, SECOND, THIRD = ("a", "0.1.0-a", 10, "run1"), ("b", "0.2.0-b", 20, "run2"), ("c", "0.3.0-c", 30, "run3")
EDITED = ("b2", "0.2.0-b", 25, "run9")
EARLY = ("a2", "0.1.0-a", 15, "run6")
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
    "past a switch to containers": (
        {"h": imaged((FIRST, ""), (SECOND, ""), (REBUILT, "hw")), "q": past(FIRST, SECOND)},
        {"h": "a", "q": "a"},
    ),
    "images that came once a host ran in containers again": (
        {
            "h": imaged((FIRST, "hw"), (SECOND, "hw"), (REBUILT_LATER, "HW")),
            "fell back": imaged(
                (FIRST, "hw"), (SECOND, "hw"), (REBUILT, ""), (("x", "0.2.0-b", 27, "run8again"), "HW")
            ),
        },
        {"h": "b", "fell back": "b3"},
    ),
    "images that one host alone got so": (
        {"h": imaged((FIRST, "w"), (SECOND, "w"), (REBUILT, ""), (REBUILT_LATER, "W"))},
        {"h": "b3"},
    ),
    "not the same images once a host ran in containers again": (
        {"h": imaged((FIRST, "w"), (SECOND, "w"), (REBUILT, ""), (REBUILT_LATER, "w"))},
        {"h": "a"},
    ),
    "nobody whose way alone has changed": ({"h": imaged((SECOND, ""), (REBUILT, "hw"))}, {}),
    "past a switch of one host to bare, to the newest way of before": (
        {"h": imaged((FIRST, "hw"), (EARLY, ""), (SECOND, ""), (REBUILT, "hw"), (REBUILT_LATER, ""))},
        {"h": "a2"},
    ),
    "past an image more on one host, with all that got the release": (
        {"h": imaged((FIRST, "hw"), (SECOND, "HW"), (REBUILT, "HVW")), "q": imaged((FIRST, "q"), (SECOND, "Q"))},
        {"h": "a", "q": "a"},
    ),
    "images, and not who was switched to them by the same run": (
        {
            "h": imaged((FIRST, "hw"), (SECOND, "hw"), (REBUILT, "HW")),
            "bare": imaged((FIRST, ""), (SECOND, ""), (("x", "0.2.0-b", 26, "run8"), "HW")),
        },
        {"h": "b"},
    ),
    "images that were changed before a switch": (
        {"h": imaged((SECOND, "hw"), (REBUILT, "HW"), (REBUILT_LATER, "")), "q": past(FIRST, SECOND)},
        {"h": "b"},
    ),
    "release and way at once, to both of before": (
        {"h": imaged((FIRST, ""), (SECOND, "hw")), "q": past(FIRST, SECOND)},
        {"h": "a", "q": "a"},
    ),
    "a host that a deploy in between left out, to what it ran": (
        {"q": past(FIRST, SECOND, THIRD), "h": past(FIRST, THIRD)},
        {"q": "b", "h": "a"},
    ),
}


WAYS = [
    # before, after, what other hosts have of the same change
    (("r1", ""), ("r2", ""), {"r2"}),
    (("r1", "hw"), ("r2", "hw"), {"r2"}),
    (("r1", ""), ("r2", "hw"), {"r2"}),
    (("r1", "docker hw"), ("r2", "HW"), {"r2"}),
    (("r1", ""), ("r1", ""), set()),
    (("r1", "hw"), ("r1", "hw"), set()),
    (("r1", "hw"), ("r1", "Hw"), {"H"}),
    (("r1", "hw"), ("r1", "HW"), {"H", "W"}),
    (("r1", ""), ("r1", "hw"), set()),
    (("r1", "hw"), ("r1", ""), set()),
    (("r1", "hw"), ("r1", "docker hw"), set()),
    (("r1", "hw"), ("r1", "docker HW"), set()),
    (("r1", "hw"), ("r1", "hvw"), set()),
    (("r1", "hvw"), ("r1", "hw"), set()),
    (("r1", "w"), ("r1", "v"), set()),
    (("r1", "hw"), ("r1", "Hvw"), {"H"}),
    (("r1", "hvw"), ("r1", "Hv"), {"H"}),
]


@pytest.mark.parametrize(("before", "after", "brought"), WAYS)
def test_a_release_or_other_images_of_the_same_kinds_are_a_change(
    before: tuple[str, str], after: tuple[str, str], brought: set[str]
) -> None:
    """A switch between bare and containers or engines, or an image more or less, is nothing to go back over."""
    assert set(ran(*after).brings(ran(*before))) == brought


@pytest.mark.parametrize(
    ("before", "after", "brought"),
    [("hw", "HW", {"H", "W"}), ("hw", "hW", {"W"}), ("", "hw", set()), ("hw", "docker HW", set()), ("w", "WV", set())],
)
@pytest.mark.parametrize("noted", [(False, False), (False, True), (True, False)])
def test_as_many_images_are_of_the_same_kinds_where_nobody_noted_them(
    before: str, after: str, brought: set[str], noted: tuple[bool, bool]
) -> None:
    """Hosts that were deployed by a release that noted no kinds can still go back behind new images."""
    earlier, later = ran("r1", before, noted=noted[0]), ran("r1", after, noted=noted[1])
    assert set(later.brings(earlier)) == brought


def test_a_step_keeps_how_the_host_came_to_its_release() -> None:
    """Edits, switches and what was taken out of the history since move neither the time nor the run of a release."""
    state = State()
    for at, (release, way) in enumerate([("r1", ""), ("r2", ""), ("r2", "hw"), ("r2", "hwv"), ("r2", "")], start=1):
        step = ran(release, way)
        wanted = Generation(step.release, "1", engine=step.engine, images=step.images, kinds=step.kinds)
        state = state.reached(wanted, now=at, run=f"run{at}")
    # The last is the generation of the second once more, which leaves its place.
    assert [(step.since, step.images) for step in state.good] == [(1, ()), (3, ("h", "w")), (4, tuple("hwv")), (5, ())]
    stored = Past.of(json.loads(json.dumps(asdict(state))))
    assert stored.steps == state.good
    for steps in (stored.steps, stored.steps[::3]):
        found = Past(steps)
        assert found.switch is not None
        assert (found.since, found.switch.run, found.before) == (2, "run2", steps[0])


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
    edited = State("b2", again).reached(Generation("0.2.0-b", "0.2.0"), now=120, run="run10")
    assert (Past(edited.good).since, Past(edited.good[-1:]).since) == (99, 99)
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
