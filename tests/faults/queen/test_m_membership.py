"""Real queens, hives and workers between which the network fails. Figures: queen_rows.yaml."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.faults.queen.wires import Link, carried, lossy
from tests.faults.rows import FULL, Row, row
from tests.unit.queen.hosts import Host, hosts, release
from tests.unit.queen.test_rolling_program import PER_SECOND, TOKENS, asking
from tests.unit.queen.units import PATIENCE, ROOT, Unit, alive, unit, wait_until

pytestmark = pytest.mark.slow

Figures = Callable[[str, object], None]
WITHIN = 120.0
REQUESTS_PER_SECOND = 10.0
SHORTER = """
import sys

if "rbee_runtime.queen.serve" in sys.orig_argv:
    from rbee_runtime.queen import membership

    membership.SUSPECT_SECONDS, membership.LOST_SECONDS, membership.TOGETHER_SECONDS = {suspect}, {lost}, {suspect}
"""
"""The first code of a queen who takes a hive for lost sooner: the short run, in which waiting is all there is."""


@dataclass
class Fleet:
    """A queen, two hosts of which one serves model m, and the networks between them."""

    unit: Unit
    hosts: dict[str, Host]
    links: dict[str, Link]

    def workers(self) -> dict[str, tuple[str, str]]:
        """Return hive and state of each worker by id."""
        found: list[dict[str, Any]] = self.unit.get("/api/v1/workers").json()
        return {each["id"]: (each["hive"], each["state"]) for each in found}

    def states(self) -> dict[str, str]:
        """Return the state of each hive."""
        found: list[dict[str, Any]] = self.unit.get("/api/v1/hives").json()
        return {each["name"]: each["state"] for each in found}

    def running(self) -> dict[str, int]:
        """Return how many workers really run on each host."""
        return {name: sum(alive(pid) for pid in host.pids().values()) for name, host in self.hosts.items()}


def model(**fields: object) -> dict[str, object]:
    source = f"fake:tokens_per_s={PER_SECOND},tokens={TOKENS}"
    return {"name": "m", "source": source, "engine": "fake", "slots": 64, **fields}


@contextlib.contextmanager
def serving(directory: Path, row_: Row) -> Iterator[tuple[Fleet, str]]:
    """Give a fleet whose model serves on one of two hosts, and the name of that host."""
    names = ("a", "b")
    with unit(directory / "unit", {"hives": [{"name": name} for name in names], "models": [model()]}) as u:
        first = "" if FULL else SHORTER.format(suspect=row_.figure("suspect"), lost=row_.figure("lost"))
        u.python = str(release(directory, "0.1.0-aaaaaaaa", first=first))
        u.start()
        with hosts(u, *names) as made:
            links = {host.name: Link.of(host, heartbeat=row_.figure("heartbeat")) for host in made}
            fleet = Fleet(u, {host.name: host for host in made}, links)
            with carried(*links.values()):
                for host in made:
                    host.start(Path(u.python))
                wait_until(lambda: set(fleet.states().values()) == {"live"}, within=WITHIN)
                wait_until(lambda: [state for _, state in fleet.workers().values()] == ["ready"], within=WITHIN)
                ((home, _),) = fleet.workers().values()
                yield fleet, home
                for link in links.values():
                    link.set(up=True, down=True)


def spend(seconds: float, look: Callable[[], None]) -> None:
    """Look twice a second for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        look()
        time.sleep(0.5)


@pytest.mark.full
def test_m1_a_short_cut_of_the_control_plane_is_not_noticed(tmp_path: Path, record_property: Figures) -> None:
    """While a hive cannot be heard its worker serves every request, and nothing is placed elsewhere."""
    row_ = row("M1", "queen")
    with serving(tmp_path, row_) as (fleet, home):
        before, seen = fleet.workers(), set[str]()
        with asking(fleet.unit, REQUESTS_PER_SECOND) as clients:
            fleet.links[home].set(up=False, down=False)
            spend(row_.figure("cut_seconds"), lambda: seen.add(fleet.states()[home]))
            fleet.links[home].set(up=True, down=True)
            wait_until(lambda: fleet.states()[home] == "live")
        record_property("requests", clients.answered)
        assert "suspect" in seen
        assert "lost" not in seen
        assert fleet.workers() == before
        assert clients.failed == []


