"""S7, DOWN and UP: a release that is bad, one that is older, and one that is good while people ask."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from rbee_runtime.queen.schema import SCHEMA_VERSION
from tests.e2e.fleets import wait_for
from tests.faults.deploy.crowd import Crowd
from tests.faults.deploy.sources import HIVE_EXITS, NEWER_SCHEMA, QUEEN_HANGS, REASON, WORKER_EXITS, Edit
from tests.faults.deploy.trio import MODEL, Trio, audit, contents, line, pids, release
from tests.faults.rows import FULL, row
from tests.sampling import sample

pytestmark = pytest.mark.lab

Record = Callable[[str, object], None]
NAMES = ("queen", "gpu1", "gpu2")
DATABASE = "/var/lib/rbee/queen/queen.db"


@dataclass(frozen=True)
class Bad:
    """A release that never becomes ready: what is wrong with it, who fails first, who went over, who is not touched."""

    edit: Edit
    fails: str
    stage: str
    over: tuple[str, ...]
    untouched: tuple[str, ...]


BAD = {
    "hive exits at once": Bad(HIVE_EXITS, "gpu1", "activate hives", ("queen",), ("gpu2",)),
    "queen hangs": Bad(QUEEN_HANGS, "queen", "activate queen", (), ("gpu1", "gpu2")),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have both kinds tried in the full run, one of them in the short one."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", list(BAD) if FULL else sample(metafunc.config, [list(BAD)]))


def test_s7_a_release_that_is_never_ready_is_put_back(trio: Trio, kind: str, record_property: Record) -> None:
    """The host that failed is as before, in time, and no stream fails; the next are not touched; the reason is told."""
    bad, figures, good = BAD[kind], row("S7", "deploy"), trio.fleet.sources
    before, running = states(trio), {name: pids(trio.host(name)) for name in bad.untouched}
    trio.fleet.sources = trio.sources(kind.replace(" ", "-"), bad.edit)
    with Crowd(trio.fleet, per_second=figures.figure("per_second")) as crowd:
        done = trio.apply()
    trio.fleet.sources = good
    assert done.code == 1
    assert {name for name, state in states(trio).items() if state != before[name]} == set(bad.over)
    assert [name for name in bad.untouched if pids(trio.host(name)) != running[name]] == []
    tried = audit(trio.host(bad.fails))[-1]["release"]
    assert {name for name in NAMES if running_release(trio, name) == tried} == set(bad.over)
    seconds = took(trio, bad.fails)
    for name, value in {"seconds until back": seconds, **crowd.figures()}.items():
        record_property(f"{name}, {kind}", value)
    assert (crowd.failures, crowd.whole) == ([], crowd.started)
    assert seconds <= figures.figure("seconds")
    assert "did not become ready" in line(done.errors, bad.fails, bad.stage), done.errors
    assert REASON in done.errors
    assert len(trio.fleet.admin("keys")) > 0
    trio.answers()
    trio.converge()
    trio.serves()


def states(trio: Trio) -> dict[str, str]:
    """Return what each host holds, and in which release it is."""
    return {name: contents(trio.host(name)) for name in NAMES}


def running_release(trio: Trio, name: str) -> str:
    """Return the release whose Python a host's queen or hive runs with."""
    host, unit = trio.host(name), "rbee-queen.service" if name == "queen" else "rbee-hive.service"
    python = host.run(f"tr '\\0' '\\n' </proc/{pids(host)[unit]}/cmdline | head -n 1").stdout
    return python.removeprefix("/opt/rbee/releases/").partition("/")[0]


def took(trio: Trio, name: str) -> float:
    """Return the seconds from the begin of a host's last activation to the end of its way back."""
    *_, began, ended = audit(trio.host(name))
    assert (began["action"], ended["action"]) == ("begin", "restored"), (began, ended)
    begun, over = (time.mktime(time.strptime(one["time"], "%Y-%m-%dT%H:%M:%SZ")) for one in (began, ended))
    return over - begun


