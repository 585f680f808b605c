"""Recordings: what was read once gives the same devices again, and can change like hardware does."""

import json
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime import devices
from rbee_runtime.config import DeviceSettings
from rbee_runtime.devices import recorded
from rbee_runtime.devices.__main__ import main
from rbee_runtime.devices.amd import AmdProbe
from rbee_runtime.devices.cpu import CpuProbe
from rbee_runtime.devices.tree import HostTree, WatchedTree
from rbee_runtime.errors import ConfigError
from tests.unit.devices.recordings import FOLDER, NAMES, copied, played, raw


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_says_where_it_is_from(name: str) -> None:
    """Its driver and how it was made; hand-made ones cannot be taken for real ones."""
    content = json.loads((FOLDER / f"{name}.json").read_bytes())
    assert content["driver"]
    assert (content["captured_with"] == recorded.CAPTURED_WITH) is not name.startswith("synthetic_")
    assert content["readings"]


@pytest.mark.parametrize("name", NAMES)
async def test_each_recording_can_stand_for_a_host(name: str) -> None:
    """The inventory shows its devices, and the processor of this host when it has none."""
    scan = await devices.build(DeviceSettings(recorded=FOLDER / f"{name}.json")).scan()
    assert {device.id for device in played(name).devices} | {"cpu"} == {device.id for device in scan.devices}


def test_what_is_recorded_of_files_plays_the_same(tmp_path: Path) -> None:
    """A probe reads the same from the files of a host as from the recording that it made of them."""
    for path, text in raw("synthetic_mi300x")["texts"].items():
        at = tmp_path / path[1:]
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text + "\n")
    for path, target in raw("synthetic_mi300x")["links"].items():
        _link(tmp_path, path, target)
    tree = WatchedTree(HostTree(str(tmp_path)))
    seen = AmdProbe(tree, library=dict).read({})
    assert seen == recorded.play("amd", {"texts": tree.texts, "links": tree.links}, {})
    assert seen == played("synthetic_mi300x")


def _link(root: Path, path: str, target: str) -> None:
    at = root / path[1:]
    real = at.parent / target
    if at.is_dir():
        at.rename(real)
    real.mkdir(parents=True, exist_ok=True)
    at.symlink_to(target)


def test_this_host_can_be_recorded_and_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes a file with which the same processor is shown."""
    assert main(["record", "--out", str(tmp_path / "host.json")]) == 0
    assert main(["--json", "--recorded", str(tmp_path / "host.json")]) == 0
    (shown, *_) = [row for row in json.loads(capsys.readouterr().out)["devices"] if row["kind"] == "cpu"]
    (here,) = CpuProbe().read({}).devices
    assert (shown["name"], shown["total"]) == (here.name, here.total)


async def test_a_device_taken_out_of_the_file_vanishes_and_comes_back(tmp_path: Path) -> None:
    """The file is read again when it changes, so a host can be played through."""
    path = tmp_path / "host.json"
    content = copied("synthetic_h100", path)
    clock = iter(range(0, 100, 5))
    inventory = devices.Inventory(recorded.probes(path), clock=lambda: float(next(clock)))
    states = [(await inventory.scan()).devices[0].healthy]
    nothing: list[Any] = []
    for gpus in (nothing, content["readings"][0]["raw"]["gpus"]):
        changed: dict[str, Any] = content["readings"][0]["raw"] | {"gpus": gpus}
        path.write_text(json.dumps(content | {"readings": [{"kind": "nvidia", "raw": changed}]}))
        states += [(await inventory.scan()).devices[0].healthy for _ in range(2)]
    assert states == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no JSON", "is not a recording of devices; make one with"),
        ("[]", "is not a recording"),
        ('{"readings": [{"kind": "cpu"}]}', "is not a recording"),
        ('{"readings": [{"kind": "tpu", "raw": {}}]}', "unknown kind 'tpu'; known are nvidia, amd, intel, cpu"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    """The hive does not start on a setting that means nothing."""
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(ConfigError, match=r"host\.json") as refused:
        devices.build(DeviceSettings(recorded=tmp_path / "host.json"))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "raw_readings"),
    [
        ("amd", {}),
        ("intel", {"texts": [1]}),
        ("nvidia", {}),
        ("nvidia", {"gpus": [{"index": 0, "uuid": "GPU-1", "processes": [["x", 1]]}]}),
        ("nvidia", {"gpus": [{"index": 0, "uuid": "GPU-1", "memory": {"total": 1}}]}),
    ],
)
async def test_incomplete_readings_are_a_problem_of_their_kind(tmp_path: Path, kind: str, raw_readings: Any) -> None:
    """What turns out while the hive runs does not end it."""
    (tmp_path / "host.json").write_text(json.dumps({"readings": [{"kind": kind, "raw": raw_readings}]}))
    scan = await devices.build(DeviceSettings(recorded=tmp_path / "host.json")).scan()
    assert [device.id for device in scan.devices] == ["cpu"]
    assert f"the recorded {kind} readings are incomplete" in scan.problems[0][1]


def test_the_command_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per device, its attributes below, problems last."""
    assert main(["--recorded", str(FOLDER / "synthetic_lost_gpu.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "KIND", "NAME", "TOTAL", "USED", "FOREIGN", "STATE"]
    assert "79.6 GiB" in lines[1]
    assert lines[-2].startswith("nvidia: GPU 1 has fallen off the bus")


def test_the_command_says_what_it_cannot_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One sentence and status 2."""
    assert main(["--recorded", str(tmp_path / "none.json")]) == 2
    assert "check devices.recorded" in capsys.readouterr().err
