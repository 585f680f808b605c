"""Hosts get another release while clients ask on: real queen, hives and workers, and nobody's request fails."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.queen.hosts import BROKEN, Host, hosts, release
from tests.unit.queen.units import Unit, unit, wait_until

pytestmark = pytest.mark.slow

OLD, NEW = "0.1.0-aaaaaaaa", "0.2.0-bbbbbbbb"
TOKENS, PER_SECOND = 40, 20
WITHIN = 120.0


def fleet(*names: str) -> dict[str, object]:
    served = {"source": f"fake:tokens_per_s={PER_SECOND},tokens={TOKENS}", "engine": "fake", "slots": 64}
    return {"hives": [{"name": name} for name in names], "models": [{"name": "m", "each_host": True, **served}]}


def rows(u: Unit) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = u.get("/api/v1/workers").json()
    return found


def settled(u: Unit, build: str, count: int) -> bool:
    found = [(row["state"], row["build"], row["outdated"]) for row in rows(u)]
    return found == [("ready", build, False)] * count


@dataclass
class Clients:
    """Requests at a steady rate, every second one streamed; `failed` says what went wrong, `ready` how many served."""

    unit: Unit
    failed: list[str] = field(default_factory=list)
    answered: int = 0
    ready: list[int] = field(default_factory=list)

    def ask(self, number: int) -> None:
        stream = number % 2 == 0
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        url = f"{self.unit.url}/v1/chat/completions"
        try:
            answer = httpx.post(url, json=body, headers=self.unit.headers, timeout=WITHIN)
        except httpx.HTTPError as error:
            self.failed.append(f"{type(error).__name__}: {error}")
            return
        whole = answer.text.count('"content"') >= TOKENS and "data: [DONE]" in answer.text if stream else True
        if answer.status_code != 200 or not whole or "error" in answer.text:
            self.failed.append(f"{answer.status_code} {answer.text[-300:]}")
        self.answered += 1

    def look(self) -> None:
        self.ready.append(self.unit.get("/api/v1/models").json()[0]["ready"])


@contextmanager
def asking(u: Unit, per_second: float) -> Iterator[Clients]:
    """Ask until the block ends and every answer is there."""
    clients, done = Clients(u), threading.Event()

    def run(pool: ThreadPoolExecutor) -> None:
        for number in range(100_000):
            if done.wait(1 / per_second):
                return
            pool.submit(clients.ask, number)
            clients.look()

    with ThreadPoolExecutor(64) as pool:
        rate = threading.Thread(target=run, args=(pool,))
        rate.start()
        try:
            yield clients
        finally:
            done.set()
            rate.join()


@contextmanager
def serving(directory: Path, *names: str) -> Iterator[tuple[Unit, list[Host], Callable[..., Path]]]:
    """Give a queen and hosts of the old release whose workers serve, and a maker of releases."""
    installed = {OLD: release(directory, OLD)}

    def get(name: str, *, first: str = "") -> Path:
        if name not in installed:
            installed[name] = release(directory, name, first=first)
        return installed[name]

    with unit(directory / "unit", fleet(*names), drain_seconds=20) as u:
        u.start()
        with hosts(u, *names) as made:
            for host in made:
                host.start(installed[OLD])
            wait_until(lambda: settled(u, OLD, len(names)), within=WITHIN)
            yield u, made, get


def test_two_replicas_are_replaced_one_after_the_other(tmp_path: Path) -> None:
    """Both hosts get a new release at once: no request fails or is cut, one worker serves at any time, both are new."""
    with serving(tmp_path, "a", "b") as (u, made, get):
        before = [pid for host in made for pid in host.pids().values()]
        with asking(u, 4) as clients:
            time.sleep(2)
            for host in made:
                host.upgrade(get(NEW))
            wait_until(lambda: settled(u, NEW, 2), within=WITHIN)
            time.sleep(1)
        after = [pid for host in made for pid in host.pids().values()]
        assert [host.releases() for host in made] == [[NEW], [NEW]]
    assert clients.failed == []
    assert min(clients.ready) == 1
    assert (len(after), set(after) & set(before)) == (2, set())
    assert clients.answered > 20


def test_the_only_worker_is_replaced_while_its_clients_wait(tmp_path: Path) -> None:
    """Requests that come while nothing serves are answered late and not refused, and nothing that is open is cut."""
    with serving(tmp_path, "a") as (u, (host,), get):
        before = host.pids()
        with asking(u, 4) as clients:
            time.sleep(2)
            host.upgrade(get(NEW))
            wait_until(lambda: settled(u, NEW, 1), within=WITHIN)
        assert (host.pids().keys(), host.releases()) == (before.keys(), [NEW])
    assert clients.failed == []
    assert min(clients.ready) == 0
    assert clients.answered > 10


def test_a_release_that_does_not_start_costs_one_worker_and_is_taken_back(tmp_path: Path) -> None:
    """The second worker is never touched; with the old release back on both hosts everything is as before."""
    with serving(tmp_path, "a", "b") as (u, made, get):
        before = {worker: pid for host in made for worker, pid in host.pids().items()}
        bad = get(NEW, first=BROKEN)
        with asking(u, 2) as clients:
            for host in made:
                host.upgrade(bad)
            wait_until(lambda: any(row["last_exit"] == "crashed" for row in rows(u)), within=WITHIN)
            time.sleep(5)
            found = {row["id"]: (row["state"], row["build"], row["outdated"]) for row in rows(u)}
            (kept,) = [worker for worker, row in found.items() if row[0] == "ready"]
            assert found[kept] == ("ready", OLD, True)
            assert [row[1:] for worker, row in found.items() if worker != kept] == [(NEW, True)]
            for host in made:
                host.upgrade(get(OLD))
            wait_until(lambda: settled(u, OLD, 2), within=WITHIN)
        after = {worker: pid for host in made for worker, pid in host.pids().items()}
    assert clients.failed == []
    assert min(clients.ready) == 1
    assert [worker for worker, pid in after.items() if before[worker] == pid] == [kept]
