"""Which place a worker gets, and what hives say that have none, as pure cases."""

import random
from dataclasses import replace
from typing import Any

import pytest

from rbee_runtime.config import Preference
from rbee_runtime.models.facts import Format, ModelFacts
from rbee_runtime.protocol import DeviceReport, ModelFile
from rbee_runtime.queen.fleet import content
from rbee_runtime.queen.needs import key
from rbee_runtime.queen.placement import Plan, drafted, plan
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.renewal import spec_of
from rbee_runtime.queen.situation import HiveView, Situation, Use
from rbee_runtime.queen.survey import ENOUGH, Evict, survey
from rbee_runtime.states import Observed
from tests.unit.queen.states import GIB, cpu, fleet, gpu, model, numbered, view

BIG = (ModelFile(name="f", sha256="0" * 64, size=10 * GIB),)
"""Needs 12.25 GiB."""

OLD_USE = Use(resident=900.0, idle=60.0, reload=10.0)


def situation(*models: Any, hives: list[HiveView], existing: tuple[Assignment, ...] = (), **more: Any) -> Situation:
    declared = fleet(*models, hives=tuple(each.name for each in hives))
    return Situation(declared, {each.name: each for each in hives}, existing, **more)


def devices(outcome: Plan) -> list[tuple[str, tuple[str, ...]]]:
    return [(entry.hive, entry.spec.devices) for entry in outcome.assignments]


def serving(now: Situation) -> Situation:
    """Return the situation once what it plans serves and has for long."""
    entries = tuple(replace(e, observed=Observed.READY, port=9000) for e in plan(now, numbered()).assignments)
    return replace(now, existing=entries, uses={entry.id: OLD_USE for entry in entries})


def card(name: str, total: int = 24 * GIB, **fields: Any) -> DeviceReport:
    return DeviceReport(id=name, kind="cuda", name="card", total=total, used=0, **fields)


@pytest.mark.parametrize(
    ("fields", "hives", "where"),
    [
        ({}, [view("a", devices=(gpu("g"), cpu()))], ("a", ("g",))),
        ({}, [view("a", devices=(gpu("g", 8 * GIB), cpu(64 * GIB)))], None),
        ({"cpu": True}, [view("a", devices=(gpu("g", 8 * GIB), cpu(64 * GIB)))], ("a", ("cpu",))),
        ({"cpu": True}, [view("a", devices=(gpu("g"), cpu(64 * GIB)))], ("a", ("g",))),
        ({}, [view("a", devices=(cpu(64 * GIB),))], ("a", ("cpu",))),
        ({"gpus": 1}, [view("a", devices=(cpu(64 * GIB),))], None),
        ({"gpus": 2}, [view("a", devices=(gpu("g"), gpu("h")))], ("a", ("g", "h"))),
        ({"gpus": 2}, [view("a", devices=(gpu("g"),)), view("b", devices=(gpu("g"), gpu("h")))], ("b", ("g", "h"))),
        ({}, [view("a", devices=(gpu("g", 8 * GIB), gpu("h", 8 * GIB)))], ("a", ("g", "h"))),
        ({}, [view("a", devices=(gpu("g", 4 * GIB), gpu("h", 4 * GIB)))], None),
        ({"labels": {"room": "2"}}, [view("a"), view("b", labels={"room": "2"}, devices=(gpu("g"),))], ("b", ("g",))),
        (
            {"source": "hf:o/m"},
            [view("a", devices=(gpu("g", 80 * GIB),)), view("b", devices=(gpu("g"),))],
            ("a", ("g",)),
        ),
        (
            {"source": "hf:o/m"},
            [view("a", devices=(gpu("g", 80 * GIB),)), view("b", devices=(gpu("g"),), sizes={"m": 10 * GIB})],
            ("b", ("g",)),
        ),
        (
            {"placement": "pack"},
            [view("a", devices=(gpu("g", 80 * GIB),)), view("b", devices=(gpu("g"),))],
            ("b", ("g",)),
        ),
    ],
    ids=[
        *("cards before the processor", "no processor unasked", "the processor if allowed", "only where no card fits"),
        *("a host without cards", "a card was asked for", "as many cards as asked", "a host with so many"),
        *(
            "as few as have room",
            "too few have room",
            "by labels",
            "the emptiest",
            "where its files are",
            "the fullest",
        ),
    ],
)
def test_the_best_place_wins(fields: dict[str, Any], hives: list[HiveView], where: Any) -> None:
    """Of all places that fit the one with the least rank, and none where nothing fits."""
    wanted = {"source": "fake:", "engine": "llama-cpp" if "source" in fields else "fake", "files": BIG, **fields}
    assert devices(plan(situation(model(**wanted), hives=hives), numbered())) == ([where] if where else [])


