"""The launchers' contract on a host that has systemd and both container engines; pytest runs this file there.

The launcher is named by RBEE_LAUNCHER; containers are driven as the hive's own user, units as root. TestContainers is
selected for the launchers that make some.
"""

import dataclasses
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.config import ContainerSettings, HiveConfig
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive import launchers
from rbee_runtime.hive.launchers import Launcher, Phase
from rbee_runtime.hive.launchers.around import surroundings
from rbee_runtime.hive.launchers.engine import ContainerLauncher
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode
from tests.ports import free_port
from tests.unit.hive.launcher_contract import DIGEST, LauncherContract, end, fresh_id, reach
from tests.unit.hive.waiting import until

NAME = os.environ["RBEE_LAUNCHER"]
STATE = Path("/var/lib/rbee/hive") if NAME == "systemd" else Path(os.environ["RBEE_STATE"])
IMAGE = "rbee-worker:lab"
MODELS = Path("/var/lib/rbee/models")


def settings(*, hive: str = "box1", **containers: Any) -> HiveConfig:
    return HiveConfig(
        launcher=NAME,
        name=hive,
        state_dir=STATE,
        containers=ContainerSettings(**{"images": images(IMAGE), **containers}),
    )


def images(image: str) -> dict[str, dict[str, str]]:
    return {"fake": {"image": image}}


def write(worker: str, *, host: str = "127.0.0.1", **options: str) -> Path:
    spec = WorkerSpec(id=worker, model="m", engine="fake", options=dict(options))
    launch = WorkerLaunch(worker=spec, host=host, port=free_port(), token="t")
    path = STATE / "workers" / f"{worker}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(launch))
    path.chmod(0o600)
    return path


