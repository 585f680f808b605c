"""A host whose queen, hive and workers are containers of a Podman without root, beside a bare one that tries it too."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.activator.engines import ROOTLESS as ROOTLESS_ENGINE
from rbee_deploy.activator.engines import in_shell
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.streams import Asking, Stream
from tests.e2e.test_changes import changes
from tests.e2e.test_container_workers import NETWORK, QUESTION, STORE, TRY
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

PODMAN = "podman --remote --url unix:///run/rbee-podman/podman.sock"
ROOTLESS = {"mode": "container", "engine": "podman", "rootless": True}
USERS = ("rbee-queen", "rbee-hive", "rbee-worker")


@pytest.fixture(scope="module")
def fleet(smol_model: Path) -> Iterator[Fleet]:
    """Give a queen's host without root and a bare one, each with a real model of its own."""
    images = lab_images()
    with Lab.create("rootless") as lab:
        made = Fleet(lab)
        made.options |= {"images": str(images), "drain_seconds": 60}
        made.declare(lab.add_host("box", image="containers"), queen=True, **ROOTLESS)
        made.declare(lab.add_host("bare", image="containers"))
        made.give_models(smol_model)
        made.models["slow"]["hosts"] = ["box"]
        try:
            made.deploy()
            settled(made)
            yield made
        finally:
            made.close()


@pytest.fixture
def box(fleet: Fleet) -> LabHost:
    """Give the host without root."""
    return fleet.lab.hosts["box"]


def settled(fleet: Fleet) -> None:
    """Wait until every worker serves."""
    for name in fleet.hosts:
        fleet.wait_ready(f"smol-{name}")
    fleet.wait_ready("slow")


def answer(fleet: Fleet, host: str) -> str:
    """Return what the real model on a host says, "" while it says nothing."""
    import openai  # noqa: PLC0415 - a second of imports

    try:
        asked = fleet.client().chat.completions.create(
            model=f"smol-{host}", messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
        )
    except openai.OpenAIError:
        return ""
    return asked.choices[0].message.content or ""


def names(host: LabHost, beginning: str = "rbee-") -> dict[str, str]:
    """Return the id of each running container whose name begins so."""
    said = host.run(f"{PODMAN} ps --no-trunc --format '{{{{.Names}}}} {{{{.ID}}}}'").stdout
    found = dict(line.split()[:2] for line in said.splitlines())
    return {name: identity for name, identity in found.items() if name.startswith(beginning)}


def inspect(host: LabHost, container: str) -> dict[str, Any]:
    """Return what Podman says of a container."""
    found: list[dict[str, Any]] = json.loads(host.run(f"{PODMAN} inspect {container}").stdout)
    return found[0]


def test_it_answers_as_a_bare_host_does(fleet: Fleet, box: LabHost) -> None:
    """Queen, hive and two workers are containers there, root's own Podman has none, and a greedy answer is the same."""
    assert answer(fleet, "box")
    assert answer(fleet, "box") == answer(fleet, "bare")
    found = names(box)
    assert {"rbee-queen", "rbee-hive"} < found.keys()
    assert len([name for name in found if name.startswith("rbee-worker-")]) == 2
    assert box.run("podman ps --all --quiet; podman images --quiet").stdout == ""


def test_a_second_run_changes_nothing(fleet: Fleet, box: LabHost) -> None:
    """The same command again reports zero changes, and the same containers run."""
    before = names(box)
    assert changes(fleet.deploy("--json")) == {}
    assert names(box) == before


def test_each_is_the_same_user_of_the_host_as_ever_and_without_rights(box: LabHost) -> None:
    """Files keep their owners from one way to another, and what keeps containers has no right of root's either."""
    ids = {name: box.run(f"id -u {name}").stdout.strip() for name in (*USERS, "rbee-engine")}
    found = names(box)
    wanted = {name: ids[next(user for user in USERS if name.startswith(user))] for name in found}
    for name, uid in wanted.items():
        pid = inspect(box, name)["State"]["Pid"]
        status = box.run(f"cat /proc/{pid}/status").stdout
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert fields["Uid"].split() == [uid] * 4
        assert (fields["CapEff"].strip(), fields["NoNewPrivs"].strip()) == ("0" * 16, "1")
        assert "rbee-hive.service" not in box.run(f"cat /proc/{pid}/cgroup").stdout
    # Those of units that attend to a container only speak to it.
    running = [line.split(maxsplit=1) for line in box.run("ps -ewwo uid=,args=").stdout.splitlines()]
    for program in ("podman system service", "conmon ", "rootlessport", "pasta"):
        owners = {owner for owner, words in running if program in words and "--remote" not in words}
        assert owners == {ids["rbee-engine"]}, program


