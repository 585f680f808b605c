"""Ports and engines that a hive chooses from."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive import engines, worker_ports

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
def test_the_port_is_the_old_one_or_the_first_free(
    arguments: dict[str, object], busy: tuple[int, ...], port: int
) -> None:
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
    assert engines.installed(tmp_path) == {"fake": None, "llama-cpp": newest}


def test_a_host_without_engines_has_the_built_in_one(tmp_path: Path) -> None:
    """A missing engines folder is no error."""
    assert engines.installed(tmp_path / "none") == {"fake": None}
