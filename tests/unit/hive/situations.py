"""Situations that a hive finds a worker in, and what it has to decide in each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from rbee_runtime.hive.decisions import Act, Decision, ModelState, Scene, decide
from rbee_runtime.hive.health import Health
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.ledger import Account, Ledger
from rbee_runtime.hive.loading import Load
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.protocol import Desired, ModelSpec, WorkerSpec
from rbee_runtime.states import ExitReason, Observed

SPEC = WorkerSpec(id="w", model="m", engine="fake")
OTHER = msgspec.structs.replace(SPEC, context=1)
WANTED = Desired(fleet="f", epoch=1, revision=1, workers=(SPEC,), models=(ModelSpec(name="m", source="fake:"),))
NOTHING = Desired(fleet="f", epoch=1, revision=2)
RECORD = WorkerRecord(id="w", boot="b", spec=SPEC.digest(), basis="c0/k", port=9000, launched=50.0)
RUNS = UnitStatus("w", Phase.RUNNING, pid=7)
STOPS = UnitStatus("w", Phase.STOPPING, pid=7)
CRASHED = UnitStatus("w", Phase.ENDED, exit_status=70)
HUNG = Health(since=60.0, silent_since=880.0, silent=120.0)
GOOD = Health(since=60.0, ready=True, spec=SPEC.digest())
BUILT = msgspec.structs.replace(SPEC, build="b1")
OF_BUILD = msgspec.structs.replace(WANTED, workers=(BUILT,))
SAYS_BUILD = replace(GOOD, spec=BUILT.digest())
SCENE = Scene(
    now=100.0,
    boot="b",
    desired=WANTED,
    models={"m": ModelState(ready=True, basis="c0")},
    engines=frozenset({"fake"}),
    credentials="k",
)


def record(**changes: Any) -> Mapping[str, WorkerRecord]:
    return {"w": msgspec.structs.replace(RECORD, **changes)}


def one(**changes: Any) -> Decision:
    (decision,) = decide(replace(SCENE, **changes))
    return decision


def one_device(*, free: int) -> Ledger:
    return Ledger({"cpu": Account("cpu", total=5000, used=5000 - free, foreign=5000 - free)})


GPU_SPEC = msgspec.structs.replace(SPEC, devices=("GPU-1",))
ON_GPU = msgspec.structs.replace(WANTED, workers=(GPU_SPEC,))
STARVED = {"launched": None, "last_exit": ExitReason.OUT_OF_MEMORY, "had": {"cpu": 1000}}
ENDED = record(launched=None)
ABSENT = ModelState(ready=False, said="being copied")
BLOCKED = record(launched=None, blocked=RECORD.attempt, last_exit=ExitReason.BAD_MODEL)
FAILED = {"launched": None, "last_exit": ExitReason.CRASHED}

TABLE: dict[str, tuple[dict[str, Any], Observed, Act]] = {
    "new worker": ({}, Observed.STARTING, Act.START),
    "model not here": ({"models": {"m": ABSENT}}, Observed.FETCHING, Act.NONE),
    "model not described": ({"models": {}}, Observed.EXITED, Act.NONE),
    "engine not here": ({"engines": frozenset()}, Observed.EXITED, Act.NONE),
    "runs, silent so far": ({"records": record(), "statuses": {"w": RUNS}}, Observed.STARTING, Act.NONE),
    "runs and ready": ({"records": record(), "statuses": {"w": RUNS}, "health": {"w": GOOD}}, Observed.READY, Act.NONE),
    "ready but unit still activating": (
        {"records": record(), "statuses": {"w": replace(RUNS, phase=Phase.STARTING)}, "health": {"w": GOOD}},
        Observed.STARTING,
        Act.NONE,
    ),
    "just crashed": ({"records": record(), "statuses": {"w": CRASHED}}, Observed.BACKOFF, Act.NONE),
    "backoff over": ({"records": record(**FAILED, next_try=99.0)}, Observed.STARTING, Act.START),
    "crash loop waits": (
        {"records": record(**FAILED, next_try=101.0, crash_loop=True)},
        Observed.CRASH_LOOP,
        Act.NONE,
    ),
    "crash loop tries": ({"records": record(**FAILED, next_try=99.0, crash_loop=True)}, Observed.STARTING, Act.START),
    "bad model": ({"records": BLOCKED}, Observed.EXITED, Act.NONE),
    "bad model replaced": (
        {"records": BLOCKED, "models": {"m": ModelState(ready=True, basis="c1")}},
        Observed.STARTING,
        Act.START,
    ),
    "bad model repaired in place": (
        {"records": BLOCKED, "models": {"m": ModelState(ready=True, basis="c0", stamp="new")}},
        Observed.STARTING,
        Act.START,
    ),
    "was ready, hive just started": (
        {"records": record(ready_since=60.0), "statuses": {"w": RUNS}},
        Observed.READY,
        Act.NONE,
    ),
    "not wanted, runs": (
        {"desired": NOTHING, "records": record(), "statuses": {"w": RUNS}},
        Observed.ORPHAN,
        Act.STOP,
    ),
    "no document, runs": ({"desired": None, "records": record(), "statuses": {"w": RUNS}}, Observed.ORPHAN, Act.NONE),
    "unknown, runs": ({"desired": NOTHING, "statuses": {"w": RUNS}}, Observed.ORPHAN, Act.NONE),
    "unknown, seen for a while": (
        {"now": 399.0, "desired": NOTHING, "records": record(spec="", stranger_since=100.0), "statuses": {"w": RUNS}},
        Observed.ORPHAN,
        Act.NONE,
    ),
    "unknown, seen for long": (
        {"now": 400.0, "desired": NOTHING, "records": record(spec="", stranger_since=100.0), "statuses": {"w": RUNS}},
        Observed.ORPHAN,
        Act.STOP,
    ),
    "not wanted, ended": ({"desired": NOTHING, "records": ENDED}, Observed.EXITED, Act.FORGET),
    "no document, ended": ({"desired": None, "records": ENDED}, Observed.EXITED, Act.NONE),
    "other spec": ({"records": record(spec="old"), "statuses": {"w": RUNS}}, Observed.DRIFTED, Act.STOP),
    "launcher knows another spec": (
        {"records": record(), "statuses": {"w": replace(RUNS, spec="old")}},
        Observed.DRIFTED,
        Act.STOP,
    ),
    "worker itself says another spec": (
        {"records": record(), "statuses": {"w": RUNS}, "health": {"w": replace(GOOD, spec="old")}},
        Observed.DRIFTED,
        Act.STOP,
    ),
    "another build": (
        {"desired": OF_BUILD, "records": record(), "statuses": {"w": RUNS}, "health": {"w": GOOD}},
        Observed.DRIFTED,
        Act.STOP,
    ),
    "a build, the queen is older": (
        {"records": record(spec=BUILT.digest(), build="b1"), "statuses": {"w": RUNS}, "health": {"w": SAYS_BUILD}},
        Observed.READY,
        Act.NONE,
    ),
    "a build, the worker is older": (
        {
            "desired": OF_BUILD,
            "records": record(spec=BUILT.digest(), build="b1"),
            "statuses": {"w": RUNS},
            "health": {"w": GOOD},
        },
        Observed.READY,
        Act.NONE,
    ),
    "other model content": ({"records": record(basis="old/k"), "statuses": {"w": RUNS}}, Observed.DRIFTED, Act.STOP),
    "other credentials": ({"records": record(basis="c0/old"), "statuses": {"w": RUNS}}, Observed.DRIFTED, Act.STOP),
    "drifted, new model not here": (
        {
            "records": record(spec="old"),
            "statuses": {"w": RUNS},
            "health": {"w": replace(GOOD, spec="")},
            "models": {"m": ABSENT},
        },
        Observed.READY,
        Act.NONE,
    ),
    "stopping": ({"records": record(stop_asked=99.0), "statuses": {"w": STOPS}}, Observed.STOPPING, Act.NONE),
    "draining": (
        {
            "records": record(stop_asked=99.0),
            "statuses": {"w": STOPS},
            "health": {"w": replace(GOOD, ready=False, in_flight=3)},
        },
        Observed.DRAINING,
        Act.NONE,
    ),
    "stop got lost": ({"records": record(stop_asked=80.0), "statuses": {"w": RUNS}}, Observed.STOPPING, Act.STOP),
    "stopped by somebody else": ({"records": record(), "statuses": {"w": STOPS}}, Observed.STOPPING, Act.NONE),
    "stopped, wanted again": (
        {"records": record(stop_asked=80.0), "statuses": {"w": CRASHED}},
        Observed.STARTING,
        Act.START,
    ),
    "hung": (
        {
            "now": 1000.0,
            "records": record(ready_since=60.0),
            "statuses": {"w": RUNS},
            "health": {"w": HUNG},
        },
        Observed.STOPPING,
        Act.KILL,
    ),
    "first look after ten minutes away": (
        {
            "now": 1000.0,
            "records": record(ready_since=60.0),
            "statuses": {"w": RUNS},
            "health": {"w": Health(since=60.0, ready=True, silent_since=399.0, silent=2.0)},
        },
        Observed.READY,
        Act.NONE,
    ),
    "loads for ever": (
        {"records": record(), "statuses": {"w": RUNS}, "loads": {"w": Load(at=100.0, total=1800.0)}},
        Observed.STOPPING,
        Act.KILL,
    ),
    "loads a large model for long": (
        {
            "records": record(model="m"),
            "statuses": {"w": RUNS},
            "models": {"m": ModelState(ready=True, basis="c0", size=40 * 10**9)},
            "loads": {"w": Load(at=100.0, total=1800.0)},
        },
        Observed.STARTING,
        Act.NONE,
    ),
    "its load has stopped": (
        {"records": record(), "statuses": {"w": RUNS}, "loads": {"w": Load(at=100.0, total=200.0, quiet=180.0)}},
        Observed.STOPPING,
        Act.KILL,
    ),
    "loads, first look after an hour away": (
        {"now": 4000.0, "records": record(), "statuses": {"w": RUNS}, "loads": {"w": Load(at=4000.0, total=30.0)}},
        Observed.STARTING,
        Act.NONE,
    ),
    "killed in vain, and its unit is stopping": (
        {"records": record(stop_asked=80.0, stop_as=ExitReason.CRASHED), "statuses": {"w": STOPS}},
        Observed.STOPPING,
        Act.KILL,
    ),
    "drains for long": ({"records": record(stop_asked=20.0), "statuses": {"w": STOPS}}, Observed.STOPPING, Act.NONE),
    "given up and still there": (
        {"records": record(stop_asked=80.0, stop_as=ExitReason.CRASHED), "statuses": {"w": RUNS}},
        Observed.STOPPING,
        Act.KILL,
    ),
    "drained, runs": (
        {"drained": True, "records": record(), "statuses": {"w": RUNS}, "health": {"w": GOOD}},
        Observed.DRAINING,
        Act.STOP,
    ),
    "drained, ended": ({"drained": True, "records": ENDED}, Observed.EXITED, Act.NONE),
    "drained, not wanted": ({"drained": True, "desired": NOTHING, "records": ENDED}, Observed.EXITED, Act.FORGET),
    "device lost, runs": (
        {
            "desired": ON_GPU,
            "records": record(spec=GPU_SPEC.digest(), devices=("GPU-1",)),
            "statuses": {"w": RUNS},
            "health": {"w": replace(GOOD, spec=GPU_SPEC.digest())},
            "lost": {"GPU-1": "it has vanished"},
        },
        Observed.STARTING,
        Act.NONE,
    ),
    "device lost, ended": ({"desired": ON_GPU, "lost": {"GPU-1": "it has vanished"}}, Observed.EXITED, Act.NONE),
    "another device lost": ({"desired": ON_GPU, "lost": {"GPU-2": "it has vanished"}}, Observed.STARTING, Act.START),
    "another worker found the device broken": (
        {"desired": ON_GPU, "faults": {"GPU-1": ("v",)}},
        Observed.EXITED,
        Act.NONE,
    ),
    "it found the device broken itself": (
        {"desired": ON_GPU, "faults": {"GPU-1": ("w",)}},
        Observed.STARTING,
        Act.START,
    ),
    "engine does not fit": (
        {"engines": frozenset(), "unfit": {"fake": "engine fake is built for arm64"}},
        Observed.EXITED,
        Act.NONE,
    ),
    "state disk full": ({"trouble": "cannot write records"}, Observed.BACKOFF, Act.NONE),
    "models not readable": ({"models": {}, "unseen": "the disk did not answer"}, Observed.FETCHING, Act.NONE),
    "out of memory once": ({"records": record(**STARVED, starved=1)}, Observed.STARTING, Act.START),
    "out of memory twice": (
        {"records": record(**STARVED, starved=2), "ledger": one_device(free=1000)},
        Observed.EXITED,
        Act.NONE,
    ),
    "out of memory twice, then more is free": (
        {"records": record(**STARVED, starved=2), "ledger": one_device(free=1200)},
        Observed.STARTING,
        Act.START,
    ),
    "does not fit": ({"needs": {"w": 2000}, "ledger": one_device(free=1000)}, Observed.BACKOFF, Act.NONE),
    "fits": ({"needs": {"w": 1000}, "ledger": one_device(free=1000)}, Observed.STARTING, Act.START),
    "after a reboot": ({"boot": "b2", "records": record(next_try=1e9, streak=9)}, Observed.STARTING, Act.START),
}
