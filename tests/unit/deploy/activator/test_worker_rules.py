"""The rules about what workers in containers may reach, as the activator handles them."""

from pathlib import Path

import pytest

from rbee_deploy.activator import units, worker_rules
from rbee_deploy.activator.units import ActivationError

REMOVED = """\
table inet rbee-workers
delete table inet rbee-workers
table bridge rbee-workers
delete table bridge rbee-workers
"""


@pytest.mark.parametrize("fails", [False, True])
def test_they_are_removed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Both tables go in one transaction, there or not; one that fails stops no activation."""
    nft = tmp_path / "nft"
    nft.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/said; cat >>{tmp_path}/said; exit {int(fails)}\n')
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    worker_rules.remove()
    assert (tmp_path / "said").read_text() == f"-f -\n{REMOVED}"


def test_a_host_without_nft_has_none_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    worker_rules.remove()


def test_what_nft_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that are not taken stop an activation with the last lines of their unit."""

    def systemctl(*_: str) -> str:
        raise ActivationError("systemctl restart failed")

    monkeypatch.setattr(units, "look", lambda names: {name: units.Unit() for name in names})
    monkeypatch.setattr(units, "systemctl", systemctl)
    monkeypatch.setattr(units, "journal", lambda unit: [f"{unit} says: Operation not supported"])
    with pytest.raises(ActivationError, match=r"rbee-network\.service failed; its last lines:\n.*not supported"):
        worker_rules.load(stale=True)
