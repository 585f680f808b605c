"""Bare hosts whose workers are containers, one of each engine, in one fleet with a host whose workers are processes."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.images import manifest
from rbee_deploy.images.kinds import Kind
from rbee_runtime.worker_bridge import NO_RESOLVER, TABLES
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.streams import Stream
from tests.e2e.test_changes import MOST_COMMANDS, changes, daemon_pids
from tests.lab import Lab, LabHost
from tests.unit.deploy.test_units import EXPOSURE

pytestmark = pytest.mark.lab

ENGINES = ("podman", "docker")
QUESTION = "Name three colours, please."
STORE = "/var/lib/rbee/models"


@pytest.fixture(scope="module")
def fleet(smol_model: Path) -> Iterator[Fleet]:
    """Give a queen's host with process workers, a Podman and a Docker host, each with a real model of its own."""
    images = lab_images()
    with Lab.create("contained") as lab:
        made = Fleet(lab)
        made.options |= {"images": str(images)}
        made.declare(lab.add_host("bare"), queen=True)
        for engine in ENGINES:
            made.declare(lab.add_host(engine, image="containers"), worker_runtime="container", engine=engine)
        made.give_models(smol_model)
        made.models["slow"]["hosts"] = list(ENGINES)
        try:
            made.deploy()
            for name in made.hosts:
                made.wait_ready(f"smol-{name}")
            made.wait_ready("slow", 2)
            for engine in ENGINES:
                # The image brings the engine: nothing of it is installed on the host.
                assert made.lab.hosts[engine].run("ls /opt/rbee/engines").stdout == ""
            yield made
        finally:
            made.close()


def answer(fleet: Fleet, host: str) -> str:
    """Return what the real model on a host says."""
    asked = fleet.client().chat.completions.create(
        model=f"smol-{host}", messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
    )
    return asked.choices[0].message.content or ""


def containers(host: LabHost) -> dict[str, str]:
    """Return the state of each worker's container, as the engine's own command shows it."""
    said = host.run(f"{host.name} ps --all --format '{{{{.Names}}}} {{{{.State}}}}'").stdout
    found = dict(line.split()[:2] for line in said.splitlines())
    return {name: state for name, state in found.items() if name.startswith("rbee-worker-")}


def inspect(host: LabHost, container: str) -> dict[str, Any]:
    """Return what the engine says of a container."""
    found: list[dict[str, Any]] = json.loads(host.run(f"{host.name} inspect {container}").stdout)
    return found[0]


def running(host: LabHost) -> dict[str, int]:
    """Return the process of each worker's container."""
    return {name: inspect(host, name)["State"]["Pid"] for name, state in containers(host).items() if state == "running"}


NETWORK = "rbee-workers"
TRY = """
import concurrent.futures, json, socket, sys

def reach(target):
    try:
        socket.create_connection((target[0], target[1]), timeout=1).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return ""
    return "open"

targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(reach, targets))))
"""
"""Who refuses a connection was reached as well."""


def targets_of(fleet: Fleet, host: LabHost, container: str) -> list[tuple[str, int]]:
    """Return where a worker must not get: its host, its gateway, its neighbours, other hosts, the internet."""
    around = {name: inspect(host, name) for name in running(host)}
    joined = {name: found["NetworkSettings"]["Networks"][NETWORK] for name, found in around.items()}
    published = [int(port.partition("/")[0]) for each in around.values() for port in each["HostConfig"]["PortBindings"]]
    own = host.run(f"ip -6 -o addr show dev {NETWORK} scope link").stdout.split()
    link_local = [word.partition("/")[0] + "%eth0" for word in own if word.startswith("fe80:")]
    hosts = [*host.run("hostname -I").stdout.split(), joined[container]["Gateway"], *link_local]
    hosts += [other.address for other in fleet.lab.hosts.values()]
    neighbours = [joined[name]["IPAddress"] for name in around if name != container]
    ports = [22, 80, 8500, 8501, 8600, 9999, *published]
    assert neighbours
    return [*((address, port) for address in dict.fromkeys([*hosts, *neighbours]) for port in ports), ("192.0.2.1", 80)]