@pytest.mark.parametrize(
    ("apart", "hives", "where"),
    [((), 1, ["a", "a"]), (("m",), 1, ["a"]), (("m",), 2, ["a", "b"])],
    ids=["together", "apart and nowhere else", "apart"],
)
def test_replicas_stay_apart_where_the_model_says_so(apart: tuple[str, ...], hives: int, where: list[str]) -> None:
    """Its own name keeps a model's workers on different hosts; what is missing says why."""
    places = [view(name, devices=(gpu("g"),)) for name in "ab"[:hives]]
    outcome = plan(situation(model(replicas_min=2, apart_from=apart), hives=places), numbered())
    assert sorted(entry.hive for entry in outcome.assignments) == where
    said = {"m": ("a: has a model that it is to stay apart from",)} if len(where) == 1 else {}
    assert dict(outcome.reasons) == said


@pytest.mark.parametrize("shy", ["m", "n"])
def test_models_stay_apart_whichever_says_so(shy: str) -> None:
    """The one that comes second goes elsewhere."""
    two = [model(name, apart_from=("n" if shy == "m" else "m",) if name == shy else ()) for name in ("m", "n")]
    places = [view("a", devices=(gpu("g"),)), view("b", devices=(gpu("g", 8 * GIB),))]
    assert devices(plan(situation(*two, hives=places), numbered())) == [("a", ("g",)), ("b", ("g",))]


FACTS = ModelFacts(
    format=Format.SAFETENSORS, main="", architecture="", parameters=0, quantisation="", weights_bytes=GIB, heads=12
)


@pytest.mark.parametrize(
    ("cards", "gpus", "said"),
    [
        ([card("g"), card("h")], 2, ""),
        (
            [card("g"), card("h"), card("i"), card("j"), card("k")],
            5,
            "its 12 attention heads cannot be shared out among 5 cards",
        ),
        ([card("g"), card("h", 16 * GIB)], 2, "needs 2 cards that are alike, and there are 1"),
        ([card("g"), card("h", healthy=False)], 2, "needs 2 cards that are alike, and there are 1"),
    ],
    ids=["equal cards", "heads", "unequal cards", "an unhealthy one"],
)
def test_tensor_parallel_takes_equal_cards_that_divide_the_heads(
    cards: list[DeviceReport], gpus: int, said: str
) -> None:
    """The reason names heads or cards."""
    hive = view("a", devices=tuple(cards), engines=frozenset({"vllm"}))
    wanted = model(source="hf:o/m", engine="vllm", gpus=gpus)
    outcome = plan(situation(wanted, hives=[hive], facts={"m": FACTS}), numbered())
    assert len(outcome.assignments) == (0 if said else 1)
    assert said in "".join(outcome.reasons.get("m", ()))


def rivals(**fields: Any) -> Situation:
    """Return a host whose only card is taken by model `old`, and model `new` that somebody asks for."""
    old = model("old", files=BIG, **{"replicas_min": 0, **fields})
    hive = view("a", devices=(gpu("g", 16 * GIB),))
    now = serving(situation(old, hives=[hive], wanted={"old": 1}))
    both = fleet(old, model("new", files=BIG, replicas_min=0), hives=("a",))
    return replace(now, fleet=both, wanted={"old": 1, "new": 1}, queue=("new",))


def test_an_idle_model_makes_room() -> None:
    """In one plan it goes and the other comes, and it is not wanted back by the same plan."""
    outcome = plan(rivals(), numbered())
    assert [entry.spec.model for entry in outcome.assignments] == ["new"]
    assert set(outcome.evicted.values()) == {"new"}


