"""One fleet with a host of every kind behind one queen: bare, Podman, Podman without root, Docker, workers alone."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.activator.engines import ROOTLESS, in_shell
from rbee_deploy.images import manifest
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.streams import Stream, Streaming
from tests.e2e.test_changes import MOST_COMMANDS, changes, daemon_pids
from tests.e2e.test_container_workers import QUESTION, STORE
from tests.lab import Lab, LabHost

pytestmark = [pytest.mark.lab, pytest.mark.full]

KINDS: dict[str, dict[str, Any]] = {
    "bare": {"mode": "bare"},
    "podman": {"mode": "container", "engine": "podman"},
    "rootless": {"mode": "container", "engine": "podman", "rootless": True},
    "docker": {"mode": "container", "engine": "docker"},
    "workers": {"worker_runtime": "container", "engine": "podman"},
}
"""What a host's line says, in the order in which they go round; hosts are called by the kind that they are at first."""

QUEEN = "bare"
RUNS = {
    "bare": {"unit rbee-worker"},
    "podman": {"podman rbee-hive", "podman rbee-worker"},
    "rootless": {"rootless rbee-hive", "rootless rbee-worker"},
    "docker": {"docker rbee-hive", "docker rbee-worker"},
    "workers": {"podman rbee-worker"},
}
"""What of hives and workers runs on a host of a kind, and by what; a hive that is a unit alone is none of them."""

LISTED = f"""
list() {{ "$@" ps --no-trunc --format '{{{{.Names}}}} {{{{.ID}}}}' | sed "s/^/$name /"; }}
name=podman; list podman
name=docker; if systemctl --quiet is-active docker; then list docker; fi
name=rootless; if getent passwd rbee-engine >/dev/null; then list {in_shell(ROOTLESS)}; fi
for unit in $(systemctl list-units --plain --no-legend --state=running 'rbee-worker@*' | cut -d ' ' -f 1); do
    echo "unit $unit $(systemctl show -p MainPID --value "$unit")"
done
"""
"""One line for each: what runs it, its name and what is another one after a restart. It wakes no Docker."""

FILES = f"cd {STORE}/blobs && stat -c '%i %U %s %n' * && sha256sum *"
LOADED = "systemctl show -p UnitsLoadFinishTimestampMonotonic"
"""When systemd last read its unit files."""


@pytest.fixture(scope="module")
def fleet(smol_model: Path) -> Iterator[Fleet]:
    """Give a host of each kind, deployed by one command, each with a real model and a scripted one of its own."""
    images = lab_images()
    with Lab.create("kinds") as lab:
        made = Fleet(lab)
        made.options |= {"images": str(images), "drain_seconds": 60}
        for name, kind in KINDS.items():
            machine = lab.add_host(name, image="trixie" if name == QUEEN else "containers")
            made.declare(machine, queen=name == QUEEN, **kind)
            made.models[name] = {
                "name": f"smol-{name}",
                "source": f"file:{smol_model}",
                "hosts": [name],
                "context": 2048,
            }
            made.models[f"slow-{name}"] = {
                "name": f"slow-{name}",
                "source": "fake:tokens_per_s=20,slots=8,tokens=100",
                "slots": 8,
                "hosts": [name],
            }
        try:
            made.deploy()
            settled(made)
            yield made
        finally:
            made.close()


def settled(fleet: Fleet) -> None:
    """Wait until every worker serves."""
    for model in fleet.models.values():
        fleet.wait_ready(model["name"])


def answer(fleet: Fleet, host: str) -> str:
    """Return what the real model on a host says."""
    asked = fleet.client().chat.completions.create(
        model=f"smol-{host}", messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
    )
    return asked.choices[0].message.content or ""


def answers(fleet: Fleet, host: str, wanted: str) -> bool:
    """Say whether that is what is wanted, and not an error."""
    import openai  # noqa: PLC0415 - a second of imports

    try:
        return answer(fleet, host) == wanted
    except openai.OpenAIError:
        return False


def running(host: LabHost) -> dict[str, str]:
    """Return what hives and workers of a host are containers or units, and what changes with a restart."""
    lines = (line.split() for line in host.run(LISTED).stdout.splitlines())
    return {f"{by} {name}": which for by, name, which in lines if name.startswith("rbee-")}


def ways(host: LabHost) -> set[str]:
    """Return what runs on a host, as `RUNS` has it."""
    found = (name.split() for name in running(host))
    return {f"{by} {next(role for role in ('rbee-hive', 'rbee-worker') if it.startswith(role))}" for by, it in found}


