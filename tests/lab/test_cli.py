"""What `python -m tests.lab` refuses before it makes or removes anything."""

from pathlib import Path

import pytest

from tests.lab import cli
from tests.lab.lab import Lab
from tests.lab.records import HostRecord, LabRecord, Owner


@pytest.fixture
def labs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a folder of labs with one lab in it, and no root."""
    folder = tmp_path / "rbl0a1b"
    folder.mkdir()
    owner = Owner(1, 2, "")
    LabRecord(name=folder.name, label="t", subnet="", gateway="", owner=owner, persistent=True).save(folder)
    monkeypatch.setenv("RBEE_LAB_DIR", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(["a", "a b"], "'a b' is no host name"), (["a", "b", "a"], "a is named twice")],
)
def test_a_bad_name_makes_no_lab(
    names: list[str], sentence: str, labs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All names are read before the first host is made."""
    made: list[str] = []
    monkeypatch.setattr(Lab, "create", lambda label, **_: made.append(label))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main(["up", *names]) == 1
    assert sentence in capsys.readouterr().err
    assert made == []


@pytest.mark.parametrize("line", [["up", "a"], ["down"], ["down", "rbl0a1b"], ["clean"], ["images"]], ids=" ".join)
def test_what_needs_root_says_so(line: list[str], labs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that changes the machine has the same sentence for other users."""
    assert cli.main(line) == 1
    assert capsys.readouterr().err.endswith("needs root: run the command with sudo\n")
    assert (labs / "rbl0a1b").is_dir()


def test_down_reads_all_names_first(
    labs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One name too many removes nothing."""
    removed: list[str] = []
    monkeypatch.setattr(Lab, "destroy", lambda lab: removed.append(lab.name))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main(["down", "rbl0a1b", "rblffff"]) == 1
    assert "there is no lab called rblffff" in capsys.readouterr().err
    assert removed == []


def test_a_host_that_fails_leaves_no_lab(
    labs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted or failed, `up` takes back what it made."""
    lab, removed = Lab(labs / "rbl0a1b"), list[str]()

    def fail(_lab: Lab, name: str, **_: object) -> None:
        raise KeyboardInterrupt(name)

    monkeypatch.setattr(Lab, "create", lambda *_, **__: lab)
    monkeypatch.setattr(Lab, "add_host", fail)
    monkeypatch.setattr(Lab, "destroy", lambda lab: removed.append(lab.name))
    monkeypatch.setattr(cli, "ensure_packages", list)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main(["up", "a"]) == 130
    assert capsys.readouterr().err == "\nlab: interrupted; python -m tests.lab list says what is there\n"
    assert removed == ["rbl0a1b"]


@pytest.mark.parametrize(
    ("command", "variable", "folder"), [("clean", "RBEE_LAB_DIR", ""), ("images", "XDG_CACHE_HOME", "/rbee/lab")]
)
def test_a_folder_that_cannot_be_made_is_one_sentence(
    command: str, variable: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It says which folder, why, and which variable moves it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    monkeypatch.setattr(cli, "ensure_packages", list)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main([command]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"lab: cannot write to {tmp_path}/file{folder}: ")
    assert said.endswith(f"; set {variable} to a folder that you may write\n")


def test_a_command_for_a_host_is_typed_as_for_ssh(labs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words and options need no quotes."""
    host = HostRecord(name="gpu1", machine="m", address="192.0.2.1", image="i")
    owner = Owner(1, 2, "")
    record = LabRecord(name="rbl0a1b", label="t", subnet="", gateway="", owner=owner, persistent=True, hosts=(host,))
    record.save(labs / "rbl0a1b")
    started: list[list[str]] = []
    monkeypatch.setattr("os.execvp", lambda _, line: started.append(line))
    assert cli.main(["ssh", "--user", "root", "rbl0a1b", "gpu1", "journalctl", "-u", "rbee-hive"]) == 0
    assert started[0][-2:] == ["root@192.0.2.1", "journalctl -u rbee-hive"]
