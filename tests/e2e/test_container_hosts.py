"""Hosts whose queen and hive are containers: Podman's through Quadlet, Docker's as units, beside a bare host."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.streams import Asking, Stream
from tests.e2e.test_changes import MOST_COMMANDS, changes
from tests.e2e.test_container_workers import QUESTION, STORE
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

ENGINES = ("podman", "docker")
MOST_WAIT = 15.0
"""Seconds; a queen who waits for her streams, or for one that waits for hers, takes twenty and more."""

ROLES = {"podman": ("queen", "hive"), "docker": ("hive",)}


@pytest.fixture(scope="module")
def fleet(smol_model: Path) -> Iterator[Fleet]:
    """Give a Podman host with queen and hive, a Docker host and a bare one, each with a real model of its own."""
    images = lab_images()
    with Lab.create("housed") as lab:
        made = Fleet(lab)
        made.options |= {"images": str(images), "drain_seconds": 60}
        for engine in ENGINES:
            machine = lab.add_host(engine, image="containers")
            made.declare(machine, mode="container", engine=engine, queen=engine == "podman")
        made.declare(lab.add_host("bare", image="containers"))
        made.give_models(smol_model)
        # Longer than systemd waits for a main process to end.
        made.models["long"] = {
            "name": "long",
            "source": "fake:tokens_per_s=3,slots=8,tokens=100",
            "slots": 8,
            "hosts": ["bare"],
        }
        try:
            made.deploy()
            settled(made)
            # Images bring their engines; a host that was bare once keeps that of its time.
            for engine in ENGINES:
                assert lab.hosts[engine].run("ls /opt/rbee/engines").stdout == ""
            yield made
        finally:
            made.close()


def settled(fleet: Fleet) -> None:
    """Wait until every worker serves."""
    for name in fleet.hosts:
        fleet.wait_ready(f"smol-{name}")
    fleet.wait_ready("slow", len(fleet.hosts))


def answer(fleet: Fleet, host: str) -> str:
    """Return what the real model on a host says."""
    asked = fleet.client().chat.completions.create(
        model=f"smol-{host}", messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
    )
    return asked.choices[0].message.content or ""


def inspect(host: LabHost, engine: str, container: str) -> dict[str, Any]:
    """Return what the engine says of a container."""
    found: list[dict[str, Any]] = json.loads(host.run(f"{engine} inspect {container}").stdout)
    return found[0]


def names(host: LabHost, engine: str, beginning: str = "rbee-") -> dict[str, str]:
    """Return the id of each running container whose name begins so."""
    said = host.run(f"{engine} ps --no-trunc --format '{{{{.Names}}}} {{{{.ID}}}}'").stdout
    found = dict(line.split()[:2] for line in said.splitlines())
    return {name: identity for name, identity in found.items() if name.startswith(beginning)}


def test_each_way_gives_the_same_answer(fleet: Fleet) -> None:
    """One command brought up hosts of three ways, and a greedy answer is the same from each."""
    answers = {host: answer(fleet, host) for host in fleet.hosts}
    assert answers["bare"]
    assert len(set(answers.values())) == 1
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        found = names(host, engine)
        assert {f"rbee-{role}" for role in ROLES[engine]} <= found.keys()
        assert len([name for name in found if name.startswith("rbee-worker-")]) == 2


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    """The same command again reports zero changes, needs at most three remote commands a host, and reloads nothing."""
    loads = {engine: units_loaded(fleet.lab.hosts[engine]) for engine in ENGINES}
    before = {engine: names(fleet.lab.hosts[engine], engine) for engine in ENGINES}
    again = fleet.deploy("--json")
    assert changes(again) == {}
    counts = [
        int(line.split("remote command")[0].split()[-1]) for line in again.errors.splitlines() if "remote" in line
    ]
    assert max(counts) <= MOST_COMMANDS
    assert {engine: names(fleet.lab.hosts[engine], engine) for engine in ENGINES} == before
    assert {engine: units_loaded(fleet.lab.hosts[engine]) for engine in ENGINES} == loads


def units_loaded(host: LabHost) -> str:
    """Return when systemd last read its unit files."""
    return host.run("systemctl show -p UnitsLoadFinishTimestampMonotonic").stdout


@pytest.mark.parametrize(("engine", "role"), [(engine, role) for engine in ENGINES for role in ROLES[engine]])
def test_what_is_in_a_container_can_do_nothing_else(fleet: Fleet, engine: str, role: str) -> None:
    """Queen and hive have no right, write to their own folders alone, and see no socket of an engine."""
    host = fleet.lab.hosts[engine]
    found = inspect(host, engine, f"rbee-{role}")
    status = host.run(f"cat /proc/{found['State']['Pid']}/status").stdout
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert fields["Uid"].split() == [host.run(f"id -u rbee-{role}").stdout.strip()] * 4
    assert (fields["CapEff"].strip(), fields["NoNewPrivs"].strip()) == ("0" * 16, "1")
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["Privileged"] is False
    written = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
    own = {f"/var/lib/rbee/{role}", f"/run/rbee-{role}", *((STORE,) if role == "hive" else ())}
    assert written - {"/tmp"} == own
    # What the guard hands to workers is not even to be listed.
    inside = set(host.run(f"{engine} exec rbee-{role} find /run -type s", check=False).stdout.split())
    told = {"podman": {"/run/notify/notify.sock"}, "docker": {"/run/rbee-unit/notify.sock"}}[engine]
    assert inside - told == ({"/run/rbee-guard/engine.sock"} if role == "hive" else set())


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_a_hive_that_is_killed_comes_back_to_its_workers(fleet: Fleet, engine: str) -> None:
    """No stream is cut and no worker started anew when the hive's container is killed; its workers are not below it."""
    host = fleet.lab.hosts[engine]
    before = names(host, engine, "rbee-worker-")
    for identity in before.values():
        pid = host.run(f"{engine} inspect --format '{{{{.State.Pid}}}}' {identity}").stdout.strip()
        assert "rbee-hive" not in host.run(f"cat /proc/{pid}/cgroup").stdout
    undisturbed = Stream(fleet).begin().end().text
    streams = [Stream(fleet).begin() for _ in range(6)]
    old = names(host, engine, "rbee-hive")
    host.run(f"{engine} kill --signal KILL rbee-hive")
    assert {stream.end().text for stream in streams} == {undisturbed}
    assert [stream.error for stream in streams] == [""] * len(streams)
    wait_for("another hive", lambda: names(host, engine, "rbee-hive").items() - old.items())
    settled(fleet)
    assert names(host, engine, "rbee-worker-") == before


