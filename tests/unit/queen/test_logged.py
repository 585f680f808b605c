"""What a queen, her hive and her workers write down while they are used: never what clients say, show or hear."""

import json
import signal
from pathlib import Path

import httpx
import pytest

from rbee_runtime.gateway.exchange import Outcome
from rbee_runtime.logs import LogFormat, quoted, write_as
from rbee_runtime.queen.desk import Journal
from tests.unit.queen.units import unit
from tests.unit.queen.whole import Whole, whole

CHAT = "/v1/chat/completions"
PROMPT = "CANARY-prompt-7c1d"
SECRET = "S3cretCanary" * 4
THEIRS = f"rbee_zzzz9999_{SECRET}"


async def used(queen: Whole) -> tuple[str, str]:
    """Ask, ask wrongly and manage, with keys where they belong and where not; return a request's id and a new key."""
    said = {"messages": [{"role": "user", "content": PROMPT}]}
    async with httpx.AsyncClient(base_url=queen.url, headers=queen.headers, timeout=60) as c:
        answer = await c.post(CHAT, headers={"x-request-id": "mine-1"}, json={"model": "m", **said})
        assert answer.status_code == 200
        await c.post(CHAT, json={"model": "m", "stream": True, **said})
        await c.post(CHAT, json={"model": THEIRS, **said})
        await c.post(CHAT, json={"model": "m", "messages": PROMPT})
        await c.post(CHAT, content=f'{{"model": "m", "{PROMPT}"'.encode())
        await c.post(CHAT, headers={"authorization": f"Bearer {THEIRS}"}, json={"model": "m", **said})
        await c.get(f"/v1/models/{THEIRS}")
        await c.delete(f"/api/v1/keys/{THEIRS}")
        await c.post("/api/v1/keys", json={"name": THEIRS, "wrong": PROMPT})
        made = (await c.post("/api/v1/keys", json={"name": "n"})).json()["key"]
        await c.get("/api/v1/events", headers={"accept": "application/json"})
        logs = [(await c.get(f"/api/v1/workers/{worker}/logs")).text for worker in queen.serving.controller.assignments]
    assert PROMPT not in "".join(logs)
    return answer.headers["x-request-id"], made


def written(folder: Path) -> list[str]:
    """Return what is in every file but that with the first key."""
    kept = folder / "queen" / "api-key"
    return [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file() and path != kept]


async def test_neither_prompts_nor_keys_are_written_down(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every line of log, every file and every event is free of them; the request is there with its id and its key's."""
    async with whole(tmp_path) as queen:
        request_id, made = await used(queen)
        told = str(queen.serving.controller.history.log.held())
    out, log = capfd.readouterr()
    own, others = queen.key.split("_")[2], made.split("_")[2]
    everything = [log, told, *written(tmp_path)]
    assert [text[:200] for text in everything for word in (PROMPT, SECRET, own, others) if word in text] == []
    assert request_id == "mine-1"
    assert f"id=mine-1 method=POST path={CHAT} status=200" in log
    assert f"key={queen.key.split('_')[1]}" in log
    assert "model=rbee_zzzz9999_***" in log
    assert own in out, "the banner for a person shows the first key, and nothing else does"


@pytest.mark.slow
def test_every_line_is_an_object_where_the_settings_say_so(tmp_path: Path) -> None:
    """Of a start, a request and an end; the request has its id, its key's and its numbers."""
    with unit(tmp_path / "unit", {"hives": [], "models": []}, log_format="json", drain_seconds=1) as u:
        u.start()
        asked = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}
        answer = httpx.post(u.url + CHAT, headers={**u.headers, "x-request-id": "mine-1"}, json=asked, timeout=60)
        assert answer.status_code == 404
        u.mains[-1].signal(signal.SIGTERM)
        u.mains[-1].process.wait(60)
        lines = [json.loads(line) for line in u.log.read_text().splitlines()]
    assert {"time", "level", "event"} <= set.intersection(*(set(line) for line in lines))
    (request,) = (line for line in lines if line["event"] == "request")
    told = {name: request[name] for name in ("id", "status", "method", "path", "model", "key")}
    key_id = u.key.split("_")[1]
    assert told == {"id": "mine-1", "status": 404, "method": "POST", "path": CHAT, "model": "m", "key": key_id}
    assert isinstance(request["seconds"], float)
    assert PROMPT not in u.log.read_text()


def test_a_request_says_the_same_as_a_line_and_as_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms have the same fields with the same values, and leave out what is nothing."""
    full = Outcome(
        path=CHAT, key="k1", request_id="r1", model="m", worker="w1", attempts=2, status=200, sent=7, seconds=1.25,
        problem="why", continued=1,
    )  # fmt: skip
    for outcome in (full, Outcome(path=CHAT, request_id="r2", status=503)):
        told = []
        for form in (LogFormat.LINES, LogFormat.JSON):
            write_as(form)
            try:
                journal = Journal(lambda _seconds, _flush: None)
                journal.over(outcome)
                journal.flush()
            finally:
                write_as(LogFormat.LINES)
            told.append(capsys.readouterr().err.strip())
        line, said = told[0].removeprefix("info "), json.loads(told[1])
        fields = dict(pair.split("=", 1) for pair in line.split())
        as_text = {name: quoted(value) for name, value in said.items() if name not in {"level", "time"}}
        assert as_text == fields