def test_m2_a_long_cut_is_made_up_for(tmp_path: Path, record_property: Figures) -> None:
    """A spare host takes over in time, nobody's request fails, and one worker is left at the end."""
    long_cut(tmp_path, row("M2", "queen"), record_property, down=False)


@pytest.mark.full
def test_m3_a_hive_that_is_not_heard_is_made_up_for(tmp_path: Path, record_property: Figures) -> None:
    """It hears the queen meanwhile; no device ever has two workers."""
    long_cut(tmp_path, row("M3", "queen"), record_property, down=True)


def long_cut(folder: Path, row_: Row, record_property: Figures, *, down: bool) -> None:
    with serving(folder, row_) as (fleet, home):
        most: list[int] = []
        with asking(fleet.unit, REQUESTS_PER_SECOND) as clients:
            cut = time.monotonic()
            fleet.links[home].set(up=False, down=down)
            wait_until(lambda: replaced(fleet, home), within=row_.figure("replaced_seconds"))
            took = time.monotonic() - cut
            spend(max(row_.figure("cut_seconds") - took, 2.0), lambda: most.extend(fleet.running().values()))
            healed = time.monotonic()
            fleet.links[home].set(up=True, down=True)
            wait_until(lambda: sum(fleet.running().values()) == 1, within=row_.figure("healed_seconds"))
            back = time.monotonic() - healed
        for name, value in (("replaced_seconds", took), ("healed_seconds", back), ("requests", clients.answered)):
            record_property(name, round(value, 1))
        assert max(most) == 1
        assert [state for _, state in fleet.workers().values()] == ["ready"]
        assert clients.failed == []


def replaced(fleet: Fleet, home: str) -> bool:
    return any(hive != home and state == "ready" for hive, state in fleet.workers().values())


@pytest.mark.full
def test_m4_a_bad_line_does_not_make_a_hive_flap(tmp_path: Path, record_property: Figures) -> None:
    """Losses and delays change the state of a hive at most once, and no worker."""
    row_ = row("M4", "queen")
    with serving(tmp_path, row_) as (fleet, _):
        before, seen = fleet.workers(), [fleet.states()]
        for seed, link in enumerate(fleet.links.values()):
            link.slow(lossy(row_.figure("delay_seconds"), row_.figure("loss"), seed))
        spend(row_.figure("seconds"), lambda: seen.append(fleet.states()))
        changes = {name: sum(a[name] != b[name] for a, b in pairwise(seen)) for name in seen[0]}
        record_property("changes", max(changes.values()))
        assert max(changes.values()) <= row_.figure("changes")
        assert fleet.workers() == before


def test_m5_a_wrong_clock_does_not_make_a_hive_silent(tmp_path: Path) -> None:
    """Hives an hour ahead and an hour behind are live, stay it, and their workers answer."""
    shifted = "import time\n\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
    row_, names = row("M5", "queen"), ("a", "b")
    declared = {"hives": [{"name": name} for name in names], "models": [model(each_host=True)]}
    with unit(tmp_path / "unit", declared) as u:
        u.start()
        with hosts(u, *names) as made:
            fleet = Fleet(u, {host.name: host for host in made}, {})
            for host, hours in zip(made, row_.figure("hours"), strict=True):
                host.start(release(tmp_path / host.name, "0.1.0-aaaaaaaa", first=shifted.format(seconds=hours * 3600)))
            wait_until(lambda: [state for _, state in fleet.workers().values()] == ["ready"] * 2, within=WITHIN)
            with asking(u, REQUESTS_PER_SECOND) as clients:
                seen = set[str]()
                spend(row_.figure("seconds"), lambda: seen.update(fleet.states().values()))
            assert seen == {"live"}
            assert clients.failed == []


