"""A server that is on a host already becomes a worker of the queen."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleets import Fleet, small_fleet, wait_for
from tests.e2e.test_changes import daemon_pids

pytestmark = [pytest.mark.lab, pytest.mark.full]

SERVER = Path(__file__).resolve().parent.parent / "openai_server.py"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give a deployed queen without models and a host with a server that somebody started there."""
    with small_fleet("adopt") as made:
        made.hosts["gpu1"]["engines"] = []
        made.deploy()
        made.lab.hosts["gpu1"].put(SERVER.read_bytes(), "/srv/server.py")
        serve(made, "127.0.0.1")
        yield made


def serve(fleet: Fleet, address: str) -> None:
    """Have somebody's server listen on an address, under the name that a real one has."""
    gpu = fleet.lab.hosts["gpu1"]
    command = f"exec -a llama-server /usr/bin/python3 /srv/server.py --host {address} --log /srv/log"
    gpu.run("systemctl stop theirs 2>/dev/null || true")
    gpu.run(f"systemd-run --unit theirs --collect bash -c {command!r}")
    wait_for("somebody's server", lambda: "8080" in gpu.run("ss -Hltn").stdout)


def test_a_server_is_found_declared_and_serves(fleet: Fleet) -> None:
    """Adopt prints its line and what to change first; with the line in the inventory, apply makes it a worker."""
    local = fleet.rbee_deploy("adopt", "gpu1")
    assert local.code == 0, local.errors
    assert "gpu1: llama-server on port 8080: /srv/models/tiny.gguf" in local.output
    assert "the queen on queen cannot reach it: start it with --host 0.0.0.0" in local.output
    serve(fleet, "0.0.0.0")
    (row,) = json.loads(fleet.rbee_deploy("adopt", "gpu1", "--json").output)["result"]["found"]
    assert (row["loopback"], row["remarks"]) == (False, [])
    before = daemon_pids(fleet.queen)
    fleet.external = [row["line"]]
    fleet.deploy()
    fleet.wait_ready("tiny")
    answer = fleet.client().chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    assert (answer.choices[0].message.content, answer.model) == ("hi", "/srv/models/tiny.gguf")
    assert daemon_pids(fleet.queen) == before
    assert fleet.api_key not in fleet.lab.hosts["gpu1"].run("cat /srv/log").stdout
    again = fleet.rbee_deploy("adopt", "gpu1")
    assert "is external 'gpu1-llama-server' already" in again.output


def test_where_nothing_is_that_is_said(fleet: Fleet) -> None:
    """A host without such a server is one sentence and exit status 1, as is one that the inventory does not have."""
    nothing = fleet.rbee_deploy("adopt", "queen")
    assert (nothing.code, nothing.output) == (1, "")
    assert "queen: nothing that speaks OpenAI's API answers there" in nothing.errors
    unknown = fleet.rbee_deploy("adopt", "gpu9")
    assert (unknown.code, "has no host gpu9; it has queen, gpu1" in unknown.errors) == (1, True)