def test_from_a_worker_nothing_is_reached(fleet: Fleet, box: LabHost) -> None:
    """Neither its host by any address nor another worker, another host or the internet; and all the time it answers."""
    workers = {name: inspect(box, name) for name in names(box, "rbee-worker-")}
    joined = {name: found["NetworkSettings"]["Networks"][NETWORK] for name, found in workers.items()}
    ports = [int(port.partition("/")[0]) for found in workers.values() for port in found["HostConfig"]["PortBindings"]]
    hosts = ["127.0.0.1", "169.254.1.1", "169.254.1.2", *(host.address for host in fleet.lab.hosts.values())]
    for name, network in joined.items():
        near = [other["IPAddress"] for other in joined.values() if other is not network]
        addresses = [*hosts, network["Gateway"], *near]
        # Its own port is its own.
        tried = [(to, port) for to in addresses for port in (22, 53, 8500, 8501, 8600, 9999, *ports) if to != hosts[0]]
        words = ("exec", name, "/opt/rbee/current/bin/python", "-c", TRY, json.dumps([*tried, ("192.0.2.1", 80)]))
        said = json.loads(box.run(f"{PODMAN} {shlex.join(words)}").stdout)
        assert {to: how for to, how in zip(tried, said, strict=False) if how} == {}
    assert answer(fleet, "box")


def test_without_its_rules_no_worker_starts(fleet: Fleet, box: LabHost) -> None:
    """The guard says so while workers serve on, and the next apply brings back rules and worker."""
    before = names(box, "rbee-worker-")
    box.run("systemctl stop rbee-network")
    first = next(iter(before))
    box.run(f"{PODMAN} rm --force --time=0 {first}")
    refused = "rules that keep workers from this host are not in force"
    wait_for("a refusal", lambda: refused in str(fleet.admin("workers")))
    assert set(names(box, "rbee-worker-")) == set(before) - {first}
    fleet.deploy()
    wait_for("another container", lambda: set(names(box, "rbee-worker-")) == set(before))
    settled(fleet)
    assert changes(fleet.deploy("--json")) == {}


def test_rules_that_somebody_took_away_come_back(fleet: Fleet, box: LabHost) -> None:
    """The next apply sees that they are gone, brings them back and restarts no worker."""
    before = names(box, "rbee-worker-")
    inside = 'nsenter --net="/proc/$(cat /run/rbee-network/holder)/ns/net" nft'
    box.run(f"{inside} flush ruleset")
    assert "rbee-network.service has lost its rules" in fleet.rbee_deploy("plan").errors
    fleet.deploy()
    assert "table inet rbee-workers" in box.run(f"{inside} list tables").stdout
    assert names(box, "rbee-worker-") == before


@pytest.mark.one_of
@pytest.mark.parametrize(
    "kill", [f"{PODMAN} kill --signal KILL rbee-hive", "systemctl kill --signal KILL --kill-whom main rbee-hive"]
)
def test_a_hive_that_is_killed_comes_back_to_its_workers(fleet: Fleet, box: LabHost, kill: str) -> None:
    """No stream is cut and no worker started anew when the hive's container, or what attends to it, is killed."""
    undisturbed = Stream(fleet).begin().end().text
    before, old = names(box, "rbee-worker-"), names(box, "rbee-hive")
    streams = [Stream(fleet).begin() for _ in range(4)]
    box.run(kill)
    assert {stream.end().text for stream in streams} == {undisturbed}
    assert [stream.error for stream in streams] == [""] * len(streams)
    wait_for("another hive", lambda: names(box, "rbee-hive").items() - old.items())
    settled(fleet)
    assert names(box, "rbee-worker-") == before


def test_podman_s_api_may_start_anew(fleet: Fleet, box: LabHost) -> None:
    """Its containers run on, queen and hive stay where they are, and the hive hears of its workers again."""
    before = names(box)
    stream = Stream(fleet).begin()
    box.run("systemctl restart rbee-podman")
    assert stream.end().error == ""
    wait_for("an answer", lambda: answer(fleet, "box"))
    assert names(box) == before