def test_a_queen_that_restarts_refuses_nobody(fleet: Fleet) -> None:
    """Open streams end as they would have, in the container that leaves, and new requests are answered meanwhile."""
    host = fleet.queen
    undisturbed = Stream(fleet).begin().end().text
    streams = [Stream(fleet).begin() for _ in range(4)]
    with Asking(fleet) as asking:
        # Looked for meanwhile: on a busy machine the streams may be over by the time that the restart is.
        host.run("systemctl restart --no-block rbee-queen")
        wait_for("the one that leaves", lambda: names(host, "podman", "rbee-queen-leaving-"))
        wait_for("its successor", lambda: host.run("systemctl is-active rbee-queen", check=False).returncode == 0)
        for _ in range(2):
            time.sleep(0.5)
            host.run("systemctl restart rbee-queen")
    assert asking.failures == []
    assert {stream.end().text for stream in streams} == {undisturbed}
    wait_for("the end of those that leave", lambda: not names(host, "podman", "rbee-queen-leaving-"))
    assert host.run("systemctl show rbee-queen -p Result,NRestarts").stdout.split() == ["Result=success", "NRestarts=0"]


def test_another_image_replaces_everything_and_cuts_nothing(fleet: Fleet) -> None:
    """Images of another id come to every host while requests go on, and every answer is whole; a rollback undoes it."""
    undisturbed = Stream(fleet).begin().end().text
    former = fleet.options["images"], {engine: _images(fleet.lab.hosts[engine], engine) for engine in ENGINES}
    fleet.options["images"] = str(lab_images("another"))
    streams = [Stream(fleet).begin() for _ in range(4)]
    with Asking(fleet) as asking:
        fleet.deploy()
    assert asking.failures == []
    assert {stream.end().text for stream in streams} == {undisturbed}
    settled(fleet)
    for engine in ENGINES:
        wanted = json.loads((Path(fleet.options["images"]) / "images.json").read_text())["images"]
        assert _images(fleet.lab.hosts[engine], engine) <= {image["id"] for image in wanted}
        assert not _images(fleet.lab.hosts[engine], engine) & former[1][engine]
    assert changes(fleet.deploy("--json")) == {}
    _rolled_back(fleet, *former)


