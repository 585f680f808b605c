"""The launcher of containers over an engine that is made up, and the supervisor while any launcher is away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.config import ContainerSettings, HiveConfig, WorkerImage
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Phase, UnitStatus, handover
from rbee_runtime.hive.launchers.around import own_address
from rbee_runtime.hive.launchers.containers import ContainerPlan, EngineFacts, Owner, Seen
from rbee_runtime.hive.launchers.engine import ContainerLauncher, Surroundings
from rbee_runtime.hive.launchers.networks import Network
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode
from rbee_runtime.states import Observed
from tests.faults.rig import Clock, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports

OWNER = Owner("f", "h1", "boot-1")


class MadeUpEngine:
    """An engine with nothing in it, or what is `listed`, that takes every container and forgets it at once."""

    name = "docker"
    socket = Path("/run/made-up.sock")

    def __init__(self, **facts: Any) -> None:
        self.told = EngineFacts(frozenset({"memory", "pids"}), **facts)
        self.ran: list[ContainerPlan] = []
        self.networks: dict[str, Network] = {}
        self.listed: list[Seen] = []

    def facts(self) -> EngineFacts:
        return self.told

    def find(self, owner: Owner) -> list[Seen]:
        return self.listed

    def inspect(self, container: str) -> Mapping[str, Any] | None:
        return None

    def has_image(self, image: str) -> bool:
        return True

    def network(self, network: str, callers: tuple[str, ...]) -> Network | None:
        return self.networks.get(network)

    def remove_network(self, network: str) -> None:
        del self.networks[network]

    def make_network(self, network: str, labels: Mapping[str, str], callers: tuple[str, ...]) -> None:
        self.networks[network] = Network(labels)

    def run(self, planned: ContainerPlan, facts: EngineFacts) -> None:
        self.ran.append(planned)


def launcher(folder: Path, engine: MadeUpEngine) -> ContainerLauncher:
    around = Surroundings(
        OWNER, ContainerSettings(images={"fake": WorkerImage(image="i:1")}), folder / "containers", (), ()
    )
    return ContainerLauncher(lambda: engine, around)  # type: ignore[arg-type, return-value]


def launch_file(folder: Path) -> Path:
    spec = WorkerSpec(id="w", model="m", engine="fake")
    path = folder / "w.json"
    path.write_bytes(encode(WorkerLaunch(worker=spec, host="127.0.0.1", port=9000, token="t")))
    return path


async def test_a_container_that_somebody_removed_is_told_as_that(tmp_path: Path) -> None:
    """A worker without a container counts as ended, with the reason, until it is forgotten; also to the next hive."""
    made = launcher(tmp_path, MadeUpEngine())
    await made.start("w", launch_file(tmp_path), "abc")
    status = (await launcher(tmp_path, MadeUpEngine()).list())["w"]
    await made.forget("w")
    assert (status.phase, status.exit_status, status.exit_signal) == (Phase.ENDED, None, None)
    assert "rbee-worker-w is gone, and it was not this hive that removed it" in status.said
    assert await made.list() == {}


async def test_a_container_that_goes_while_the_hive_looks_was_removed_too(tmp_path: Path) -> None:
    """One that is in the engine's list and has no details any more counts as removed, not as ended by itself."""
    engine = MadeUpEngine()
    made = launcher(tmp_path, engine)
    await made.start("w", launch_file(tmp_path), "abc")
    engine.listed = [Seen("c1", engine.ran[0].labels, "removing")]
    assert "is gone, and it was not this hive that removed it" in (await made.list())["w"].said


async def test_an_engine_without_root_is_refused(tmp_path: Path) -> None:
    """The sentence names its socket and the setting, and nothing is handed over."""
    engine = MadeUpEngine(rootless=True)
    with pytest.raises(LauncherError, match=r"made-up\.sock runs without root.*containers\.socket"):
        await launcher(tmp_path, engine).start("w", launch_file(tmp_path), "abc")
    assert engine.ran == []
    assert not (tmp_path / "containers").exists()


@pytest.mark.parametrize(("spares", "times"), [(True, 0), (False, 1)])
async def test_an_engine_that_takes_its_workers_along_is_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spares: bool, times: int
) -> None:
    """Where Docker has no live-restore the journal says how to switch it on, at the first start."""
    made = launcher(tmp_path, MadeUpEngine(spares=spares))
    for _ in range(2):
        await made.start("w", launch_file(tmp_path), "abc")
    said = "".join(capsys.readouterr())
    assert said.count("set live-restore to true in /etc/docker/daemon.json") == times


def test_a_hive_that_may_not_change_owners_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is its own already stays so without a call that the hive's unit forbids."""

    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("chown", "fchown"):
        monkeypatch.setattr(f"os.{name}", forbidden)
    launch = handover.read(launch_file(tmp_path))
    handover.write(tmp_path / "w", launch, handover._own())
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["launch.json"]


@pytest.mark.parametrize(
    ("engine", "advertise", "address"),
    [
        ("docker", "127.0.0.1", "127.0.0.1"),
        ("podman", "127.0.0.1", ""),
        ("docker", "gpu.lan", ""),
        ("docker", "fd00::1", ""),
    ],
)
def test_dockers_workers_are_asked_where_the_kernel_publishes_them(engine: str, advertise: str, address: str) -> None:
    """On Docker the hive's own address of the way to `advertise`, else loopback."""
    assert own_address(HiveConfig(launcher=engine, advertise=advertise)) == address


class Away(ScriptedLauncher):
    """A launcher whose engine is down while `down` holds."""

    down = False

    async def list(self) -> Mapping[str, UnitStatus]:
        if self.down:
            raise LauncherError("cannot list its workers: nobody is there")
        return await super().list()


async def test_while_the_engine_is_away_reports_go_on(tmp_path: Path) -> None:
    """A new worker is told to wait for the engine, one that runs stays as it is, and nothing is started twice."""
    made_up = Away(Clock())
    made = rig(settings(tmp_path, free_ports(4)), made_up, made_up.clock)
    await made.follow(document(1, worker("w")))
    made_up.down = True
    await made.follow(document(2, worker("w"), worker("v")))
    running, new = made.report("w"), made.report("v")
    made_up.down = False
    await made.simulate(5, step=1.0)
    await made.close()
    assert running is not None
    assert new is not None
    assert (running.state, running.restarts) == (Observed.STARTING, 0)
    assert "nobody is there" in new.detail
    assert [name for name, _ in made_up.starts] == ["w", "v"]
