"""The sides of `make bench-gateway` and how they are started: settings, commands, ports and programs."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks.gateway import __main__ as program
from benchmarks.gateway import distribution, peers, queen, running, sides
from benchmarks.gateway.hive import Hive
from benchmarks.gateway.load import BenchError
from benchmarks.gateway.results import Found, Side
from benchmarks.gateway.running import Cores
from benchmarks.gateway.sides import Installed
from rbee_deploy.errors import ArtefactError
from rbee_runtime import config
from rbee_runtime.config import FleetFile, QueenConfig
from rbee_runtime.protocol import Desired, WorkerSpec, encode


def test_nginx_is_one_process_that_holds_nothing_back(tmp_path: Path) -> None:
    """Connections to workers are kept, answers are not buffered, files are in the folder alone."""
    text = peers.nginx_settings(9000, (1, 2), tmp_path, root=True)
    for wanted in ("worker_processes 1;", "proxy_buffering off;", "keepalive 1024;", "user nobody nogroup;"):
        assert wanted in text
    assert text.count(" server 127.0.0.1:") == 2
    assert text.count(f"{tmp_path}/") == 6
    assert "user" not in peers.nginx_settings(9000, (1,), tmp_path, root=False)


def test_litellm_has_half_of_the_workers_for_each_model() -> None:
    """With one key, and no second try that would hide an error."""
    settings = yaml.safe_load(peers.litellm_settings(range(9400, 9408)))
    assert Counter(each["model_name"] for each in settings["model_list"]) == {"bench-a": 4, "bench-b": 4}
    assert len({each["litellm_params"]["api_base"] for each in settings["model_list"]}) == 8
    assert settings["litellm_settings"]["num_retries"] == 0
    assert settings["general_settings"]["master_key"] == peers.MASTER_KEY


def test_commands_are_shown_as_a_shell_takes_them() -> None:
    """With their core and environment, so that anybody can run them."""
    command = running.pinned(1, peers.vllm_router(Path("/env"), 9000, 9001, (1, 2)))
    assert running.shown(command, {"A": "b c"}) == (
        "'A=b c' taskset --cpu-list 1 /env/bin/vllm-router --host 127.0.0.1 --port 9000 --policy round_robin "
        "--prometheus-port 9001 --worker-urls http://127.0.0.1:1 http://127.0.0.1:2"
    )


def test_a_peer_that_cannot_be_had_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason in one line; the others are there with their versions."""

    def missing() -> Installed:
        raise ArtefactError("could not download it:\n  no such package")

    here = Installed(Path("/nginx"), "1.2")
    monkeypatch.setattr(sides, "_GET", {Side.LITELLM: missing, Side.NGINX: lambda: here})
    noted = Found()
    assert sides.installed(noted) == {Side.NGINX: here}
    assert noted.versions == {Side.NGINX: "1.2"}
    assert noted.absent == {Side.LITELLM: "could not download it: no such package"}


@pytest.mark.parametrize("side", [Side.VLLM_ROUTER, Side.LITELLM, Side.NGINX])
def test_every_peer_gets_a_port_and_all_workers(tmp_path: Path, side: Side) -> None:
    """In its command or in the settings that its command names."""
    bench = running.Bench(Cores(1, 0), running.Ports(), tmp_path)
    made = sides.peer(side, Path("/p"), bench, (11, 12, 13, 14))
    named = [Path(word) for word in made.command if word.startswith(str(tmp_path))]
    told = " ".join((*made.command, *(path.read_text() for path in named)))
    assert all(f"127.0.0.1:{port}" in told for port in (11, 12, 13, 14))
    assert str(made.target.port) in told
    assert (made.target.exact, made.target.keys == ("",)) == ((side is not Side.LITELLM,) * 2)


def test_the_archive_tells_its_version() -> None:
    """Names in addresses are quoted; a package that has none, or more, is refused."""
    assert distribution.archive_name("'http://h/n_1%2b2.deb' nginx_1.22.1-9%2bdeb12u9_amd64.deb 5 SHA256:1") == (
        "nginx_1.22.1-9+deb12u9_amd64.deb"
    )
    with pytest.raises(ArtefactError, match="names no archive"):
        distribution.archive_name("")


@pytest.mark.parametrize("link_dir", [None, Path("/pki")])
def test_the_queen_takes_its_settings(tmp_path: Path, link_dir: Path | None) -> None:
    """Two models on eight workers, with a laptop's token or a fleet's certificates."""
    place = queen.Place(tmp_path, 1, 2, link_dir)
    assert config.parse(queen.settings(place), QueenConfig, where="t").link_dir == link_dir
    models = config.parse(queen.fleet(8), FleetFile, where="t").models
    assert [(model.replicas_min, model.slots) for model in models] == [(4, queen.SLOTS)] * 2


class _Put:
    def __init__(self, document: Desired) -> None:
        self._document = document

    async def body(self) -> bytes:
        return encode(self._document)


async def test_the_hive_reports_what_it_is_told_to_run() -> None:
    """Each worker ready on a port of its own, which it keeps, with the spec that is wanted."""
    hive = Hive((11, 12), slots=5)
    assert (await hive.compose()).workers == ()
    specs = tuple(WorkerSpec(id=name, model="m", engine="fake") for name in ("a", "b"))
    for revision, workers in ((1, specs[:1]), (2, specs)):
        await hive.desired(_Put(Desired(fleet="f", epoch=1, revision=revision, workers=workers)))  # type: ignore[arg-type]
    said = await hive.compose()
    assert (said.epoch, said.revision) == (1, 2)
    assert [(worker.port, worker.state, worker.slots) for worker in said.workers] == [
        (11, "ready", 5),
        (12, "ready", 5),
    ]
    assert [worker.spec for worker in said.workers] == [spec.digest() for spec in specs]


def test_processor_time_is_that_of_a_process() -> None:
    """The clock of another process, read by its number, is the one that the process itself reads."""
    assert running.cpu_of(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)


def test_one_core_is_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that shares its core with who asks it has no figure of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7, 5})
    assert Cores.of_this_machine() == Cores(gateway=7, load=3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(BenchError, match="two processor cores"):
        Cores.of_this_machine()


@pytest.mark.parametrize(
    ("script", "said"), [("echo dear me; exit 3", "odd did not start: dear me"), ("exit 3", "it said nothing")]
)
async def test_a_program_that_does_not_start_is_a_sentence(tmp_path: Path, script: str, said: str) -> None:
    """With its last words."""

    async def never() -> bool:
        return False

    with pytest.raises(BenchError, match=said):
        async with running.started("odd", ("sh", "-c", script), tmp_path / "log", never):
            pass


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--rounds", "31"], ["--seconds", "0.5"], ["--seconds", "nan"]])
def test_what_cannot_be_measured_is_a_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Out of bounds is exit status 2, with the bounds."""
    read: Callable[[list[str]], object] = program.read_options
    with pytest.raises(SystemExit) as left:
        read(argv)
    assert left.value.code == 2
    assert "is not between 1 and" in capsys.readouterr().err