@pytest.mark.parametrize(
    ("change", "said", "passes"),
    [
        ({"busy": True}, "1 with requests", True),
        ({"uses": Use(resident=29.0, idle=29.0)}, "1 ready for less than 30 s", True),
        ({"observed": Observed.STARTING}, "1 not ready yet", True),
        ({"keep_loaded": True}, "1 to stay loaded", False),
        ({"replicas_min": 1}, "1 kept by its model's minimum", False),
        ({"waiting": frozenset({"old"})}, "1 with requests", True),
    ],
)
def test_what_shields_a_worker_is_told_with_the_numbers(change: dict[str, Any], said: str, passes: bool) -> None:
    """A model that finds no room says what it lacks, who holds it, and whether waiting helps."""
    now = rivals(**{name: change[name] for name in ("keep_loaded", "replicas_min") if name in change})
    (entry,) = now.existing
    entry = replace(entry, observed=change.get("observed", entry.observed))
    busy = frozenset({entry.id} if "busy" in change else ())
    uses = {entry.id: change.get("uses", OLD_USE)}
    now = replace(now, existing=(entry,), busy=busy, uses=uses, waiting=change.get("waiting", frozenset()))
    outcome = plan(now, numbered())
    numbers = "12.2 GiB for other workers, 0 MiB used by others, 512 MiB kept free"
    told = f"a: needs 12.2 GiB, 3.2 GiB free on g (of 16.0 GiB: {numbers}); workers there: {said}"
    assert outcome.reasons["new"] == (told,)
    assert ("new" in outcome.hopeful, outcome.assignments) == (passes, (entry,))


def test_a_load_that_starves_has_the_busy_emptied() -> None:
    """The busy worker takes no new requests, its room is promised, and it goes when its requests have ended."""
    now = rivals()
    (entry,) = now.existing
    starved = replace(now, busy=frozenset({entry.id}), starved=frozenset({"new"}))
    waits = plan(starved, numbered())
    assert (waits.assignments, waits.retiring, dict(waits.evicted)) == ((entry,), frozenset({entry.id}), {})
    goes = plan(replace(starved, busy=frozenset(), retiring=waits.retiring), numbered())
    assert [each.spec.model for each in goes.assignments] == ["new"]


def test_more_workers_of_a_busy_model_take_free_room_only() -> None:
    """Its second worker evicts nobody."""
    now = rivals()
    wide = replace(
        now, fleet=fleet(*now.fleet.models, model("third", files=BIG, replicas_min=0, replicas_max=2), hives=("a",))
    )
    first = plan(replace(wide, wanted={"third": 1}, existing=()), numbered()).assignments[0]
    there = replace(first, observed=Observed.READY, hive="a")
    outcome = plan(replace(wide, existing=(there,), wanted={"third": 2}, queue=()), numbered())
    assert (outcome.assignments, dict(outcome.evicted)) == ((there,), {})


def test_the_one_that_waited_longest_is_first() -> None:
    """Two loads and one place: the older load has it."""
    hive = view("a", devices=(gpu("g", 16 * GIB),))
    two = [model(name, files=BIG, replicas_min=0) for name in ("m", "n")]
    now = situation(*two, hives=[hive], wanted={"m": 1, "n": 1}, queue=("n", "m"))
    assert [entry.spec.model for entry in plan(now, numbered()).assignments] == ["n"]


def test_a_worker_that_its_device_has_no_memory_for_goes_elsewhere() -> None:
    """Its hive said that it needs more than was thought; what serves stays."""
    hives = [view("a", devices=(gpu("g", 16 * GIB),)), view("b", devices=(gpu("g", 40 * GIB),))]
    now = situation(model(files=BIG, placement="pack"), hives=hives)
    (entry,) = plan(now, numbered()).assignments
    assert entry.hive == "a"
    learnt = {key(entry.spec, entry.content): 20 * GIB}
    waits = replace(now, existing=(replace(entry, observed=Observed.BACKOFF),), learnt=learnt)
    assert [each.hive for each in plan(waits, lambda _: "m-new").assignments] == ["b"]
    serves = replace(now, existing=(replace(entry, observed=Observed.READY),), learnt=learnt)
    assert [each.hive for each in plan(serves, lambda _: "m-new").assignments] == ["a"]


def beside_one_that_measures() -> tuple[Situation, Assignment]:
    """Return a card with an idle model and one whose engine measures memory while it loads, and the idle worker."""
    vllm = model("v", source="hf:o/v", engine="vllm")
    old = model("old", files=BIG, replicas_min=0)
    hive = view("a", devices=(gpu("g", 40 * GIB),), engines=frozenset({"fake", "vllm"}))
    now = serving(situation(vllm, old, hives=[hive], wanted={"v": 1, "old": 1}))
    entries = tuple(
        replace(entry, observed=Observed.STARTING) if entry.spec.model == "v" else entry for entry in now.existing
    )
    return replace(now, existing=entries), next(entry for entry in entries if entry.spec.model == "old")


