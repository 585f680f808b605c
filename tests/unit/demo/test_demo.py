import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from demo import chat, fleet, laptop, processes
from demo.story import DemoError, Story


def test_every_line_carries_the_elapsed_time(capsys: pytest.CaptureFixture[str]) -> None:
    """A line begins with the seconds since the demo began."""
    clock = iter([100.0, 100.0, 163.25])
    story = Story(clock=lambda: next(clock))
    story.tell("one")
    story.tell("two")
    assert capsys.readouterr().out == "[   0.0 s] one\n[  63.2 s] two\n"


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("queen  place files        0.1 s  changed", "changed"),
        ("gpu1   stage              9.1 s  unchanged", "unchanged"),
        ("gpu1   activate hives     0.5 s  failed     the unit failed", "failed"),
        ("    verify: compare       2       2         -       -", None),
    ],
)
def test_changes_are_read_from_the_deploys_report(line: str, verdict: str | None) -> None:
    """The demo counts what the report says, not what pyinfra prints elsewhere."""
    found = fleet._VERDICT.search(line)
    assert (found[1] if found is not None else None) == verdict


def endpoint(monkeypatch: pytest.MonkeyPatch, status: int, text: str) -> chat.Endpoint:
    made = chat.Endpoint(url="http://queen", key="k")
    transport = httpx.MockTransport(lambda _request: httpx.Response(status, text=text))
    client = httpx.Client(transport=transport, base_url=made.url)
    monkeypatch.setattr(chat.Endpoint, "client", lambda _self: client)
    return made


@pytest.mark.parametrize(
    ("status", "text", "sentence"),
    [
        (401, '{"error": {"message": "bad key"}}', "the queen answers 401"),
        (200, 'data: {"error": {"message": "worker lost"}}\n\n', "the stream broke off: worker lost"),
        (200, "data: [DONE]\n\n", "the stream ended without an answer"),
    ],
)
def test_a_failed_answer_is_one_sentence(
    status: int, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal, a broken stream and an empty answer end the demo with what happened."""
    with pytest.raises(DemoError, match=sentence):
        chat.stream_answer(endpoint(monkeypatch, status, text), "smol")


def test_a_model_that_never_comes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting ends with the model's last known state."""
    listed = endpoint(monkeypatch, 200, '{"data": [{"id": "smol", "state": "loading"}]}')
    with pytest.raises(DemoError, match="model smol is not ready after 0 s: loading"):
        chat.wait_ready(listed, "smol", patience=0.0)


def test_a_child_ends_with_the_block() -> None:
    """Whatever ends the demo ends its children."""
    with pytest.raises(KeyboardInterrupt), processes.running(["sleep", "60"]) as child:
        raise KeyboardInterrupt
    assert child.returncode == -15


def test_the_program_refuses_an_unknown_command() -> None:
    """A mistyped command names the known ones."""
    argv = [sys.executable, "-m", "demo", "upp"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(fleet.ROOT))
    assert done.returncode == 2
    assert "choose from" in done.stderr


@pytest.mark.engine
def test_the_demo_without_root_answers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], smol_model: Path
) -> None:
    """Queen, hive and worker of the single-machine path stream an answer and are gone afterwards."""
    monkeypatch.setattr(laptop, "folder", lambda: tmp_path)
    laptop.run_laptop(Story())
    out = capsys.readouterr().out
    assert "tokens/s" in out
    assert "queen, hive and worker stopped" in out
    assert [entry for entry in psutil.process_iter(["cmdline"]) if mentions(entry.info, tmp_path)] == []


def mentions(info: dict[str, Any], folder: Path) -> bool:
    return any(str(folder) in word for word in info["cmdline"] or ())