def _rolled_back(fleet: Fleet, folder: str, images: dict[str, set[str]]) -> None:
    """See the images of before run again after a rollback, which is all that the inventory of before asks for."""
    done = fleet.rbee_deploy("rollback", "--json")
    assert done.code == 0, done.errors
    assert json.loads(done.output)["result"]["targets"].keys() == images.keys()
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        wait_for("the images of before", lambda host=host, engine=engine: _images(host, engine) == images[engine])  # type: ignore[misc]
    settled(fleet)
    fleet.options["images"] = folder
    assert changes(fleet.deploy("--json")) == {}


def _images(host: LabHost, engine: str) -> set[str]:
    """Return the ids of the images that containers of ours run."""
    said = host.run(
        f"{engine} ps --quiet --filter name=rbee- | xargs {engine} inspect --format '{{{{.Image}}}}'"
    ).stdout
    return {f"sha256:{line.removeprefix('sha256:')}" for line in said.split()}


def test_a_reboot_brings_everything_back(fleet: Fleet) -> None:
    """After a reboot of every host its models answer again."""
    for machine in fleet.lab.hosts.values():
        machine.reboot()
    for name in fleet.hosts:
        wait_for("an answer", lambda name=name: _answers(fleet, name))  # type: ignore[misc]
    settled(fleet)
    assert changes(fleet.deploy("--json")) == {}


def _answers(fleet: Fleet, host: str) -> bool:
    import openai  # noqa: PLC0415 - a second of imports

    try:
        return bool(answer(fleet, host))
    except openai.OpenAIError:
        return False


@pytest.mark.full
def test_one_word_takes_a_host_round_the_ring(fleet: Fleet) -> None:
    """Bare, Podman, Docker and back: the model is the same file with the same content, and every way answers alike."""
    host, files = fleet.lab.hosts["bare"], f"cd {STORE}/blobs && stat -c '%i %s %n' * && sha256sum *"
    before, wanted = host.run(files).stdout, answer(fleet, "podman")
    ways: tuple[dict[str, str], ...] = (
        {"mode": "container", "engine": "podman"},
        {"mode": "container", "engine": "docker"},
        {"mode": "bare"},
    )
    for way in ways:
        fleet.hosts["bare"] |= way
        fleet.deploy()
        fleet.wait_ready("smol-bare")
        assert answer(fleet, "bare") == wanted
        assert changes(fleet.deploy("--json")) == {}
        in_containers = way["mode"] == "container"
        for engine in ENGINES:
            mine = in_containers and way.get("engine") == engine
            assert bool(names(host, engine)) == mine, f"{way} {engine}"
    assert host.run(files).stdout == before
    # Nothing that was handed over stays at an engine, nor a copy in memory.
    assert host.run("podman secret ls --quiet").stdout == ""
    assert host.run("ls /run/rbee/ | grep -- -", check=False).stdout == ""
    settled(fleet)


@pytest.mark.full
def test_the_queen_changes_how_she_runs_and_cuts_nothing(fleet: Fleet) -> None:
    """Her host goes from Podman to bare, to Docker and back; streams end in what leaves, nobody is refused."""
    undisturbed = Stream(fleet).begin().end().text
    for way in ({"mode": "bare"}, {"mode": "container", "engine": "docker"}, {"engine": "podman"}):
        # Workers of this host end when their way of running does; those of others serve on.
        fleet.models["slow"]["hosts"] = ["docker", "bare"]
        fleet.deploy()
        streams = [Stream(fleet).begin() for _ in range(4)]
        long = Stream(fleet, model="long").begin()
        fleet.hosts["podman"] |= way
        with Asking(fleet) as asking:
            fleet.deploy()
        assert asking.failures == [], way
        assert asking.slowest < MOST_WAIT, way
        assert {stream.end().text for stream in streams} == {undisturbed}, way
        assert (long.end().error, long.finish) == ("", "length"), way
        fleet.wait_ready("smol-podman")
        assert answer(fleet, "podman")
    del fleet.models["slow"]["hosts"]
    fleet.deploy()
    settled(fleet)


