"""The state fact as data: what a host prints, against what the deployer takes from it."""

import json
from pathlib import Path

import pytest
import yaml

from rbee_deploy.facts.state import RbeeState

CASES = sorted(Path(__file__).parent.glob("state.RbeeState/*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    """The fact is what the case says, and JSON."""
    case = yaml.safe_load(path.read_text())
    fact = RbeeState().process(case["output"].splitlines())
    assert fact == case["fact"]
    assert json.loads(json.dumps(fact)) is not None


def test_nothing_is_known_of_a_silent_host() -> None:
    """A host that prints nothing gives no root, whatever its exit status."""
    assert RbeeState().process([])["sudo"] == "silent"
