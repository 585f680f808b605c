"""vLLM, llama.cpp's server and one that the inventory describes, on a Debian 12 host, started by its hive."""

import re
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from rbee_deploy.artefacts import Target
from rbee_deploy.engines import build_engine
from rbee_deploy.local import DEFAULT_VARIANT
from tests import served_engines
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.test_changes import changes
from tests.lab import Lab, LabHost
from tests.safetensors_model import safetensors_model
from tests.unit.models.sources.hub import Hub
from tests.unit.models.sources.servers import Server

pytestmark = pytest.mark.lab

HOST = Target(python="3.11", arch="x86_64", glibc="2.36")
LOAD_SECONDS = 600.0
"""vLLM needs 70 s on two idle processors."""

DEPLOY_SECONDS = 900.0
"""Its packages are two gigabytes."""

ENGINES = ("vllm", "llama-server", "some-server")


@pytest.fixture(scope="module")
def fleet(smol_model: Path) -> Iterator[Fleet]:
    """Give a host that has all three, and a model for each; vLLM's comes from a hub."""
    if why := served_engines.missing("vllm"):
        pytest.skip(why)
    files = {path.name: path.read_bytes() for path in safetensors_model().iterdir()}
    hub = Hub(files)
    with Lab.create("served") as lab, Server(hub.answer, address=lab.gateway).running() as hubbed:
        fleet = Fleet(lab, seconds=DEPLOY_SECONDS)
        store = {"plain_http_hosts": [lab.gateway], "hf_endpoint": hubbed.url, "spare": "100 MiB"}
        fleet.declare(lab.add_host("box", image="bookworm"), queen=True, store=store, engines=list(ENGINES))
        program = f"/opt/rbee/engines/{build_engine('llama-server', DEFAULT_VARIANT, HOST).id}"
        command = [
            *(f"{program}/llama-server", "--model", "{model}", "--alias", "{name}", "--parallel", "{slots}"),
            *("--ctx-size", "1024", "--host", "127.0.0.1", "--port", "{port}", "--api-key", "{key}", "--no-webui"),
        ]
        fleet.options["command_engines"] = [
            {"name": "some-server", "command": command, "environment": {"LD_LIBRARY_PATH": program}}
        ]
        for engine in ENGINES:
            source = "hf:acme/bee" if engine == "vllm" else f"file:{smol_model}"
            fleet.models[engine] = {"name": engine, "source": source, "engine": engine, "context": 512, "slots": 2}
        fleet.deploy()
        try:
            yield fleet
        finally:
            fleet.close()


@pytest.fixture
def box(fleet: Fleet) -> LabHost:
    """Return the host, on which every model is ready."""
    for engine in ENGINES:
        fleet.wait_ready(engine, seconds=LOAD_SECONDS)
    return fleet.queen


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_answers_through_the_queen(fleet: Fleet, box: LabHost, engine: str) -> None:
    """The same words from each of them, whole and streamed: it is the same model."""
    ask = fleet.client().chat.completions.create
    box.run(f"systemctl is-active 'rbee-worker@{engine}-*'")
    whole = ask(model=engine, messages=[{"role": "user", "content": "Name a colour."}], max_tokens=8, temperature=0)
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in ask(
            model=engine,
            messages=[{"role": "user", "content": "Name a colour."}],
            max_tokens=8,
            temperature=0,
            stream=True,
        )
    ]
    assert whole.choices[0].message.content == "".join(pieces)
    assert len(pieces) > 4
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8


def test_a_second_run_changes_nothing(fleet: Fleet, box: LabHost) -> None:
    """Engines of packages, of a program and of a few words are there as a whole, and nothing is restarted."""
    before = box.run("systemctl show -P MainPID 'rbee-worker@*'").stdout
    assert changes(fleet.deploy("--json")) == {}
    assert box.run("systemctl show -P MainPID 'rbee-worker@*'").stdout == before


def test_only_fronts_listen_to_others(box: LabHost) -> None:
    """Whatever servers open among themselves is a unix socket or on loopback."""
    listening = box.run("ss -Hltn").stdout.splitlines()
    open_ports = {int(line.split()[3].rpartition(":")[2]) for line in listening if not _on_loopback(line)}
    own = {22, 8500, 8501, 8600}
    assert open_ports - own <= set(range(9000, 9100))
    assert len(open_ports - own) == len(ENGINES)


def _on_loopback(line: str) -> bool:
    return line.split()[3].rpartition(":")[0] in {"127.0.0.1", "[::1]", "127.0.0.53%lo", "127.0.0.54"}


def test_a_server_knows_none_of_the_worker_s_secrets(box: LabHost) -> None:
    """Its variables have no credentials and no socket of the service manager."""
    pids = box.run("pgrep -f '[s]erve .*--uds|[l]lama-server .*--host'").stdout.split()
    told = box.run("".join(f"tr '\\0' '\\n' </proc/{pid}/environ; " for pid in pids)).stdout
    assert told.count("HF_HUB_OFFLINE=1") >= len(ENGINES)
    assert not re.search("CREDENTIALS_DIRECTORY|NOTIFY_SOCKET|RBEE_", told)


def test_a_server_that_is_killed_is_one_error_and_comes_back(fleet: Fleet, box: LabHost) -> None:
    """Kill -9 of the server in the midst of an answer: one error, the hive's log says why, and it serves again."""
    ask = fleet.client().chat.completions.create
    stream = ask(model="llama-server", messages=[{"role": "user", "content": "Tell a story."}], stream=True)
    next(iter(stream))
    box.run("pkill -KILL -f '[l]lama-server .*engine.sock'")
    with pytest.raises(openai.APIError, match="engine of this model failed"):
        list(stream)
    wait_for("the reason", lambda: "ended by SIGKILL" in box.run("journalctl -u 'rbee-worker@*' -o cat").stdout)
    fleet.wait_ready("llama-server", seconds=LOAD_SECONDS)
    assert ask(model="llama-server", messages=[{"role": "user", "content": "Hi"}], max_tokens=2).choices
