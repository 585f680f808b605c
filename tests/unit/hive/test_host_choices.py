"""Ports and engines that a hive chooses from."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.config import HiveConfig, WorkerImage
from rbee_runtime.devices import Scan
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive import engines, worker_ports
from rbee_runtime.hive.disk import Disk
from rbee_runtime.hive.fetching import Fetching
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import DeviceReport
from tests.unit.damage import UNREADABLE

BOUNDS = (9000, 9003)


@pytest.mark.parametrize(
    ("arguments", "busy", "port"),
    [
        ({"taken": ()}, (), 9000),
        ({"taken": (9000,)}, (9001,), 9002),
        ({"taken": (), "previous": 9002}, (), 9002),
        ({"taken": (), "previous": 9002}, (9002,), 9000),
        ({"taken": (), "previous": 9002, "refused": 9002}, (), 9000),
        ({"taken": (), "previous": 8000}, (), 9000),
    ],
)
def test_the_port_is_the_old_one_or_the_first_free(arguments: dict[str, Any], busy: tuple[int, ...], port: int) -> None:
    """A worker keeps its port unless that is taken, refused or out of the range."""
    chosen = worker_ports.choose("127.0.0.1", BOUNDS, free=lambda _, number: number not in busy, **arguments)
    assert chosen == port


def test_a_full_range_is_a_sentence() -> None:
    """Without a free port the message names the range and the setting."""
    with pytest.raises(LauncherError, match=r"9000-9003 .* widen worker_ports"):
        worker_ports.choose("127.0.0.1", BOUNDS, taken=range(9000, 9004), free=lambda *_: True)


def test_a_port_in_use_is_not_free() -> None:
    """A listening socket makes its port taken, and closing it makes it free."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not worker_ports.is_free("127.0.0.1", port)
    assert worker_ports.is_free("127.0.0.1", port)


HOST = engines.HostFacts("x86_64", "2.36", level=3, cuda=12)


@pytest.fixture
def artefact(tmp_path: Path) -> Callable[..., Path]:
    def make(folder: str, **manifest: str) -> Path:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "engine.json").write_text(json.dumps(manifest))
        return tmp_path / folder

    return make


def test_the_newest_engine_of_a_name_wins(tmp_path: Path, artefact: Callable[..., Path]) -> None:
    """Versions compare as numbers, and what is no artefact is left out."""
    artefact("llama-cpp-0.3.9-cpu-aaaaaaaa", name="llama-cpp", version="0.3.9")
    newest = artefact("llama-cpp-0.3.36-cpu-bbbbbbbb", name="llama-cpp", version="0.3.36")
    artefact("broken", version="1")
    found = engines.installed(tmp_path, HOST)
    assert found.usable == {"fake": None, "llama-cpp": newest}
    assert "broken" in found.unfit