def test_a_queen_that_restarts_refuses_nobody(fleet: Fleet, box: LabHost) -> None:
    """Open streams end in the container that leaves, and new requests are answered meanwhile."""
    undisturbed = Stream(fleet).begin().end().text
    streams = [Stream(fleet).begin() for _ in range(4)]
    with Asking(fleet) as asking:
        # Looked for meanwhile: on a busy machine the streams may be over by the time that the restart is.
        box.run("systemctl restart --no-block rbee-queen")
        wait_for("the one that leaves", lambda: names(box, "rbee-queen-leaving-"))
        wait_for("its successor", lambda: box.run("systemctl is-active rbee-queen", check=False).returncode == 0)
    assert asking.failures == []
    assert {stream.end().text for stream in streams} == {undisturbed}
    wait_for("the end of the one that leaves", lambda: not names(box, "rbee-queen-leaving-"))


@pytest.mark.full
def test_a_reboot_brings_everything_back(fleet: Fleet, box: LabHost) -> None:
    """After a reboot the host answers again, and there is nothing to deploy."""
    box.reboot()
    wait_for("an answer", lambda: answer(fleet, "box"))
    settled(fleet)
    assert changes(fleet.deploy("--json")) == {}


@pytest.mark.full
def test_one_word_takes_a_host_round_the_ring(fleet: Fleet) -> None:
    """Bare, rootless, root's Podman and back: the model's files stay the same, and every way answers alike."""
    host, files = fleet.lab.hosts["bare"], f"cd {STORE}/blobs && stat -c '%i %U %s %n' * && sha256sum *"
    before, wanted = host.run(files).stdout, answer(fleet, "bare")
    for way in (ROOTLESS, {"rootless": False}, {"mode": "bare"}):
        fleet.hosts["bare"] |= way
        fleet.deploy()
        fleet.wait_ready("smol-bare")
        assert answer(fleet, "bare") == wanted, way
    assert changes(fleet.deploy("--json")) == {}
    assert host.run(files).stdout == before
    assert host.run(f"{in_shell(ROOTLESS_ENGINE)} ps --all --quiet").stdout == ""


def test_purging_a_host_leaves_no_user_behind(fleet: Fleet) -> None:
    """Where workers alone are containers as well: no container, image, user or lent id stays, and all comes back.

    What others run with the numbers of the engine's users goes on, and the purge names it. Not the queen's host: a
    queen who begins anew is another one to her hives.
    """
    host, wanted = fleet.lab.hosts["bare"], answer(fleet, "bare")
    fleet.hosts["bare"] |= {"worker_runtime": "container", "engine": "podman", "rootless": True}
    fleet.deploy()
    fleet.wait_ready("smol-bare")
    assert answer(fleet, "bare") == wanted
    assert names(host).keys() == names(host, "rbee-worker-smol-bare").keys() != set()
    host.run("for user in engine worker; do systemd-run --uid=rbee-$user --unit=others-$user sleep infinity; done")
    host.run("podman run --detach --name=others --network=none --user=$(id -u rbee-engine) --rootfs /:O sleep infinity")
    others = wait_for("all", lambda: pids if len(pids := host.run("pgrep -x sleep").stdout.split()) == 3 else None)
    of_engine_s = host.run("pgrep -d ' ' -u rbee-engine -x sleep").stdout.strip()
    done = fleet.rbee_deploy("purge", "bare", "--yes")
    assert done.code == 0, done.errors
    assert host.run("pgrep -x sleep").stdout.split() == others
    assert re.search(rf"user rbee-engine is removed; .* run on: {of_engine_s}$", done.output, re.MULTILINE)
    host.run("podman rm --force --time=0 others; systemctl stop others-engine others-worker")
    assert host.run("find /etc -maxdepth 1 -name resolv.conf -type f -empty").stdout == ""
    assert host.run("getent passwd rbee-engine; grep rbee /etc/subuid /etc/subgid", check=False).stdout == ""
    assert host.run("ls /var/lib/systemd/linger /var/lib/rbee/engine | grep rbee", check=False).stdout == ""
    assert host.run("ps -ef | grep -E '[c]onmon|[p]asta|podman [s]ystem'", check=False).stdout == ""
    fleet.hosts["bare"] |= {"worker_runtime": "process", "rootless": False}
    fleet.deploy()
    settled(fleet)
