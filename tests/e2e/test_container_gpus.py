"""Cards in containers: made-up cards and CDI specifications on hosts of Podman and Docker show who is given what."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.test_changes import changes
from tests.e2e.test_container_hosts import inspect, names, units_loaded
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

ENGINES = ("podman", "docker")
CARDS = tuple(f"GPU-5e1a0a10-0000-4000-8000-00000000000{number}" for number in range(3))
SPEC = "/var/run/cdi/nvidia.yaml"
STALE = "/etc/cdi/old.yaml"

# As NVIDIA's own unit of this name: in memory, anew at each boot, and after everything that the host comes up with.
REFRESH = """\
[Unit]
Description=Made-up cards
After=multi-user.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'sleep 3; mkdir -p /var/run/cdi; cp /srv/nvidia.yaml /var/run/cdi/nvidia.yaml'
[Install]
WantedBy=multi-user.target
"""


def specification() -> str:
    """Return what tells engines of the cards; each is a file in /dev and a variable, under index, id and with all."""
    edits: list[dict[str, list[Any]]] = [
        {"env": [f"CARD_{number}=given"], "deviceNodes": [{"path": f"/dev/card{number}", "hostPath": "/dev/null"}]}
        for number in range(len(CARDS))
    ]
    everything = {key: [item for each in edits for item in each[key]] for key in ("env", "deviceNodes")}
    given = [*zip("012", edits, strict=True), *zip(CARDS, edits, strict=True), ("all", everything)]
    devices = [{"name": name, "containerEdits": edit} for name, edit in given]
    # JSON is YAML too.
    return json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices}, indent=1)


def recording() -> dict[str, Any]:
    """Return what NVIDIA's library would say of the cards."""
    size = 24 << 30
    gpus = [
        {"index": number, "uuid": uuid, "name": "NVIDIA Made Up", "memory": {"total": size, "used": 0}, "processes": []}
        for number, uuid in enumerate(CARDS)
    ]
    raw = {"driver": "570.133.20", "cuda": 12080, "kernel": "570.133.20", "gpus": gpus}
    return {"driver": "nvidia", "captured_with": "made up", "readings": [{"kind": "nvidia", "raw": raw}]}


def furnish(root: Path) -> None:
    """Give a host's tree what writes its specification at each boot, and a Docker that looks for one."""
    (root / "srv/nvidia.yaml").write_text(specification())
    (root / "etc/docker").mkdir(exist_ok=True)
    (root / "etc/docker/daemon.json").write_text('{"features": {"cdi": true}}\n')
    units = root / "etc/systemd/system"
    (units / "nvidia-cdi-refresh.service").write_text(REFRESH)
    (units / "multi-user.target.wants/nvidia-cdi-refresh.service").symlink_to("../nvidia-cdi-refresh.service")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Give a Podman and a Docker host with three cards each, on two of which a worker serves."""
    cards = tmp_path_factory.mktemp("cards") / "cards.json"
    cards.write_text(json.dumps(recording()))
    with Lab.create("gpus") as lab:
        made = Fleet(lab)
        made.options["images"] = str(lab_images())
        for engine in ENGINES:
            machine = lab.add_host(engine, image="containers", prepare=furnish)
            made.declare(
                machine, mode="container", engine=engine, queen=engine == "podman", recording=str(cards), engines=[]
            )
            made.models[engine] = {"name": engine, "source": "fake:", "hosts": [engine], "replicas": 2}
        try:
            made.deploy()
            settled(made)
            yield made
        finally:
            made.close()


def settled(fleet: Fleet) -> None:
    """Wait until every worker serves."""
    for engine in ENGINES:
        fleet.wait_ready(engine, 2)


def running(fleet: Fleet, engine: str) -> dict[str, str]:
    """Return the workers' containers that run on a host, none while its engine does not answer."""
    said = fleet.lab.hosts[engine].run("systemctl is-active rbee-hive", check=False).stdout
    return names(fleet.lab.hosts[engine], engine, "rbee-worker-") if said.strip() == "active" else {}


def given(host: LabHost, container: str) -> tuple[set[str], set[str]]:
    """Return the cards by whose variables and by whose files the process of a container was given them."""
    pid = inspect(host, host.name, container)["State"]["Pid"]
    words = host.run(f"tr '\\0' '\\n' </proc/{pid}/environ; ls /proc/{pid}/root/dev").stdout.split()
    known = dict(enumerate(CARDS))
    variables = {uuid for number, uuid in known.items() if f"CARD_{number}=given" in words}
    return variables, {uuid for number, uuid in known.items() if f"card{number}" in words}


