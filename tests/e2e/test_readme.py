"""What the README tells people to type works as it stands there."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.fleets import ROOT, Fleet, wait_for
from tests.ports import free_ports

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
PROGRAMS = Path(sys.executable).parent
# Run by the demo's own tests, and by whoever runs this one.
RUN_ELSEWHERE = {"make demo", "make check", "make test-fast", "make test"}
KEEPER = [line for line in COMMANDS if line.startswith("rbee-keeper ")]
QUEEN = [line for line in COMMANDS if line.startswith("rbee-queen ")]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a person whose shell finds the programs."""
    return {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", **more}


def test_every_command_is_run_somewhere() -> None:
    """No command of the README escapes the tests."""
    assert len(KEEPER) >= 5
    assert set(COMMANDS) == {*RUN_ELSEWHERE, *KEEPER, *QUEEN}


@pytest.mark.lab
def test_the_keeper_commands_work_in_their_order(deployed: Fleet) -> None:
    """The commands under "Use it" succeed one after the other, and the chat answers."""
    settings = environment(RBEE_URL=deployed.url, RBEE_API_KEY=deployed.api_key)
    outputs = {}
    for line in KEEPER:
        done = subprocess.run(
            ["sh", "-c", line],
            check=False,
            env=settings,
            capture_output=True,
            text=True,
            timeout=90,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        outputs[line] = done.stdout
    deployed.wait_ready("smol")
    deployed.wait_ready("slow", 2)
    assert "gpu1" in outputs["rbee-keeper status"]
    assert "guest" in outputs["rbee-keeper keys list"]


@pytest.mark.slow
@pytest.mark.parametrize("line", QUEEN)
def test_the_laptop_line_serves(line: str, tmp_path: Path) -> None:
    """The queen with an attached hive answers without root or other hosts, and Ctrl-C ends all of it."""
    port = free_ports(2)[0]
    run = subprocess.Popen(
        [*line.split(), "--port", str(port)],
        env=environment(XDG_DATA_HOME=str(tmp_path), HOME=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        key_file = tmp_path / "rbee" / "queen" / "api-key"
        wait_for("the first API key", key_file.exists)
        client = httpx.Client(headers={"authorization": f"Bearer {key_file.read_text().strip()}"}, trust_env=False)
        with client:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            body: dict[str, object] = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
            wait_for("an answer", lambda: answers(client, url, body))
    finally:
        run.send_signal(signal.SIGINT)
        assert run.wait(60) in (0, -signal.SIGINT, 130)


def answers(client: httpx.Client, url: str, body: dict[str, object]) -> bool:
    """Say whether a chat request succeeds now."""
    try:
        return client.post(url, json=body, timeout=60).status_code == 200
    except httpx.ConnectError:
        return False