def test_s7_workers_that_exit_take_the_run_back(trio: Trio, record_property: Record) -> None:
    """Where new workers end at once, every host goes back, old workers answer all through, and the reason is told."""
    good, before = trio.fleet.sources, states(trio)
    trio.fleet.sources = trio.sources("workers-exit", WORKER_EXITS)
    with Crowd(trio.fleet, per_second=row("S7", "deploy").figure("per_second")) as crowd:
        done = trio.apply()
    trio.fleet.sources = good
    assert done.code == 1
    assert states(trio) == before
    seen = {"seconds of the run": round(done.seconds), **crowd.figures()}
    for name, value in seen.items():
        record_property(f"{name}, workers exit at once", value)
    assert crowd.started > done.seconds
    assert (crowd.failures, crowd.whole) == ([], crowd.started)
    assert "taken back" in line(done.errors, "queen", "take back"), done.errors
    trio.serves()
    assert trio.changes() == {}


def test_down_a_schema_that_moved_on_comes_back(trio: Trio) -> None:
    """A rollback brings the old schema and no lower epoch; an older release over a newer schema is put back itself."""
    good = trio.fleet.sources
    trio.fleet.sources = trio.sources("schema", NEWER_SCHEMA)
    trio.converge()
    trio.serves()
    newer, epoch = release(trio.host("queen")), meta(trio, "epoch")
    assert schema(trio) == SCHEMA_VERSION + 1
    trio.fleet.sources = good
    refused = trio.apply()
    assert refused.code == 1
    said = f"was written by a newer rbee (schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION})"
    assert said in refused.errors
    assert {release(trio.host(name)) for name in NAMES} == {newer}
    trio.answers()
    back = trio.apply(command="rollback")
    assert back.code == 0, back.errors
    assert schema(trio) == SCHEMA_VERSION
    assert meta(trio, "epoch") > epoch
    trio.serves()
    trio.answers()
    wait_for("hives that accept the queen", lambda: {hive["state"] for hive in trio.fleet.admin("hives")} == {"live"})
    trio.converge()
    assert trio.changes() == {}


def schema(trio: Trio) -> int:
    """Return the version of the queen's database."""
    return int(_asked(trio, "PRAGMA user_version"))


def meta(trio: Trio, name: str) -> int:
    """Return a number that the queen remembers."""
    return int(_asked(trio, f"SELECT value FROM meta WHERE name = '{name}'"))


def _asked(trio: Trio, question: str) -> str:
    text = f'import sqlite3; print(sqlite3.connect("{DATABASE}").execute("""{question}""").fetchone()[0])'
    return trio.host("queen").run("python3 -", input=text).stdout


@pytest.mark.full
def test_up_an_upgrade_fails_nobody(trio: Trio, record_property: Record) -> None:
    """Queen, hives and both workers run another release afterwards, and not one of the streams meanwhile was cut."""
    figures = row("UP", "deploy")
    before = {name: release(trio.host(name)) for name in NAMES}
    workers = {item["id"]: item for item in trio.fleet.workers(MODEL)}
    trio.turn()
    with Crowd(trio.fleet, per_second=figures.figure("per_second")) as crowd:
        done = trio.apply()
    for name, value in crowd.figures().items():
        record_property(name, value)
    record_property("seconds of the upgrade", round(done.seconds))
    assert done.code == 0, done.errors
    assert (crowd.failures, crowd.whole) == ([], crowd.started)
    assert crowd.whole >= figures.figure("per_second") * done.seconds * figures.figure("least_share")
    after = {name: release(trio.host(name)) for name in NAMES}
    assert [name for name in NAMES if after[name] == before[name]] == []
    assert all(after[name] in text for name in ("gpu1", "gpu2") for text in worker_commands(trio, name))
    assert len(workers) == len(trio.fleet.workers(MODEL)) == 2
    assert trio.changes() == {}


def worker_commands(trio: Trio, name: str) -> list[str]:
    """Return the command line of every worker on a host."""
    mains = [pid for unit, pid in pids(trio.host(name)).items() if unit.startswith("rbee-worker@") and pid != "0"]
    found = [trio.host(name).run(f"tr '\\0' ' ' </proc/{pid}/cmdline").stdout for pid in mains]
    assert found
    return found
