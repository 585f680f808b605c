"""Models that a host fetches itself: from a gated hub with the inventory's token, and from a web address."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_deploy.model_files import describe
from tests.e2e.fleets import Fleet
from tests.e2e.test_changes import changes
from tests.e2e.test_restarts import settled_pids, worker_pids
from tests.e2e.test_secrets import PLACES
from tests.lab import Lab, LabHost
from tests.unit.models.sources.hub import Hub
from tests.unit.models.sources.servers import Server

pytestmark = pytest.mark.lab

TOKEN = "hf_e2eCanaryOfTheRemoteModels"
TOKEN_FILE = "/etc/rbee/credentials/hf-token"
BLOBS = "/var/lib/rbee/models/blobs"
CACHE = "/home/somebody/hub"


@dataclass
class Remote:
    """A fleet of one host, and what `plan` said of it before its first deploy."""

    fleet: Fleet
    planned: str

    @property
    def box(self) -> LabHost:
        return self.fleet.lab.hosts["box"]


@pytest.fixture(scope="module")
def remote(smol_model: Path) -> Iterator[Remote]:
    """Give one host that is queen and hive; a hub and a web server on this machine have its models."""
    content = smol_model.read_bytes()
    files = {"smol.gguf": content, "copy.gguf": content + b"\n", "ahead.gguf": content + b"\n\n"}
    hub = Hub(files, gated=True, accepted=True, token=TOKEN)
    with (
        Lab.create("remote") as lab,
        Server(hub.answer, address=lab.gateway).running() as hubbed,
        Server(hub.content, address=lab.gateway).running() as web,
    ):
        fleet = Fleet(lab, environment={"E2E_HF_TOKEN": TOKEN})
        fleet.options["hf_token"] = "E2E_HF_TOKEN"
        store = {"plain_http_hosts": [lab.gateway], "hf_endpoint": hubbed.url, "spare": "100 MiB", "hf_caches": [CACHE]}
        box = lab.add_host("box")
        box.run(f"mkdir -p {CACHE}; chmod 700 /home/somebody")
        fleet.declare(box, queen=True, store=store, devices=[{"name": "made-up0", "memory": "24 GiB"}])
        fleet.models["gated"] = {"name": "gated", "source": "hf:acme/bee:smol*.gguf", "context": 512}
        fleet.models["web"] = {"name": "web", "source": f"{web.url}/smol.gguf", "context": 512, "pin": True}
        planned = fleet.rbee_deploy("plan").errors
        fleet.deploy()
        try:
            yield Remote(fleet, planned)
        finally:
            fleet.close()


def ready(fleet: Fleet) -> None:
    """Wait until both models serve."""
    for name in ("gated", "web"):
        fleet.wait_ready(name)


@pytest.mark.parametrize("model", ["gated", "web"])
def test_a_fetched_model_answers(remote: Remote, model: str) -> None:
    """A model that the inventory names by hub or web address comes up by itself and answers through the queen."""
    remote.fleet.wait_ready(model)
    answer = remote.fleet.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=4
    )
    assert answer.choices[0].message.content


def test_the_content_is_right(remote: Remote, smol_model: Path) -> None:
    """What came is one file for both models, with the content that the servers have; other tests bring other files."""
    ready(remote.fleet)
    found = remote.box.run(f"find {BLOBS} -type f -exec sha256sum {{}} +").stdout.splitlines()
    assert {line.split("sha256-")[1] for line in found} == {line.split()[0] for line in found}
    assert sum(describe(f"file:{smol_model}").sha256 in line for line in found) == 1


def test_a_cache_in_a_home_folder_is_used_in_place(remote: Remote, smol_model: Path) -> None:
    """A model in a declared cache under /home is served from there: a link leads to it, which the worker follows."""
    ready(remote.fleet)
    name = hashlib.sha256(smol_model.read_bytes() + b"\n").hexdigest()
    held, given = f"{CACHE}/models--acme--bee/blobs", describe(f"file:{smol_model}").sha256
    remote.box.run(f"mkdir -p {held} && cd {held} && cat {BLOBS}/sha256-{given} >new && echo >>new && mv new {name}")
    remote.fleet.models["cached"] = {"name": "cached", "source": "hf:acme/bee:copy.gguf", "context": 512}
    try:
        remote.fleet.deploy()
        remote.fleet.wait_ready("cached")
        assert remote.box.run(f"readlink {BLOBS}/sha256-{name}").stdout.strip() == f"{held}/{name}"
    finally:
        del remote.fleet.models["cached"]
        remote.fleet.deploy()
        settled_pids(remote.fleet, remote.box)
        remote.box.run(f"rm -rf {CACHE}/models--acme--bee")


def pids(box: LabHost) -> list[str]:
    """Return the main processes of queen and hive."""
    return box.run("systemctl show -p MainPID --value rbee-queen.service rbee-hive.service").stdout.split()


def test_a_preseed_has_the_host_fetch_before_anything_goes_over(remote: Remote, smol_model: Path) -> None:
    """What is sure to run on a host is there, hashed, the hive's own, while queen and hive run on as they were."""
    ready(remote.fleet)
    box, wanted = remote.box, hashlib.sha256(smol_model.read_bytes() + b"\n\n").hexdigest()
    before = pids(box)
    remote.fleet.models["ahead"] = {"name": "ahead", "source": "hf:acme/bee:ahead.gguf", "context": 512}
    try:
        seeded = remote.fleet.rbee_deploy("preseed")
        assert seeded.code == 0, seeded.errors
        blob = f"{BLOBS}/sha256-{wanted}"
        assert box.run(f"sha256sum {blob}; stat -c '%U %a' {blob}").stdout.split() == [wanted, blob, "rbee-hive", "640"]
        assert pids(box) == before
        again = remote.fleet.rbee_deploy("preseed").errors
        assert re.search(r"^box +stage +0\.\d s +unchanged$", again, re.MULTILINE), again
        remote.fleet.deploy()
        remote.fleet.wait_ready("ahead")
    finally:
        del remote.fleet.models["ahead"]
        remote.fleet.deploy()
        settled_pids(remote.fleet, box)