def test_a_restart_of_docker_brings_hive_and_workers_back(fleet: Fleet) -> None:
    """Docker ends all its containers with its daemon, and nobody asked the hive to end."""
    host = fleet.lab.hosts["docker"]
    before = names(host, "docker")
    host.run("systemctl restart docker.service")
    wait_for("other containers", lambda: not (names(host, "docker").items() & before.items()))
    wait_for("an answer", lambda: _answers(fleet, "docker"))
    assert host.run("systemctl is-active rbee-hive").stdout.strip() == "active"
    settled(fleet)


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_the_target_stops_everything(fleet: Fleet, engine: str) -> None:
    """`systemctl stop rbee.target` ends every container of the host, and starting it brings them back."""
    host = fleet.lab.hosts[engine]
    host.run("systemctl stop rbee.target")
    wait_for("the end of containers", lambda: not names(host, engine))
    host.run("systemctl start rbee.target")
    wait_for("an answer", lambda: _answers(fleet, engine))
    settled(fleet)


def test_purging_a_host_leaves_nothing_at_its_engine(fleet: Fleet) -> None:
    """No container, network or image of ours stays; applying brings all back.

    Not the queen's host: a queen who begins anew is another one to her hives.
    """
    host = fleet.lab.hosts["docker"]
    done = fleet.rbee_deploy("purge", "docker", "--yes")
    assert done.code == 0, done.errors
    assert host.run("docker ps --all --quiet; docker network ls --quiet --filter name=rbee").stdout == ""
    assert host.run("docker images --quiet --filter label=org.opencontainers.image.title").stdout == ""
    assert host.run("ls /etc/containers/systemd /etc/systemd/system | grep rbee", check=False).stdout == ""
    assert host.run("ls -d /run/rbee* /etc/rbee /opt/rbee", check=False).stdout == ""
    fleet.deploy()
    settled(fleet)


PERSON = "person"
WITH_A_PERSON = f"""
getent passwd {PERSON} || useradd --create-home --shell /bin/bash {PERSON}
grep -q '^{PERSON}:' /etc/subuid || usermod --add-subuids 400000-465535 --add-subgids 400000-465535 {PERSON}
loginctl enable-linger {PERSON}
"""


@pytest.mark.one_of
@pytest.mark.parametrize(("engine", "user"), [("podman", "root"), ("docker", "root"), ("podman", PERSON)])
def test_a_queen_of_one_machine_runs_in_a_container(fleet: Fleet, smol_model: Path, engine: str, user: str) -> None:
    """`start-queen --container` serves a real and a scripted model with no rights at all, and `stop-queen` ends it."""
    host = fleet.lab.hosts["bare"]
    (image,) = lab_images().glob("rbee-queen-*.tar")
    host.put(image.read_bytes(), "/srv/queen.tar")
    host.put(smol_model.read_bytes(), "/srv/smol.gguf")
    host.run(WITH_A_PERSON)
    # Of two engines on PATH the keeper would take Podman.
    alone = "/srv/docker-alone"
    host.run(f"mkdir -p {alone} && ln -sf $(command -v docker) {alone}/")
    path = f"PATH=/opt/rbee/current/bin:{alone if engine == 'docker' else '$PATH'}"

    def run(command: str, *, check: bool = True) -> str:
        return host.run(f"{path} {command}", check=check, timeout=180, user=user).stdout.strip()

    run(f"{engine} load -i /srv/queen.tar")
    models = "--model text=fake:tokens=3 --model smol=file:/srv/smol.gguf --engines-dir /opt/rbee/engines"
    run(f"rbee-keeper start-queen --container --detach --attached-hive {models}")
    try:
        wait_for("its workers", lambda: run("rbee-keeper workers", check=False).count(" ready ") == 2)
        assert run("rbee-keeper chat text hello") == "tok0 tok1 tok2"
        assert run(f"rbee-keeper chat smol '{QUESTION}'")
        pid = run(f"{engine} inspect --format '{{{{.State.Pid}}}}' rbee-queen")
        status = host.run(f"cat /proc/{pid}/status").stdout
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert (fields["CapEff"].strip(), fields["NoNewPrivs"].strip()) == ("0" * 16, "1")
        assert fields["Uid"].split() == [host.run(f"id -u {user}").stdout.strip()] * 4
        assert run(f"{engine} inspect --format '{{{{.HostConfig.ReadonlyRootfs}}}}' rbee-queen") == "true"
    finally:
        stopped = run("rbee-keeper stop-queen --container")
    assert stopped == "the queen's container is stopped"
    assert "rbee-queen" not in run(f"{engine} ps --all --format '{{{{.Names}}}}'")
    assert run("rbee-keeper stop-queen --container") == "no queen runs in a container here"
    run(f"{engine} image rm $({engine} images --quiet localhost/rbee-queen)")
