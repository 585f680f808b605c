"""S7, DOWN and UP: a release that is bad, one that is older, and one that is good while people ask."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.e2e.fleets import wait_for
from tests.faults.deploy.crowd import Crowd
from tests.faults.deploy.sources import HIVE_EXITS, NEWER_SCHEMA, QUEEN_HANGS, REASON, WORKER_EXITS, Edit
from tests.faults.deploy.trio import MODEL, Trio, audit, contents, line, pids, release
from tests.faults.rows import FULL, row
from tests.sampling import sample

pytestmark = pytest.mark.lab

Record = Callable[[str, object], None]
DATABASE = "/var/lib/rbee/queen/queen.db"


@dataclass(frozen=True)
class Bad:
    """A release that never becomes ready: what is wrong with it, who fails first, and who is never touched."""

    edit: Edit
    fails: str
    stage: str
    untouched: tuple[str, ...]


BAD = {
    "hive exits at once": Bad(HIVE_EXITS, "gpu1", "activate hives", ("gpu2",)),
    "queen hangs": Bad(QUEEN_HANGS, "queen", "activate queen", ("gpu1", "gpu2")),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have both kinds tried in the full run, one of them in the short one."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", list(BAD) if FULL else sample(metafunc.config, [list(BAD)]))


def test_s7_a_release_that_is_never_ready_is_put_back(trio: Trio, kind: str, record_property: Record) -> None:
    """All is as before on the host that failed, in time; the next are not touched; the unit's own words are told."""
    bad, names = BAD[kind], ("queen", "gpu1", "gpu2")
    good = trio.fleet.sources
    before = {name: (contents(trio.host(name)), release(trio.host(name))) for name in names}
    running = {name: pids(trio.host(name)) for name in bad.untouched}
    trio.fleet.sources = trio.sources(kind.replace(" ", "-"), bad.edit)
    done = trio.apply()
    trio.fleet.sources = good
    assert done.code == 1
    failed = trio.host(bad.fails)
    assert (contents(failed), release(failed)) == before[bad.fails]
    assert [name for name in bad.untouched if pids(trio.host(name)) != running[name]] == []
    assert [name for name in bad.untouched if release(trio.host(name)) != before[name][1]] == []
    seconds = took(trio, bad.fails)
    record_property(f"seconds until back, {kind}", seconds)
    assert seconds <= row("S7", "deploy").figure("seconds")
    assert "did not become ready" in line(done.errors, bad.fails, bad.stage), done.errors
    assert REASON in done.errors
    assert len(trio.fleet.admin("keys")) > 0
    trio.answers()
    trio.converge()
    trio.serves()


def took(trio: Trio, name: str) -> float:
    """Return the seconds from the begin of a host's last activation to the end of its way back."""
    *_, began, ended = audit(trio.host(name))
    assert (began["action"], ended["action"]) == ("begin", "restored"), (began, ended)
    begun, over = (time.mktime(time.strptime(one["time"], "%Y-%m-%dT%H:%M:%SZ")) for one in (began, ended))
    return over - begun


def test_s7_workers_that_exit_take_the_run_back(trio: Trio, record_property: Record) -> None:
    """Where new workers end at once, every host goes back, old workers answer all through, and the reason is told."""
    good, names = trio.fleet.sources, ("queen", "gpu1", "gpu2")
    before = {name: (contents(trio.host(name)), release(trio.host(name))) for name in names}
    trio.fleet.sources = trio.sources("workers-exit", WORKER_EXITS)
    with Crowd(trio.fleet, per_second=2) as crowd:
        done = trio.apply()
    trio.fleet.sources = good
    assert done.code == 1
    assert {name: (contents(trio.host(name)), release(trio.host(name))) for name in names} == before
    record_property("seconds of the run, workers exit at once", round(done.seconds))
    assert crowd.started > done.seconds
    assert (crowd.failures, crowd.whole) == ([], crowd.started)
    assert "taken back" in line(done.errors, "queen", "take back"), done.errors
    trio.serves()
    assert trio.changes() == {}


def test_down_a_schema_that_moved_on_comes_back(trio: Trio) -> None:
    """A rollback brings the old schema and no lower epoch; an older release over a newer schema is put back itself."""
    good = trio.fleet.sources
    trio.fleet.sources = trio.sources("schema", *NEWER_SCHEMA)
    trio.converge()
    trio.serves()
    newer, epoch = release(trio.host("queen")), meta(trio, "epoch")
    assert schema(trio) == 2
    trio.fleet.sources = good
    refused = trio.apply()
    assert refused.code == 1
    assert "was written by a newer rbee (schema 2, this one knows 1)" in refused.errors
    assert {release(trio.host(name)) for name in ("queen", "gpu1", "gpu2")} == {newer}
    trio.answers()
    back = trio.apply(command="rollback")
    assert back.code == 0, back.errors
    assert schema(trio) == 1
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
    names, figures = ("queen", "gpu1", "gpu2"), row("UP", "deploy")
    before = {name: release(trio.host(name)) for name in names}
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
    after = {name: release(trio.host(name)) for name in names}
    assert [name for name in names if after[name] == before[name]] == []
    assert all(after[name] in text for name in ("gpu1", "gpu2") for text in worker_commands(trio, name))
    assert len(workers) == len(trio.fleet.workers(MODEL)) == 2
    assert trio.changes() == {}


def worker_commands(trio: Trio, name: str) -> list[str]:
    """Return the command line of every worker on a host."""
    mains = [pid for unit, pid in pids(trio.host(name)).items() if unit.startswith("rbee-worker@") and pid != "0"]
    found = [trio.host(name).run(f"tr '\\0' ' ' </proc/{pid}/cmdline").stdout for pid in mains]
    assert found
    return found