def test_a_model_that_cannot_be_fetched_ahead_stops_the_host_in_its_stage(remote: Remote) -> None:
    """With preseed=True the host stays as it is, and the report has the model and what its source said."""
    ready(remote.fleet)
    before = pids(remote.box)
    remote.fleet.models["lost"] = {"name": "lost", "source": "hf:acme/bee:lost*.gguf", "preseed": True}
    try:
        done = remote.fleet.rbee_deploy("apply")
    finally:
        del remote.fleet.models["lost"]
        remote.fleet.deploy()
    assert done.code == 1
    assert "cannot be fetched ahead: model lost" in done.errors
    assert TOKEN not in done.errors
    assert pids(remote.box) == before


@pytest.mark.parametrize(("command", "shown"), [("models", "gated"), ("models", "web"), ("devices", "made-up0")])
def test_the_keeper_shows_what_was_declared(remote: Remote, command: str, shown: str) -> None:
    """`rbee-keeper` lists the fetched models and the made-up device."""
    ready(remote.fleet)
    environment = {**os.environ, "RBEE_URL": remote.fleet.url, "RBEE_API_KEY": remote.fleet.api_key}
    program = str(Path(sys.executable).parent / "rbee-keeper")
    done = subprocess.run([program, command], env=environment, capture_output=True, text=True, check=True, timeout=30)
    assert shown in done.stdout


def test_the_plan_says_who_fetches(remote: Remote) -> None:
    """Before the first deploy `plan` names the models that the hive gets itself; once they are there it is silent."""
    assert "fetches" in remote.planned
    assert "gated from hf:acme/bee:smol*.gguf" in remote.planned
    ready(remote.fleet)
    again = remote.fleet.rbee_deploy("plan").errors
    assert "unchanged" in again
    assert "gated from" not in again


def test_a_second_run_changes_nothing(remote: Remote) -> None:
    """The same command again reports zero changes, whatever the hive fetched since."""
    ready(remote.fleet)
    assert changes(remote.fleet.deploy("--json")) == {}


def test_the_token_stays_with_root_and_the_hive(remote: Remote) -> None:
    """The token is in one file of root and in the hive's memory: no other file, journal or process list shows it."""
    ready(remote.fleet)
    box = remote.box
    assert box.run(f"stat -c '%a %U' {TOKEN_FILE}").stdout.split() == ["600", "root"]
    places = f"{PLACES} /run/credentials/rbee-queen.service /run/credentials/rbee-worker@*"
    search = f"grep -rlaF --exclude-dir=credentials -f /dev/stdin {places} 2>/dev/null"
    found = box.run(search, check=False, input=TOKEN + "\n").stdout
    seen = box.run("journalctl --no-pager -o cat; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ", check=False).stdout
    assert found == ""
    assert TOKEN not in seen


def test_a_dropped_token_is_gone(remote: Remote) -> None:
    """Without the token in the inventory its file and its line in the unit go, the hive restarts and workers go on."""
    fleet, box = remote.fleet, remote.box
    ready(fleet)
    workers, hive = settled_pids(fleet, box), box.run("systemctl show rbee-hive -p MainPID").stdout
    del fleet.options["hf_token"]
    try:
        fleet.deploy()
        assert not box.run(f"ls {TOKEN_FILE} 2>/dev/null; grep hf-token /etc/systemd/system/*", check=False).stdout
        assert box.run("systemctl show rbee-hive -p MainPID").stdout != hive
        assert worker_pids(box) == workers
    finally:
        fleet.options["hf_token"] = "E2E_HF_TOKEN"
        fleet.deploy()
