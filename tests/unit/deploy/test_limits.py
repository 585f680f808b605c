"""Which hosts a person may choose by --limit."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

from pathlib import Path

import pytest

from rbee_deploy.cli import inventories
from rbee_deploy.errors import DeployError

GROUPS = """
from rbee_deploy.inventory import fleet, host
queen, hives = fleet("f", hosts=[host("q", address="192.0.2.1", queen=True), host("gpu1", address="192.0.2.2")])
slow = ["gpu1"]
both = (hives, {"some": "data"})
_mine, empty, others = [hives[0]], [], ["nobody"]
"""


@pytest.mark.parametrize("limit", ["gpu1", "gpu*", "hives", "slow", "both", "all", "fleet_file"])
def test_a_limit_that_pyinfra_takes_is_taken(limit: str, tmp_path: Path) -> None:
    """Hosts, patterns of them, and groups in each form that pyinfra knows."""
    file = tmp_path / "fleet_file.py"
    file.write_text(GROUPS)
    inventories.read(str(file)).refuse_unknown(["q", limit])


@pytest.mark.parametrize("limit", ["_mine", "empty", "others", "gpu2", "GPU1", ""])
def test_a_limit_that_names_nobody_is_refused(limit: str, tmp_path: Path) -> None:
    """Nor is it when others name somebody: pyinfra would go on without it."""
    file = tmp_path / "fleet_file.py"
    file.write_text(GROUPS)
    with pytest.raises(DeployError, match=f"is called '{limit}'"):
        inventories.read(str(file)).refuse_unknown(["q", limit])


def test_a_host_that_is_called_like_its_group_is_named_once(tmp_path: Path) -> None:
    """A queen's host is often called queen."""
    file = tmp_path / "fleet_file.py"
    file.write_text(GROUPS.replace('"q"', '"queen"'))
    with pytest.raises(DeployError, match=r"; it has all, both, fleet_file, hives, queen, slow, gpu1$"):
        inventories.read(str(file)).refuse_unknown(["zzz"])