def test_an_engine_beside_rbee_is_one_where_no_other_is(
    tmp_path: Path, artefact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install 'rbee[llama-cpp]'` is enough on a laptop; an artefact comes first, and a broken one is told of."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "site" / "llama_cpp").mkdir(parents=True)
    (tmp_path / "site" / "llama_cpp" / "__init__.py").touch()
    assert engines.installed(tmp_path, HOST).usable == {"fake": None, "llama-cpp": None}
    (artefact("llama-cpp-0.4-cpu-broken") / "engine.json").write_text("{")
    assert engines.installed(tmp_path, HOST).usable == {"fake": None}
    newest = artefact("llama-cpp-0.3.36-cpu-bbbbbbbb", name="llama-cpp", version="0.3.36")
    assert engines.installed(tmp_path, HOST).usable == {"fake": None, "llama-cpp": newest}


@pytest.mark.parametrize("damage", UNREADABLE)
@pytest.mark.parametrize("name", ["llama-cpp", "llama-server", "vllm"])
def test_a_broken_manifest_is_told_for_its_engine(tmp_path: Path, name: str, damage: bytes) -> None:
    """The sentence is found under the name that workers ask for, whatever it looks like."""
    (tmp_path / f"{name}-0.3.16-cpu-x86_64_v3-abcdef12").mkdir()
    (tmp_path / f"{name}-0.3.16-cpu-x86_64_v3-abcdef12" / "engine.json").write_bytes(damage)
    found = engines.installed(tmp_path, HOST)
    assert list(found.unfit) == [name]
    assert "engine.json cannot be used" in found.unfit[name]


@pytest.mark.parametrize(
    ("chosen", "usable", "said"),
    [
        ((), "llama-cpp-0.3.36-cpu-b", ""),
        (("llama-cpp-0.3.9-cpu-a",), "llama-cpp-0.3.9-cpu-a", ""),
        (("llama-cpp-0.3.9-cpu-a", "llama-cpp-0.3.36-cpu-b"), "llama-cpp-0.3.36-cpu-b", ""),
        (("vllm-1-c",), "llama-cpp-0.3.36-cpu-b", ""),
        (("llama-cpp-0.3.1-cpu-d",), "", "llama-cpp-0.3.1-cpu-d, which is no engine artefact here; run the deploy"),
    ],
    ids=["none", "an older one", "two", "of another engine", "not here"],
)
def test_the_engines_that_the_settings_name_go_first(
    tmp_path: Path, artefact: Callable[..., Path], chosen: tuple[str, ...], usable: str, said: str
) -> None:
    """Going back to an older engine is naming it; one that is named and not here is not replaced by another."""
    artefact("llama-cpp-0.3.9-cpu-a", name="llama-cpp", version="0.3.9")
    artefact("llama-cpp-0.3.36-cpu-b", name="llama-cpp", version="0.3.36")
    (artefact("llama-cpp-0.4-cpu-broken") / "engine.json").write_text("{")
    found = engines.installed(tmp_path, HOST, chosen)
    assert found.usable.get("llama-cpp") == (tmp_path / usable if usable else None)
    assert said in found.unfit.get("llama-cpp", "")


CPU = DeviceReport(id="cpu", kind="cpu", name="c", total=1, used=0)
CARD = DeviceReport(id="G", kind="nvidia", name="n", total=1, used=0, attributes={"cuda": "12.4"})


@pytest.mark.parametrize(
    ("scan", "cuda"),
    [
        (Scan((CPU,)), 0),
        (Scan((CPU,), (("nvidia", "driver and library are of different versions; reboot the host"),)), None),
        (Scan((CPU,), (("amd", "no driver"),)), 0),
        (Scan((CPU, CARD)), 12),
        (Scan((CPU, CARD), (("nvidia", "GPU 1 is off the bus"),)), 12),
    ],
    ids=["no card", "driver mismatch", "another kind complains", "a card", "a second card is lost"],
)
def test_a_driver_that_nobody_can_ask_is_not_judged(scan: Scan, cuda: int | None) -> None:
    """That a driver serves no CUDA is only said where looks at NVIDIA devices succeed."""
    assert engines.this_host(scan).cuda == cuda


def test_a_host_without_engines_has_the_built_in_one(tmp_path: Path) -> None:
    """A missing engines folder is no error."""
    assert engines.installed(tmp_path / "none", HOST) == engines.Engines({"fake": None}, {})


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"arch": "aarch64"}, "is built for aarch64, this host is x86_64"),
        ({"variant": "cpu-x86_64_v4"}, "needs a processor of level x86-64-v4, this is x86-64-v3"),
        ({"glibc": "2.41"}, "needs glibc 2.41, this host has 2.36"),
        ({"variant": "cuda13"}, "needs CUDA 13, the driver here serves 12"),
        ({"arch": "x86_64", "variant": "cuda12-x86_64_v3", "glibc": "2.36"}, ""),
    ],
)
def test_an_engine_for_another_host_says_what_does_not_fit(
    tmp_path: Path, artefact: Callable[..., Path], facts: dict[str, str], said: str
) -> None:
    """Architecture, processor level, glibc and CUDA are compared; what does not fit is not started and says why."""
    artefact("llama-cpp-1", name="llama-cpp", version="1", **facts)
    found = engines.installed(tmp_path, HOST)
    assert ("llama-cpp" in found.usable) is (not said)
    assert said in found.unfit.get("llama-cpp", "")


def test_what_is_not_known_of_the_host_is_not_judged(tmp_path: Path, artefact: Callable[..., Path]) -> None:
    """Before the first look at the devices an engine is not refused for its processor or driver."""
    artefact("llama-cpp-1", name="llama-cpp", version="1", variant="cuda13-x86_64_v4")
    host = engines.this_host(None)
    assert (host.level, host.cuda) == (None, None)
    assert "llama-cpp" in engines.installed(tmp_path, host).usable


async def test_engines_are_judged_again_as_soon_as_more_is_known_of_the_host(
    tmp_path: Path, artefact: Callable[..., Path]
) -> None:
    """Between two looks at the disk, what the devices say makes an engine one that cannot be started here."""
    artefact("llama-cpp-1-cuda12", name="llama-cpp", version="1", variant="cuda12")
    facts = [engines.HostFacts("x86_64", "2.36")]
    fetching = Fetching(ModelStore(tmp_path / "models"), clock=lambda: 1000.0, changed=lambda: None)
    disk = Disk(HiveConfig(engines_dir=tmp_path), fetching, clock=lambda: 1000.0, host=lambda: facts[0])
    known = []
    for cuda in (None, 0):
        facts[0] = engines.HostFacts("x86_64", "2.36", cuda=cuda)
        await disk.read(None, ())
        known.append((sorted(disk.engines), sorted(disk.unfit)))
    await disk.close()
    await fetching.close()
    assert known == [(["fake", "llama-cpp"], []), (["fake"], ["llama-cpp"])]


def test_of_an_engine_in_an_image_the_host_has_nothing() -> None:
    """Where workers run in containers, what can be started is what their images hold."""
    images = {"fake": WorkerImage(image="sha256:1"), "llama-cpp": WorkerImage(image="sha256:1", engine_dir="/e/l")}
    found = engines.in_images(images)
    assert (dict(found.usable), dict(found.unfit)) == ({"fake": None, "llama-cpp": Path("/e/l")}, {})
