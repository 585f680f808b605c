"""What `python -m demo` makes of its arguments, of places that it cannot use and of hosts that it may not remove."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import cli, hosts, laptop
from demo.story import Story
from tests.lab import Lab
from tests.lab.records import LabRecord, Owner
from tests.unit.queen.units import wait_until


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put labs and caches where nothing of this machine is; be a user without root."""
    monkeypatch.setenv("RBEE_LAB_DIR", str(tmp_path / "labs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return tmp_path


@pytest.mark.parametrize("command", ["up", "down", "packages", "build"])
def test_a_name_goes_with_add_alone(command: str, places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`down gpu2` removes nothing, because it does not mean one host."""
    laptop.folder().mkdir(parents=True)
    with pytest.raises(SystemExit, match="2"):
        cli.run([command, "gpu2"])
    assert "unrecognized arguments: gpu2" in capsys.readouterr().err
    assert laptop.folder().is_dir()


@pytest.mark.parametrize("command", ["up", "build"])
def test_a_cache_that_cannot_be_made_is_one_sentence(
    command: str, places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which folder, why, and which variable moves it."""
    (places / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "file"))
    assert cli.run([command]) == 1
    said = capsys.readouterr().err
    assert f"demo: cannot write to {places}/file/rbee/" in said
    assert "Not a directory; set XDG_CACHE_HOME to a folder that you may write\n" in said


def test_any_other_place_is_one_sentence(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that the system refuses is named with its reason."""
    monkeypatch.setitem(cli.COMMANDS, "build", lambda _: Path("/proc/x/y").mkdir())
    assert cli.run(["build"]) == 1
    assert "demo: cannot use /proc/x/y: No such file or directory; " in capsys.readouterr().err


def test_down_says_where_it_looked(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It claims no more than it can see."""
    laptop.folder().mkdir(parents=True)
    assert cli.run(["down"]) == 0
    assert f"left in {places}/labs and {places}/cache/rbee/demo; the caches stay" in capsys.readouterr().out
    assert not laptop.folder().exists()


def test_down_admits_hosts_that_it_may_not_remove(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without root the hosts of root's demo stay, and the command says so and fails."""
    folder = places / "labs" / "rbl0a1b"
    folder.mkdir(parents=True)
    lab = LabRecord(name=folder.name, label="demo", subnet="", gateway="", owner=Owner(1, 2, ""), persistent=True)
    lab.save(folder)
    assert cli.run(["down"]) == 1
    said = capsys.readouterr()
    assert f"the demo's hosts (lab rbl0a1b in {folder}) belong to root: sudo make demo-down" in said.err
    assert "nothing of the demo is left" not in said.out
    assert [lab.name for lab in Lab.list()] == ["rbl0a1b"]


@pytest.mark.parametrize(("cached", "lines"), [(True, 1), (False, 2)])
def test_the_compiler_is_waited_for_only_if_it_compiles(
    cached: bool, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the engine in the cache there is nothing to say about a compiler."""
    monkeypatch.setattr("demo.build.is_cached", lambda *_: cached)
    with subprocess.Popen(["sleep", "2"]) as building:
        hosts._finish(building, Story())
    out = capsys.readouterr().out
    assert ("waiting for the engine to be compiled" in out) is not cached
    assert len(out.splitlines()) == lines


COMPILING = """
import sys
from demo import build, cli
from rbee_deploy import commands

command = ["sh", "-c", f"sleep 0.5; echo $$ >{sys.argv[1]}.new && mv {sys.argv[1]}.new {sys.argv[1]}; exec sleep 60"]
build.build_all = lambda: commands.run(command, title="compile", say=print)
cli.run(["build"])
"""


def test_a_build_that_is_ended_ends_its_compiler(tmp_path: Path) -> None:
    """An interrupted demo ends the process that builds by SIGTERM, and leaves nothing that goes on compiling."""
    mark = tmp_path / "pid"
    building = subprocess.Popen([sys.executable, "-c", COMPILING, str(mark)])
    wait_until(mark.exists)
    building.terminate()
    assert building.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(int(mark.read_text()), 0)
