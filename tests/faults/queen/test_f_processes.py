"""Real queens, hives and workers of which one is killed. Figures: queen_rows.yaml."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.rows import row
from tests.unit.queen.hosts import Host, hosts, release
from tests.unit.queen.units import Unit, unit, wait_until

pytestmark = pytest.mark.slow

Figures = Callable[[str, object], None]
WITHIN = 120.0
PER_SECOND = 20


class Stream(threading.Thread):
    """One streamed answer, read in the background: its lines and when each came."""

    def __init__(self, u: Unit, tokens: int) -> None:
        super().__init__()
        self._unit = u
        self._tokens = tokens
        self.lines: list[str] = []
        self.times: list[float] = []
        self.broke = ""
        self.start()

    def run(self) -> None:
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": "m", "stream": True, "max_tokens": self._tokens, "messages": messages}
        url = f"{self._unit.url}/v1/chat/completions"
        try:
            with httpx.stream("POST", url, json=body, headers=self._unit.headers, timeout=WITHIN) as answer:
                for line in answer.iter_lines():
                    if line:
                        self.lines.append(line)
                        self.times.append(time.monotonic())
        except httpx.HTTPError as error:
            self.broke = repr(error)

    @property
    def errors(self) -> list[str]:
        """Return its error events."""
        return [line for line in self.lines if line.startswith('data: {"error"')]

    @property
    def text(self) -> str:
        """Return what it said."""
        chunks = (json.loads(line.removeprefix("data: ")) for line in self.lines if line.startswith("data: {"))
        choices = (choice for chunk in chunks for choice in chunk.get("choices", ()))
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def done(self) -> bool:
        """Say whether it came to its proper end."""
        return self.lines[-1:] == ["data: [DONE]"]


@contextmanager
def serving(directory: Path, *names: str, **fields: object) -> Iterator[tuple[Unit, list[Host]]]:
    """Give a queen and hosts whose worker each serves model m."""
    served = {"source": f"fake:tokens_per_s={PER_SECOND}", "engine": "fake", "slots": 64, "each_host": True}
    declared = {"hives": [{"name": name} for name in names], "models": [{"name": "m", **served, **fields}]}
    with unit(directory / "unit", declared, drain_seconds=20) as u:
        u.start()
        python = release(directory, "0.1.0-aaaaaaaa")
        with hosts(u, *names) as made:
            for host in made:
                host.start(python)
            wait_until(lambda: ready(u) == len(names), within=WITHIN)
            yield u, made


def ready(u: Unit) -> int:
    """Return how many workers serve."""
    found: list[dict[str, Any]] = u.get("/api/v1/workers").json()
    return sum(each["state"] == "ready" for each in found)


def test_f1_a_killed_worker_ends_its_own_streams_only(tmp_path: Path, record_property: Figures) -> None:
    """Half of the streams end in one error event at once, the other half goes on, and the worker is back."""
    row_ = row("F1", "queen")
    with serving(tmp_path, "a", "b") as (u, made):
        streams = [Stream(u, tokens=6 * PER_SECOND) for _ in range(row_.figure("streams"))]
        wait_until(lambda: all(len(each.lines) > 10 for each in streams))
        (pid,) = made[0].pids().values()
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ready(u) == 1)
        wait_until(lambda: ready(u) == 2, within=WITHIN)
        back = time.monotonic() - killed
        for each in streams:
            each.join(WITHIN)
    cut, whole = [each for each in streams if each.errors], [each for each in streams if not each.errors]
    told = max(each.times[-1] - killed for each in cut)
    gap = max(after - before for each in whole for before, after in zip(each.times, each.times[1:], strict=False))
    for name, value in (("told_seconds", told), ("back_seconds", back), ("longest_gap_seconds", gap)):
        record_property(name, round(value, 2))
    assert len(cut) == len(whole) == row_.figure("streams") // 2
    assert all(each.done for each in whole)
    assert not any(each.broke or each.done or len(each.errors) > 1 for each in cut)
    assert told <= row_.figure("told_seconds")
    assert back <= row_.figure("back_seconds")


def test_f1_another_worker_goes_on_where_the_model_has_the_option(tmp_path: Path, record_property: Figures) -> None:
    """Of a worker that is killed every stream goes on, with each token once and a comment where it does."""
    row_, tokens = row("F1", "queen"), 6 * PER_SECOND
    with serving(tmp_path, "a", "b", continues=True) as (u, made):
        streams = [Stream(u, tokens=tokens) for _ in range(row_.figure("streams"))]
        wait_until(lambda: all(len(each.lines) > 10 for each in streams))
        (pid,) = made[0].pids().values()
        os.kill(pid, signal.SIGKILL)
        for each in streams:
            each.join(WITHIN)
        (used,) = u.get("/api/v1/usage").json()
    gap = max(after - before for each in streams for before, after in zip(each.times, each.times[1:], strict=False))
    record_property("longest_continued_gap_seconds", round(gap, 2))
    assert all(each.done and not each.errors and not each.broke for each in streams)
    assert not any(each.is_alive() for each in streams), "an answer has no end"
    assert {each.text for each in streams} == {"".join(f"tok{index} " for index in range(tokens))}
    assert sum(": continued" in each.lines for each in streams) == row_.figure("streams") // 2
    assert gap <= row_.figure("told_seconds")
    spent = [used[name] // len(streams) for name in ("requests", "prompt_tokens", "answer_tokens")]
    assert spent == [1, 4, tokens]


def test_f11_a_killed_queen_finds_everything_as_it_was(tmp_path: Path, record_property: Figures) -> None:
    """While it is away workers serve whoever asks them; back again it serves with the same workers."""
    row_ = row("F11", "queen")
    with serving(tmp_path, "a", "b") as (u, made):
        workers, pids = u.get("/api/v1/workers").json(), [host.pids() for host in made]
        main = u.mains[-1]
        for pid in (main.process.pid, main.child):
            os.kill(pid, signal.SIGKILL)
        main.process.wait()
        time.sleep(row_.figure("away_seconds"))
        token = {"x-rbee-token": (u.directory / "state" / "link-token").read_text().strip()}
        assert {httpx.get(f"http://{each['url']}/health", headers=token).status_code for each in workers} == {200}
        begun = time.monotonic()
        u.start()
        wait_until(lambda: ready(u) == 2)
        took = time.monotonic() - begun
        record_property("back_seconds", round(took, 2))
        assert took <= row_.figure("back_seconds")
        assert [host.pids() for host in made] == pids
        assert {each["id"] for each in u.get("/api/v1/workers").json()} == {each["id"] for each in workers}
        stream = Stream(u, tokens=5)
        stream.join(WITHIN)
        assert stream.done