def answers(port: int, address: str = "127.0.0.1") -> bool:
    asked = urllib.request.Request(f"http://{address}:{port}/health", headers={"x-rbee-token": "t"})
    try:
        with urllib.request.urlopen(asked, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def cgroup(process: object) -> str:
    return Path(f"/proc/{process}/cgroup").read_text().strip()


class Inside:
    """What a process sees, by its files in /proc; the host's root is not needed for one's own processes."""

    def __init__(self, pid: int) -> None:
        self.proc = Path(f"/proc/{pid}")

    def status(self, key: str) -> str:
        lines = (self.proc / "status").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{key}:"))

    def options(self, place: str) -> set[str]:
        lines = [line.split() for line in (self.proc / "mountinfo").read_text().splitlines()]
        return set(next(line[5] for line in lines if line[4] == place).split(","))

    def namespaces(self) -> set[str]:
        kinds = ("ipc", "mnt", "net", "pid", "uts")
        mine = Path("/proc/self/ns")
        return {kind for kind in kinds if (self.proc / "ns" / kind).readlink() != (mine / kind).readlink()}

    def begun(self) -> bool:
        return b"--spec" in (self.proc / "cmdline").read_bytes().split(b"\0")


async def look_inside(launcher: Launcher, worker: str) -> Inside:
    """Return a running worker from within, once its program has taken the place of the engine's own.

    An engine says "running" a moment earlier, and what it left by then is neither the worker's nor to be read.
    """
    inside = Inside((await reach(launcher, worker, Phase.RUNNING)).pid or 0)
    await until(inside.begun)
    return inside


class TestContract(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Launcher:
        return launchers.build(settings())

    @pytest.fixture
    def place(self) -> Callable[..., Path]:
        return write


class TestContainers:
    @pytest.fixture
    def launcher(self) -> Launcher:
        return launchers.build(settings())

    async def test_a_worker_has_no_more_than_it_needs(self, launcher: Launcher) -> None:
        """No root, no capability, no new privilege, nothing to write to but its own /tmp, namespaces of its own."""
        worker = fresh_id()
        await launcher.start(worker, write(worker), DIGEST)
        inside = await look_inside(launcher, worker)
        found = {key: inside.status(key) for key in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
        users = inside.status("Uid").split()
        places = {place: inside.options(place) for place in ("/", "/run/rbee", str(MODELS))}
        scratch, apart = inside.options("/tmp"), inside.namespaces()
        await end(launcher, worker)
        assert found == {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
        assert users == [str(os.geteuid())] * 4
        assert [place for place, options in places.items() if "ro" not in options] == []
        assert {"rw", "nosuid", "nodev"} <= scratch
        assert apart == {"ipc", "mnt", "net", "pid", "uts"}

    async def test_its_port_answers_and_the_way_out_is_shut(self, launcher: Launcher) -> None:
        """The published port answers on loopback and on the host's address; inside there is no way to the internet."""
        worker = fresh_id()
        path = write(worker, host="0.0.0.0")
        port, own = json.loads(path.read_text())["port"], os.environ["RBEE_ADDRESS"]
        await launcher.start(worker, path, DIGEST)
        inside = await look_inside(launcher, worker)
        await until(lambda: answers(port) and answers(port, own))
        routes = [line.split()[1] for line in (inside.proc / "net/route").read_text().splitlines()[1:]]
        await end(launcher, worker)
        # Docker leaves the route and takes the address translation away, which the test on the other side looks at.
        assert ("00000000" in routes) == (NAME == "docker")

    async def test_somebody_elses_container_of_that_name_stays(self, launcher: Launcher, stranger: str) -> None:
        """A start under a name that a stranger has is refused with a sentence, and the stranger runs on."""
        with pytest.raises(LauncherError, match=f"rbee-worker-{stranger} that is not of this hive.* rename"):
            await launcher.start(stranger, write(stranger), DIGEST)
        await launcher.stop(stranger)
        await launcher.forget(stranger)
        assert stranger not in await launcher.list()
        assert runs(stranger)

    async def test_another_hive_has_its_own_workers(self, launcher: Launcher) -> None:
        """A hive of another name sees, stops and removes nothing of this one's."""
        other = launchers.build(settings(hive="box2"))
        worker = fresh_id()
        await launcher.start(worker, write(worker), DIGEST)
        await other.stop(worker)
        await other.forget(worker)
        seen = await other.list()
        status = await reach(launcher, worker, Phase.RUNNING)
        await end(launcher, worker)
        assert (seen, status.spec) == ({}, DIGEST)

    async def test_a_launcher_made_later_finds_the_same_process(self, launcher: Launcher) -> None:
        """After a restart of the hive the worker is listed with its pid and spec, and its cgroup is not the hive's."""
        worker = fresh_id()
        await launcher.start(worker, write(worker), DIGEST)
        before = await reach(launcher, worker, Phase.RUNNING)
        after = (await launchers.build(settings()).list())[worker]
        group, own = cgroup(before.pid), cgroup("self")
        await end(launcher, worker)
        assert (after.pid, after.spec) == (before.pid, DIGEST)
        assert ("libpod" if NAME == "podman" else "docker") in group
        assert own.endswith(f"/{os.environ['RBEE_UNIT']}")
        assert os.environ["RBEE_UNIT"] not in group

    async def test_the_dead_of_an_earlier_boot_are_cleared_away(self, launcher: Launcher) -> None:
        """A container that a reboot ended is no worker any more, whatever it was."""
        worker = fresh_id()
        await launcher.start(worker, write(worker, fail="bad_model"), DIGEST)
        await reach(launcher, worker, Phase.ENDED)
        later = booted_anew()
        assert worker not in await later.list()
        await later.start(worker, write(worker), DIGEST)
        await end(later, worker)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (
                {"images": images("localhost/nowhere:1")},
                f"image localhost/nowhere:1 is not on this host: run `{NAME} pull",
            ),
            ({"images": {}}, "containers.images.fake"),
            ({"socket": "/run/nowhere.sock"}, f"{NAME} does not answer at /run/nowhere.sock: run `systemctl start"),
            ({"socket": "tcp://192.0.2.1:2375"}, "is no socket on this host"),
        ],
    )
    async def test_what_is_missing_is_one_sentence(self, wrong: dict[str, Any], said: str) -> None:
        """No image, no engine, no local socket: the start says which, how to mend it, and leaves nothing behind."""
        worker = fresh_id()
        with pytest.raises(LauncherError) as refusal:
            await launchers.build(settings(**wrong)).start(worker, write(worker), DIGEST)
        assert said in str(refusal.value)
        assert worker not in await launchers.build(settings()).list()
        assert not (STATE / "containers" / worker).exists()


def booted_anew() -> ContainerLauncher:
    """Return the launcher of the same hive after a reboot that never was."""
    built = launchers.build(settings())
    assert isinstance(built, ContainerLauncher)
    around = surroundings(settings())
    return ContainerLauncher(
        built._connect, dataclasses.replace(around, owner=dataclasses.replace(around.owner, boot="later"))
    )


def client() -> Any:
    if NAME == "docker":
        import docker  # noqa: PLC0415 - only what is asked for

        return docker.DockerClient("unix:///run/docker.sock")
    import podman  # noqa: PLC0415 - as above

    return podman.PodmanClient(base_url="unix:///run/podman/podman.sock")


@pytest.fixture
def stranger() -> Iterator[str]:
    """Give a container of somebody else that has a worker's name and none of our labels; return the worker's id."""
    worker = fresh_id()
    program = ["-c", "import time; time.sleep(300)"]
    python = "/opt/rbee/releases/lab/bin/python"
    made = client().containers.create(IMAGE, name=f"rbee-worker-{worker}", entrypoint=[python], command=program)
    made.start()
    yield worker
    made.remove(force=True)


def runs(worker: str) -> bool:
    found = client().containers.get(f"rbee-worker-{worker}")
    return bool(found.status == "running")