def test_m6_a_second_queen_on_a_copied_state_ends_at_once(tmp_path: Path) -> None:
    """On the same host the ports are taken: one sentence, status 1, and the first one serves on."""
    with unit(tmp_path / "unit", {"hives": [], "models": [model()]}) as u:
        u.start()
        shutil.copytree(u.directory / "state", tmp_path / "copy")
        settings = yaml.safe_load((u.directory / "queen.yaml").read_text())
        settings |= {"state_dir": str(tmp_path / "copy"), "run_dir": str(tmp_path / "run")}
        (tmp_path / "copy.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "rbee_runtime.queen.main", "--config", str(tmp_path / "copy.yaml")]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert str(u.port) in second.stderr
        assert u.get("/health").status_code == 200


@pytest.mark.full
def test_m6_a_queen_on_a_copied_state_elsewhere_commands_nothing(tmp_path: Path) -> None:
    """She starts, knows the hosts and has the next epoch; each hive answers her with 409 and serves on."""
    with unit(tmp_path / "unit", {"hives": [{"name": "a"}], "models": [model()]}) as u, contextlib.ExitStack() as stack:
        u.start()
        (host,) = stack.enter_context(hosts(u, "a"))
        host.start(Path(sys.executable))
        wait_until(lambda: answers(u), within=WITHIN)
        copy = stack.enter_context(unit(tmp_path / "copy", u.fleet))
        shutil.copytree(u.directory / "state", copy.directory / "state")
        copy.start()
        assert copy.get("/health").json()["epoch"] == u.get("/health").json()["epoch"] + 1
        assert_refused(copy)
        assert answers(u)
        host.stop()
        host.start(Path(sys.executable))
        wait_until(lambda: (host.folder / "log").read_text().count("queen_answers") == 2, within=WITHIN)
        assert_refused(copy)
        u.kill()
        u.start()
        assert copy.get("/health").json()["epoch"] == u.get("/health").json()["epoch"]
        verified = httpx.post(f"{u.url}/api/v1/hives/a/models/m/verify", headers=u.headers, timeout=WITHIN)
        assert verified.status_code == 404
        assert_refused(copy)
        assert answers(u)


@pytest.mark.full
def test_m7_an_old_queen_is_refused_until_a_person_says_otherwise(tmp_path: Path) -> None:
    """A queen from a backup gets 409 for what she wants of a hive; workers serve on, and files removed there end it."""
    with unit(tmp_path / "unit", {"hives": [{"name": "a"}], "models": [model()]}) as u, contextlib.ExitStack() as stack:
        host = grown_old(u, stack, tmp_path / "backup")
        old = stack.enter_context(unit(tmp_path / "old", u.fleet))
        shutil.copytree(tmp_path / "backup", old.directory / "state")
        old.start()
        pids = host.pids()
        follow(host, old)
        wait_until(lambda: "409" in hive_detail(old), within=WITHIN)
        assert "another queen" in hive_detail(old)
        assert_refused(old)
        assert answers(old)
        host.stop()
        for name in ("desired.json", "highest.json"):
            (host.folder / "state" / name).unlink()
        host.start(Path(sys.executable))
        wait_until(lambda: not hive_detail(old), within=WITHIN)
        wait_until(partial(follows, host, old.get("/health").json()["epoch"]), within=WITHIN)
        assert host.pids() == pids
        assert answers(old)


def assert_refused(u: Unit) -> None:
    """Nothing that an operator asks of a host through this queen is done."""
    refused = httpx.post(f"{u.url}/api/v1/hives/a/models/m/verify", headers=u.headers, timeout=WITHIN)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "stale_desired")


def hive_detail(u: Unit) -> str:
    return str(u.get("/api/v1/hives").json()[0]["detail"])


def grown_old(u: Unit, stack: contextlib.ExitStack, backup: Path) -> Host:
    """Return a host that serves, after the queen's state was copied and she was restarted twice."""
    u.start()
    (host,) = stack.enter_context(hosts(u, "a"))
    host.start(Path(sys.executable))
    wait_until(lambda: answers(u), within=WITHIN)
    u.kill()
    shutil.copytree(u.directory / "state", backup)
    for _ in range(2):
        u.start()
        epoch = u.get("/health").json()["epoch"]
        wait_until(partial(follows, host, epoch), within=WITHIN)
        u.kill()
    return host


def follows(host: Host, epoch: int) -> bool:
    return bool(json.loads((host.folder / "state" / "highest.json").read_bytes())["epoch"] == epoch)


def follow(host: Host, other: Unit) -> None:
    """Point a hive at another queen, as a moved address does."""
    host.stop()
    file = host.folder / "hive.yaml"
    settings = yaml.safe_load(file.read_text()) | {"queen_url": f"http://127.0.0.1:{other.link_port}"}
    file.write_text(yaml.safe_dump(settings))
    host.start(Path(sys.executable))


def answers(u: Unit) -> bool:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"{u.url}/v1/chat/completions", json=body, headers=u.headers, timeout=WITHIN).status_code == 200