def become(fleet: Fleet, name: str, kind: str) -> None:
    """Have a host's line say another kind."""
    declared = fleet.hosts[name]
    for word in {word for fields in KINDS.values() for word in fields}:
        declared.pop(word, None)
    declared |= KINDS[kind]


def test_one_command_brought_up_every_kind(fleet: Fleet) -> None:
    """A greedy answer of the same model is the same through the one queen, whatever its host is."""
    said = {name: answer(fleet, name) for name in KINDS}
    assert said[QUEEN]
    assert said == dict.fromkeys(KINDS, said[QUEEN])
    assert {name: ways(fleet.lab.hosts[name]) for name in KINDS} == RUNS


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    """The same command again has zero changes and few remote commands; nothing restarts, and no systemd reads units."""
    hosts = fleet.lab.hosts
    before = {name: (running(host), daemon_pids(host), host.run(LOADED).stdout) for name, host in hosts.items()}
    again = fleet.deploy("--json")
    assert changes(again) == {}
    counts = [
        int(line.split("remote command")[0].split()[-1]) for line in again.errors.splitlines() if "remote" in line
    ]
    assert max(counts) <= MOST_COMMANDS
    after = {name: (running(host), daemon_pids(host), host.run(LOADED).stdout) for name, host in hosts.items()}
    assert after == before


def test_every_host_comes_back_from_a_reboot(fleet: Fleet) -> None:
    """One after the other, the queen's too: its model answers without a command, and nothing is left to deploy."""
    wanted = answer(fleet, QUEEN)
    for name, host in fleet.lab.hosts.items():
        host.reboot()
        wait_for(f"an answer of {name}", lambda name=name: answers(fleet, name, wanted))  # type: ignore[misc]
    settled(fleet)
    assert changes(fleet.deploy("--json")) == {}


def test_other_images_cut_no_stream(fleet: Fleet) -> None:
    """Images of another id come to all that runs in containers while streams go through each host: all are whole."""
    hosts = fleet.lab.hosts
    undisturbed = Stream(fleet, model=f"slow-{QUEEN}").begin().end().text
    before = {name: running(host) for name, host in hosts.items()}
    fleet.options["images"] = str(lab_images("another"))
    with ExitStack() as stack:
        streaming = {name: stack.enter_context(Streaming(fleet, f"slow-{name}")) for name in KINDS}
        fleet.deploy()
        settled(fleet)
    for name, streams in streaming.items():
        assert {(stream.error, stream.finish) for stream in streams.begun} == {("", "length")}, name
        assert {stream.text for stream in streams.begun} == {undisturbed}, name
    ids = {image.id.removeprefix("sha256:") for image in manifest.read(Path(fleet.options["images"])).images}
    for name, host in hosts.items():
        after = running(host)
        assert after.keys() == before[name].keys()
        anew = after.items() - before[name].items()
        assert {key for key, _ in anew} == {key for key in after if not key.startswith("unit ")}
        assert images_of(host) <= ids
    assert changes(fleet.deploy("--json")) == {}


def images_of(host: LabHost) -> set[str]:
    """Return the ids of the images that containers of ours run."""
    programs = {"podman": "podman", "docker": "docker", "rootless": in_shell(ROOTLESS)}
    said = (
        host.run(f"{programs[by]} inspect --format '{{{{.Image}}}}' {name}").stdout.strip()
        for by, name in (key.split() for key in running(host))
        if by in programs
    )
    return {identity.removeprefix("sha256:") for identity in said}


def test_all_of_them_change_their_kind_at_once(fleet: Fleet) -> None:
    """By one command each host but the queen's is the next kind, by another it is what it was.

    Models are the same files, the same ones answer, and the queen and her host's hive are never restarted.
    """
    hosts, ring = fleet.lab.hosts, [*KINDS]
    before = {name: host.run(FILES).stdout for name, host in hosts.items()}
    wanted, stays = answer(fleet, QUEEN), daemon_pids(fleet.queen)
    for step in (1, 0):
        kinds = {name: ring[(place + step) % len(ring)] for place, name in enumerate(ring) if name != QUEEN}
        for name, kind in kinds.items():
            become(fleet, name, kind)
        fleet.deploy()
        settled(fleet)
        assert {name: answer(fleet, name) for name in ring} == dict.fromkeys(ring, wanted), kinds
        assert {name: ways(hosts[name]) for name in kinds} == {name: RUNS[kind] for name, kind in kinds.items()}
        assert {name: host.run(FILES).stdout for name, host in hosts.items()} == before
    assert daemon_pids(fleet.queen) == stays
    assert changes(fleet.deploy("--json")) == {}