def reached(fleet: Fleet, host: LabHost) -> dict[str, str]:
    """Return what workers of a host reach although they should not, by worker and target."""
    found: dict[str, str] = {}
    for container in running(host):
        targets = targets_of(fleet, host, container)
        words = ("exec", container, "/opt/rbee/current/bin/python", "-c", TRY, json.dumps(targets))
        said = json.loads(host.run(f"{host.name} {shlex.join(words)}").stdout)
        found |= {f"{container} {to[0]} {to[1]}": how for to, how in zip(targets, said, strict=True) if how}
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_from_a_worker_nothing_is_reached(fleet: Fleet, engine: str) -> None:
    """Neither its host nor another worker, another host or the internet; and all the time it answers."""
    host = fleet.lab.hosts[engine]
    assert reached(fleet, host) == {}
    if engine == "docker":
        # Its own resolver asks those of the host in the host's network, where no rule holds.
        assert [inspect(host, name)["HostConfig"]["Dns"] for name in running(host)] == [[NO_RESOLVER]] * 2
    assert answer(fleet, engine) == answer(fleet, "bare")


@pytest.mark.one_of
@pytest.mark.parametrize(("engine", "neighbours"), [("podman", True), ("docker", False)])
def test_rules_that_somebody_took_away_come_back(fleet: Fleet, engine: str, neighbours: bool) -> None:
    """Without them a worker reaches its hive; the next apply sees that, brings them back and restarts no worker."""
    host = fleet.lab.hosts[engine]
    before = running(host)
    for table in TABLES:
        host.run(f"nft delete table {table}")
    addresses = {inspect(host, name)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"] for name in before}
    lost = reached(fleet, host)
    assert [how for target, how in lost.items() if target.endswith(" 8600")].count("open") > 0
    # Docker has a rule of its own against this.
    assert any(target.split()[1] in addresses for target in lost) is neighbours
    assert "rbee-network.service has lost its rules" in fleet.rbee_deploy("plan").errors
    assert changes(fleet.deploy("--json")) != {}
    assert reached(fleet, host) == {}
    assert running(host) == before


@pytest.mark.one_of
@pytest.mark.parametrize(
    "edit",
    [
        "nft flush chain inet rbee-workers input",
        "nft insert rule inet rbee-workers forward accept",
        "nft add table bridge rbee-workers '{ flags dormant; }'",
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_rules_that_somebody_changed_come_back(fleet: Fleet, engine: str, edit: str) -> None:
    """A chain that is emptied, a rule before ours and a table asleep are seen, put right, and restart no worker."""
    host = fleet.lab.hosts[engine]
    before = running(host)
    host.run(edit)
    assert "rules in force are not those of /etc/rbee/workers.nft" in fleet.rbee_deploy("plan").errors
    assert engine in changes(fleet.deploy("--json"))
    assert changes(fleet.deploy("--json")) == {}
    assert running(host) == before


@pytest.mark.one_of
@pytest.mark.parametrize(("engine", "verb"), [("podman", "restart"), ("docker", "reload")])
def test_no_worker_starts_where_rules_cannot_be_put_in_force(fleet: Fleet, engine: str, verb: str) -> None:
    """The guard says so while workers serve on, and the next apply brings back the rules and the worker."""
    host = fleet.lab.hosts[engine]
    before = running(host)
    host.run(f"echo broken >/etc/rbee/workers.nft; systemctl {verb} rbee-network", check=False)
    first = next(iter(before))
    host.run(f"{engine} rm --force {first}")
    refused = "rules that keep workers from this host are not in force"
    wait_for("a refusal", lambda: refused in str(fleet.admin("workers")))
    assert set(running(host)) == set(before) - {first}
    fleet.deploy()
    wait_for("another container", lambda: set(running(host)) == set(before) and running(host) != before)
    wait_for("an answer", lambda: _answers(fleet, engine))


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_a_firewall_that_starts_anew_leaves_workers_kept_in(fleet: Fleet, engine: str) -> None:
    """The distribution's own flushes all rules at its start and reload, and ours are there again after it."""
    host = fleet.lab.hosts[engine]
    for verb in ("restart", "reload"):
        host.run(f"systemctl {verb} nftables")
        wait_for(
            "our tables", lambda: host.run("nft list tables | grep -c rbee-workers", check=False).stdout.strip() == "2"
        )
        assert reached(fleet, host) == {}
    # What it flushed of the engine's own, which leads to published ports, only the engine brings back.
    host.run({"podman": "podman network reload --all", "docker": "systemctl restart docker"}[engine])
    wait_for("an answer", lambda: len(running(host)) == 2 and _answers(fleet, engine))
    assert reached(fleet, host) == {}


@pytest.mark.one_of
@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
def test_what_a_docker_beside_podman_dropped_is_let_through_again(fleet: Fleet, program: str) -> None:
    """Plan says when its chain has lost rules for workers; apply brings them back by either iptables, for good."""
    host = fleet.lab.hosts["podman"]
    used = host.run("readlink -f $(command -v iptables)").stdout.strip()
    chain, jump = "DOCKER-USER", "FORWARD -j DOCKER-USER"
    before = running(host)
    try:
        host.run(f"update-alternatives --set iptables /usr/sbin/{program}")
        # As a Docker does that starts; the rules of the other iptables are not seen by this one.
        host.run(f"iptables -w -N {chain}; iptables -w -F {chain}; iptables -w -I {jump}", check=False)
        assert "Docker on this host forwards nothing to workers of Podman" in fleet.rbee_deploy("plan").errors
        fleet.deploy()
        assert host.run(f"iptables -w -S {chain} | grep -c rbee-workers").stdout.strip() == "2"
        assert "forwards nothing" not in fleet.rbee_deploy("plan").errors
    finally:
        host.run(f"iptables -w -D {jump}; update-alternatives --set iptables {used}; systemctl reload rbee-network")
    assert running(host) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_the_guard_knows_the_share_of_memory(fleet: Fleet, engine: str) -> None:
    """In its own unit, which hides what tells of the host, the most that a worker may have is the same as elsewhere."""
    host, drop_in = fleet.lab.hosts[engine], "/run/systemd/system/rbee-guard.service.d/say.conf"
    limit = "from rbee_runtime import worker_limits; print('limit', worker_limits.memory(None), flush=True)"
    python = "/opt/rbee/current/bin/python"
    outside = host.run(f'{python} -I -c "{limit}"').stdout
    host.put(f'[Service]\nExecStartPre={python} -I -c "{limit}"\n', drop_in)
    try:
        host.run("systemctl daemon-reload && systemctl restart rbee-guard")
        inside = host.run("journalctl --no-pager -o cat -u rbee-guard | grep ^limit").stdout
    finally:
        host.run(f"rm {drop_in} && systemctl daemon-reload && systemctl restart rbee-guard")
    assert inside == outside
    assert int(inside.split()[1]) > 0


def test_all_three_give_the_same_answer(fleet: Fleet) -> None:
    """One command brought up a process and containers of two engines, and a greedy answer is the same from each."""
    answers = {host: answer(fleet, host) for host in fleet.hosts}
    assert answers["bare"]
    assert len(set(answers.values())) == 1
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        assert set(containers(host).values()) == {"running"}
        assert len(containers(host)) == 2
        assert host.run("systemctl list-units --no-legend 'rbee-worker@*'").stdout == ""


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    """The same command again reports zero changes and needs at most three remote commands a host."""
    before = [running(fleet.lab.hosts[engine]) for engine in ENGINES]
    again = fleet.deploy("--json")
    assert changes(again) == {}
    counts = [
        int(line.split("remote command")[0].split()[-1]) for line in again.errors.splitlines() if "remote" in line
    ]
    assert max(counts) <= MOST_COMMANDS
    assert [running(fleet.lab.hosts[engine]) for engine in ENGINES] == before


@pytest.mark.parametrize("engine", ENGINES)
def test_neither_hive_nor_worker_gets_to_the_engine(fleet: Fleet, engine: str) -> None:
    """The hive reaches the guard and not the engine; workers are another user, without rights, and see neither."""
    host = fleet.lab.hosts[engine]
    sockets = {"podman": "/run/podman/podman.sock", "docker": "/run/docker.sock"}
    ask = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('in')"
    tries = {
        path: host.run(f'runuser -u rbee-hive -- python3 -c "{ask}" {path}', check=False).stdout.strip()
        for path in (sockets[engine], "/run/rbee-guard/engine.sock")
    }
    assert tries == {sockets[engine]: "", "/run/rbee-guard/engine.sock": "in"}
    worker = host.run("id -u rbee-worker").stdout.strip()
    for name, pid in running(host).items():
        status = host.run(f"cat /proc/{pid}/status").stdout
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert fields["Uid"].split() == [worker] * 4
        assert (fields["CapEff"].strip(), fields["NoNewPrivs"].strip()) == ("0" * 16, "1")
        mounted = {mount["Destination"]: mount for mount in inspect(host, name)["Mounts"]}
        assert not [place for place, mount in mounted.items() if mount["RW"] and place != "/tmp"]
        assert not [mount for mount in mounted.values() if "sock" in mount.get("Source", "")]


@pytest.mark.parametrize(("engine", "logs"), [("podman", ("journald", None)), ("docker", ("json-file", "8m"))])
def test_the_guard_says_what_nobody_else_does(fleet: Fleet, engine: str, logs: tuple[str, str | None]) -> None:
    """A container bears the guard's own mark, bounded logs, and no GPU for images that ask for all of them."""
    host = fleet.lab.hosts[engine]
    for name in running(host):
        found = inspect(host, name)
        kept = found["HostConfig"]["LogConfig"]
        assert len(found["Config"]["Labels"]["rbee.guard"]) == 32
        assert "NVIDIA_VISIBLE_DEVICES=void" in found["Config"]["Env"]
        assert (kept["Type"], (kept.get("Config") or {}).get("max-size")) == logs


WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_mounted_below_models_takes_nothing(fleet: Fleet, engine: str) -> None:
    """A worker writes to no disk below its folder of models, though that takes files of everybody."""
    host, disk = fleet.lab.hosts[engine], f"{STORE}/disk"
    host.run(f"mkdir {disk} && mount -t tmpfs -o mode=1777 tmpfs {disk}")
    try:
        before = running(host)
        first = next(iter(before))
        host.run(f"{engine} rm --force {first}")
        wait_for("another container", lambda: running(host).get(first, before[first]) != before[first])
        wait_for("an answer", lambda: _answers(fleet, engine))
        words = ("exec", first, "/opt/rbee/current/bin/python", "-c", WRITE, f"{disk}/x")
        inside = host.run(f"{engine} {shlex.join(words)}", check=False)
        seen = host.run(f"grep -c ' {disk} ' /proc/{running(host)[first]}/mountinfo", check=False).stdout.strip()
        outside = host.run(f"runuser -u rbee-worker -- touch {disk}/y", check=False)
    finally:
        host.run(f"umount --lazy {disk} && rmdir {disk}")
    assert "Read-only file system" in inside.stderr
    assert seen == {"podman": "0", "docker": "1"}[engine]
    assert outside.returncode == 0, outside.stderr


@pytest.mark.parametrize("unit", ["rbee-guard.service", "rbee-network.service", "rbee-workers.service"])
def test_the_host_s_own_systemd_calls_units_closed(fleet: Fleet, unit: str) -> None:
    """A newer systemd than that of the machine that deploys gives them no worse a score."""
    path = f"/etc/systemd/system/{unit}"
    fleet.lab.hosts["podman"].run(
        f"systemd-analyze security --no-pager --offline=true --threshold={EXPOSURE[unit]} {path}"
    )


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_a_hive_that_restarts_takes_over_its_containers(fleet: Fleet, engine: str) -> None:
    """Restarting hive and guard cuts no stream and starts no worker again."""
    host = fleet.lab.hosts[engine]
    undisturbed = Stream(fleet).begin().end().text
    before = running(host)
    streams = [Stream(fleet).begin() for _ in range(4)]
    host.run("systemctl restart rbee-guard rbee-hive")
    texts = {stream.end().text for stream in streams}
    assert [stream.error for stream in streams] == [""] * len(streams)
    assert texts == {undisturbed}
    wait_for("the hive", lambda: fleet.wait_ready(f"smol-{engine}"))
    assert running(host) == before


@pytest.mark.full
def test_a_reboot_brings_everything_back(fleet: Fleet) -> None:
    """After a reboot of both hosts their models answer again, each from one container of this boot."""
    for engine in ENGINES:
        fleet.lab.hosts[engine].reboot()
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        wait_for("an answer", lambda engine=engine: _answers(fleet, engine))  # type: ignore[misc]
        wait_for("both workers", lambda host=host: len(running(host)) == 2)  # type: ignore[misc]
        assert set(containers(host).values()) == {"running"}
        assert reached(fleet, host) == {}


def _answers(fleet: Fleet, host: str) -> bool:
    import openai  # noqa: PLC0415 - a second of imports

    try:
        return bool(answer(fleet, host))
    except openai.OpenAIError:
        return False


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
def test_one_word_changes_how_workers_run(fleet: Fleet, engine: str) -> None:
    """Containers become processes and processes containers; models stay the same files, and other hosts as they are."""
    host, others = fleet.lab.hosts[engine], [fleet.lab.hosts[name] for name in fleet.hosts if name != engine]
    files = f"find {STORE}/blobs -type f -printf '%i %s %p\\n' | sort"
    before, stay = host.run(files).stdout, [daemon_pids(other) for other in others]
    fleet.hosts[engine]["worker_runtime"] = "process"
    fleet.deploy()
    fleet.wait_ready(f"smol-{engine}")
    assert (answer(fleet, engine), containers(host)) == (answer(fleet, "bare"), {})
    units = host.run("systemctl list-units --all --no-legend 'rbee-*'").stdout
    assert "rbee-worker@" in units
    assert "rbee-guard" not in units
    assert "rbee-workers" not in host.run("nft list tables").stdout
    fleet.hosts[engine]["worker_runtime"] = "container"
    fleet.deploy()
    fleet.wait_ready(f"smol-{engine}")
    assert answer(fleet, engine) == answer(fleet, "bare")
    assert set(containers(host).values()) == {"running"}
    assert host.run("systemctl list-units --all --no-legend 'rbee-worker@*'").stdout == ""
    assert (host.run(files).stdout, [daemon_pids(other) for other in others]) == (before, stay)


@pytest.mark.full
def test_one_word_changes_the_engine(fleet: Fleet) -> None:
    """Podman's containers end and Docker's begin on a host that has both, and back; no worker is left on the other."""
    host = fleet.lab.hosts["podman"]
    for engine, other in (("docker", "podman"), ("podman", "docker")):
        fleet.hosts["podman"]["engine"] = engine
        fleet.deploy()
        wait_for("an answer", lambda: _answers(fleet, "podman"))
        assert host.run(f"{other} ps --all --quiet --filter label=rbee.worker").stdout == ""
        assert len(host.run(f"{engine} ps --quiet --filter label=rbee.worker").stdout.split()) == 2
        let_through = host.run("iptables -w -S DOCKER-USER | grep -c rbee-workers", check=False).stdout.strip()
        assert let_through == {"docker": "0", "podman": "2"}[engine]


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_the_target_stops_containers_too(fleet: Fleet, engine: str) -> None:
    """`systemctl stop rbee.target` ends every worker of the host, and starting it brings them back."""
    host = fleet.lab.hosts[engine]
    host.run("systemctl stop rbee.target")
    wait_for("the end of workers", lambda: "running" not in containers(host).values())
    host.run("systemctl start rbee.target")
    wait_for("an answer", lambda: _answers(fleet, engine))


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_purging_a_host_leaves_nothing_at_its_engine(fleet: Fleet, engine: str) -> None:
    """No container, network or image of ours stays, and somebody else's container does; applying brings all back."""
    host, image = fleet.lab.hosts[engine], image_of(fleet)
    host.run(f"{engine} create --name somebody --entrypoint /bin/true {image} && {engine} tag {image} mine:1")
    done = fleet.rbee_deploy("purge", engine, "--yes")
    assert done.code == 0, done.errors
    assert containers(host) == {}
    assert "somebody" in host.run(f"{engine} ps --all --format '{{{{.Names}}}}'").stdout
    assert "rbee-workers" not in host.run(f"{engine} network ls --format '{{{{.Name}}}}'").stdout
    assert "rbee-workers" not in host.run("nft list tables").stdout
    host.run(f"{engine} rm somebody; {engine} rmi mine:1")
    fleet.deploy()
    wait_for("an answer", lambda: _answers(fleet, engine))


def image_of(fleet: Fleet) -> str:
    """Return the id of the workers' image."""
    return manifest.read(Path(fleet.options["images"])).of(Kind.WORKER_LLAMA_CPP, "x86_64").id
