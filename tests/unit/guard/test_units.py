"""The guard's units as systemd itself judges them."""

from pathlib import Path

import pytest

from rbee_runtime import ports
from tests.unit.deploy.sites import contained
from tests.unit.deploy.test_units import analyze, verify, write_root

UNITS = (ports.GUARD_SOCKET_UNIT, ports.GUARD_UNIT)
RENDERED = (*UNITS, ports.WORKERS_UNIT, ports.PODMAN_UNIT)
MOST_EXPOSURE = 15
"""Tenths, as of the queen: it is root that gives files away, and nothing else that root can do."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the files of a host with the guard's units, whose hive is there too."""
    write_root(tmp_path, contained(), "box1")
    return tmp_path


def test_verify_is_silent(root: Path) -> None:
    """`systemd-analyze verify` has nothing to say about them, nor about an order with a circle in it."""
    assert verify(root, [*RENDERED, ports.HIVE_UNIT, ports.TARGET_UNIT]) == ""


def test_the_guard_is_sandboxed(root: Path) -> None:
    """It scores at most 1.5 in `systemd-analyze security`."""
    unit = root / "etc/systemd/system" / ports.GUARD_UNIT
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(unit))
    assert done.returncode == 0, done.stdout[-200:]


def lines(root: Path, unit: str) -> set[str]:
    return set((root / "etc/systemd/system" / unit).read_text().splitlines())


@pytest.mark.parametrize("unit", UNITS)
def test_one_command_stops_it_too(root: Path, unit: str) -> None:
    """It starts and stops with everything of rbee."""
    assert {"PartOf=rbee.target", "WantedBy=rbee.target"} <= lines(root, unit)


def test_only_the_hive_may_ask(root: Path) -> None:
    """The socket is the hive's alone, at the path that the code names."""
    wanted = {f"ListenStream={ports.GUARD_SOCKET}", "SocketUser=rbee-hive", "SocketMode=0600", "DirectoryMode=0755"}
    assert wanted <= lines(root, ports.GUARD_SOCKET_UNIT)


def test_what_is_stopped_before_it_may_still_ask(root: Path) -> None:
    """Hive and workers stop before the guard does, and an engine that is down keeps it from nothing."""
    found = lines(root, ports.GUARD_UNIT)
    assert "Before=rbee-hive.service rbee-workers.service" in found
    assert not [line for line in found if line.startswith(("Requires=", "Wants=", "BindsTo=")) and "podman" in line]
    assert "RuntimeDirectoryPreserve=yes" in found