def spread(fleet: Fleet) -> None:
    """Check that each worker has the one card that it was placed on, and each hive all of them."""
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        rows = fleet.wait_ready(engine, 2)
        placed = {f"rbee-worker-{row['id']}": set(row["devices"]) for row in rows}
        assert sorted(len(devices) for devices in placed.values()) == [1, 1]
        assert len(set().union(*placed.values())) == 2
        assert {name: given(host, name) for name in placed} == {name: (own, own) for name, own in placed.items()}
        assert given(host, "rbee-hive") == (set(CARDS), set(CARDS))


def test_each_worker_is_given_the_cards_that_it_was_placed_on(fleet: Fleet) -> None:
    """A worker sees the card of its placement and no other, a hive every card, a queen none."""
    spread(fleet)
    assert given(fleet.queen, "rbee-queen") == (set(), set())


def test_a_second_run_changes_and_reloads_nothing(fleet: Fleet) -> None:
    """The same command again changes nothing, has systemd read nothing anew, and leaves every container."""
    hosts = [fleet.lab.hosts[engine] for engine in ENGINES]
    before = [(units_loaded(host), names(host, host.name)) for host in hosts]
    assert changes(fleet.deploy("--json")) == {}
    assert [(units_loaded(host), names(host, host.name)) for host in hosts] == before


def test_a_boot_waits_for_the_list_of_cards(fleet: Fleet) -> None:
    """NVIDIA's list is made last of all at a boot: hives and workers come after it, and nothing goes in a circle."""
    for engine in ENGINES:
        fleet.lab.hosts[engine].reboot()
    # Until hives are heard the queen tells of the workers that there were.
    for engine in ENGINES:
        wait_for("workers", lambda engine=engine: len(running(fleet, engine)) == 2)  # type: ignore[misc]
    settled(fleet)
    spread(fleet)
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        assert host.run("systemctl is-active rbee.target multi-user.target").stdout.split() == ["active", "active"]
        assert "ordering cycle" not in host.run("journalctl --boot --no-pager _PID=1").stdout


def test_a_card_that_no_specification_names_is_a_sentence(fleet: Fleet) -> None:
    """Its worker says which device there is none of, and starts by itself once the list has it."""
    hosts, free = {engine: fleet.lab.hosts[engine] for engine in ENGINES}, dict[str, str]()
    for engine, host in hosts.items():
        used = {uuid for row in fleet.wait_ready(engine, 2) for uuid in row["devices"]}
        (free[engine],) = set(CARDS) - used
        host.run(f"sed -i 's/{free[engine]}/GPU-gone/' {SPEC}")
        fleet.models[f"{engine}-more"] = {"name": f"{engine}-more", "source": "fake:", "hosts": [engine]}
    try:
        fleet.deploy(check=False)
        for engine in ENGINES:
            said = wait_for("a sentence", lambda engine=engine: problem(fleet, f"{engine}-more"))  # type: ignore[misc]
            assert f"unresolvable CDI devices nvidia.com/gpu={free[engine]}" in said
            assert "\n" not in said
        for engine, host in hosts.items():
            host.run(f"cp /srv/nvidia.yaml {SPEC}")
            (row,) = fleet.wait_ready(f"{engine}-more")
            assert given(host, f"rbee-worker-{row['id']}") == ({free[engine]}, {free[engine]})
    finally:
        for engine, host in hosts.items():
            host.run(f"cp /srv/nvidia.yaml {SPEC}")
            del fleet.models[f"{engine}-more"]
        fleet.deploy()
        for engine in ENGINES:
            wait_for("their end", lambda engine=engine: len(running(fleet, engine)) == 2)  # type: ignore[misc]


def problem(fleet: Fleet, model: str) -> str:
    """Return what is wrong with the worker of a model."""
    return next((row["detail"] for row in fleet.admin("workers") if row["model"] == model), "")


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_specification_is_a_sentence(fleet: Fleet, engine: str) -> None:
    """A file that an older toolkit left is named with what to do, and stops nothing."""
    host = fleet.lab.hosts[engine]
    host.run(f"mkdir -p /etc/cdi && cp /srv/nvidia.yaml {STALE}")
    try:
        planned = fleet.rbee_deploy("plan")
        assert planned.code == 0
        said = f"{STALE} and {SPEC} each describe its NVIDIA cards to containers; remove the one that nothing refreshes"
        assert [line.count(said) for line in (planned.output + planned.errors).splitlines() if said in line] == [1]
    finally:
        host.run(f"rm {STALE}")