def test_nothing_comes_free_beside_an_engine_that_measures() -> None:
    """An idle worker that would go stays until its neighbour has loaded, and takes no new requests meanwhile."""
    now, old = beside_one_that_measures()
    idle = replace(now, wanted={"v": 1, "old": 0})
    waits = plan(idle, numbered())
    assert (waits.assignments, waits.retiring) == (now.existing, frozenset({old.id}))
    loaded = tuple(replace(entry, observed=Observed.READY) for entry in now.existing)
    assert old not in plan(replace(idle, existing=loaded), numbered()).assignments


def test_nobody_is_evicted_beside_an_engine_that_measures() -> None:
    """The model that needs the room waits, and is told why."""
    now, _ = beside_one_that_measures()
    wide = (ModelFile(name="f", sha256="1" * 64, size=24 * GIB),)
    asked = fleet(*now.fleet.models, model("new", files=wide, replicas_min=0), hives=("a",))
    outcome = plan(replace(now, fleet=asked, wanted={"v": 1, "old": 1, "new": 1}, queue=("new",)), numbered())
    assert "1 beside one that measures memory" in outcome.reasons["new"][0]
    assert "new" in outcome.hopeful


def large(**fields: Any) -> Situation:
    """Return 200 hosts of which the last one has the model's files."""
    hives = [view(f"h{number:03}", devices=(gpu("g"),)) for number in range(199)]
    last = view("h199", devices=(gpu("g"),), sizes={"m": 10 * GIB})
    return situation(model(source="hf:o/m", engine="llama-cpp", files=BIG, **fields), hives=[*hives, last])


def test_in_a_large_fleet_the_likely_hosts_are_asked_first() -> None:
    """The one with the files wins, and most of the others are never looked at."""
    now = large()
    assert [entry.hive for entry in plan(now, numbered()).assignments] == ["h199"]
    assert len(survey(now.fleet.models[0], drafted(now), Evict.IDLE)) == ENOUGH


def test_in_a_large_fleet_replicas_spread_and_the_last_room_is_found() -> None:
    """One on each host before any second one; a host is found that alone has room."""
    assert len({entry.hive for entry in plan(large(replicas_min=200), numbered()).assignments}) == 200
    now = large()
    small = {name: replace(hive, devices=(gpu("g", GIB),)) for name, hive in now.hives.items()}
    found = plan(replace(now, hives={**small, "h077": now.hives["h077"]}), numbered()).assignments
    assert [entry.hive for entry in found] == ["h077"]


@pytest.mark.parametrize("source", ["hf:o/m", "fake:"])
@pytest.mark.parametrize("placement", list(Preference))
@pytest.mark.parametrize("seed", range(5))
def test_in_a_large_fleet_all_are_asked_in_the_order_of_their_chances(
    source: str, placement: Preference, seed: int
) -> None:
    """Its own workers, its files, all workers, unused memory: nobody is left out and nobody is asked twice."""
    chance = random.Random(seed)
    names = [f"h{number:03}" for number in range(120)]
    there = {name: [chance.choice(["m", "n", "n"]) for _ in range(chance.randrange(4))] for name in names}
    files = {name: {"m": 10 * GIB} for name in chance.sample(names, 30)}
    unused = {name: chance.randrange(3) * 100 for name in names}
    hives = [view(name, devices=(gpu("g", unused[name]),), sizes=files.get(name, {})) for name in names]
    declared = [model(source=source, files=BIG, placement=placement), model("n", source="fake:")]
    placed = [(name, next(each for each in declared if each.name == which)) for name in names for which in there[name]]
    entries = tuple(
        Assignment(spec_of(of, f"{of.name}-{number}", ("g",)), name, content(of))
        for number, (name, of) in enumerate(placed)
    )
    now = situation(*declared, hives=hives, existing=entries)
    sign = 1 if placement is Preference.SPREAD else -1

    def chances(name: str) -> tuple[int, bool, int]:
        lacks = source != "fake:" and name not in files
        return sign * there[name].count("m"), lacks, sign * len(there[name])

    # Of equals the one with most unused comes first, the fullest where workers are packed.
    by_room = sorted(names, key=lambda name: (-unused[name], name), reverse=sign < 0)
    asked = [verdict.hive for verdict in survey(now.fleet.models[0], drafted(now), Evict.NOBODY)]
    assert asked == sorted(by_room, key=chances)


def test_a_move_in_a_large_fleet_goes_where_it_is_to_go() -> None:
    """However unlikely that host is by itself."""
    now = serving(large())
    moving = replace(now, moving={now.existing[0].id: "h123"})
    assert [entry.hive for entry in plan(moving, lambda _: "m-new").assignments] == ["h199", "h123"]
