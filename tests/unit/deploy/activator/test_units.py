"""What systemd's own programs say, read on a host."""

import json
import subprocess
from pathlib import Path

import pytest

from rbee_deploy.activator import units

JOURNAL = [
    json.dumps(record)
    for record in (
        {"MESSAGE": "the reason\nin two lines", "_PID": "20"},
        {"MESSAGE": [66, 255, 10], "_PID": "20"},
        {"MESSAGE": None, "_PID": "20"},
        {"MESSAGE": "a request has ended", "_PID": "10"},
        {"MESSAGE": ["twice", "of one name"], "_PID": "20"},
        {"MESSAGE": "Main process exited"},
    )
] + ["-- No entries --", "[]"]


@pytest.mark.parametrize(
    ("without", "lines"),
    [
        ((), ["the reason", "in two lines", "B\ufffd", "a request has ended", "Main process exited"]),
        ((10, 11), ["the reason", "in two lines", "B\ufffd", "Main process exited"]),
    ],
)
def test_lines_of_processes_that_leave_are_left_out(without: tuple[int, ...], lines: list[str]) -> None:
    """Every form of a message is text, no other line does harm, and what the old process says last hides nothing."""
    assert units.written(JOURNAL, without) == lines


def test_a_process_is_known_by_its_control_group(tmp_path: Path) -> None:
    """Those in the unit's group or below it are its own; a longer name is another unit, and one that ended nobody."""
    groups = {
        "7": "0::/system.slice/rbee-queen.service",
        "8": "1:name=systemd:/system.slice/rbee-queen.service/child\n0::/",
        "9": "0::/system.slice/rbee-queen.service.old",
    }
    for pid, text in groups.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(f"{text}\n")
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "cgroup").symlink_to("gone")
    assert units.processes("rbee-queen.service", tmp_path) == {7, 8}


@pytest.mark.parametrize(("names", "told"), [([], []), (["rbee-x.service"], [["rbee-x.service"]])])
def test_nothing_of_others_is_forgotten(
    names: list[str], told: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given no name, systemctl forgets every failure of the host, so it is not asked then."""
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **_: asked.append(words))
    units.forget_failed(iter(names))
    assert [words[words.index("--") + 1 :] for words in asked] == told
