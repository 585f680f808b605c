"""Operations as data: what is wanted and what is known of a host, against the commands that follow.

A folder is `module.operation`, a file one case in pyinfra's own form. The wrapper that makes a command root's has tests
of its own and is left out here; what goes to standard input stands beside the script.
"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyinfra.api import FunctionCommand
from pyinfra.context import ctx_host, ctx_state
from pyinfra_testing.util import FakeState, coerce_operation_arguments, create_host, parse_value

import tests.unpatched  # noqa: F401 - before pyinfra's own test tools
from rbee_deploy.elevation import Block
from rbee_deploy.operations import root, upload

CASES = sorted(Path(__file__).parent.glob("*.*/*.yaml"))


def plain(command: Any) -> Any:
    """Return a command as data."""
    if not command.connector_arguments:
        return str(command)
    return {"script": str(command), "stdin": lines(command.connector_arguments["_stdin"])}


def lines(given: Iterable[Any]) -> list[str]:
    """Return the lines of a standard input; of a file only that it is one."""
    if isinstance(given, upload.Slice):
        return ["(the file)"]
    return ["(the file)" if isinstance(line, Block) else line for line in given]


def run(path: Path, case: dict[str, Any]) -> tuple[list[Any], str | None]:
    """Return the commands of an operation, and what it says when there are none."""
    module, name = path.parent.name.split(".")
    operation = getattr(import_module(f"rbee_deploy.operations.{module}"), name)
    state = FakeState()
    host = create_host(state, facts=case["facts"])
    _, wanted = coerce_operation_arguments(operation, [], parse_value(case["kwargs"]))
    with ctx_state.use(state), ctx_host.use(host):
        sent = [command for command in operation._inner(**wanted) if not isinstance(command, FunctionCommand)]
        return [plain(command) for command in sent], host.noop_description


@pytest.fixture(autouse=True)
def _as_root_is_tested_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "as_root", lambda script, **_: script)


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_case(path: Path) -> None:
    """An operation yields exactly the commands of its case, and says so when there is nothing to do."""
    case = yaml.safe_load(path.read_text())
    commands, said = run(path, case)
    assert commands == case["commands"]
    if not commands:
        assert said == case["noop_description"]


def test_every_operation_has_a_case_in_which_nothing_is_to_do() -> None:
    """Idempotence is shown for each operation that sends commands."""
    quiet = {path.parent.name for path in CASES if not yaml.safe_load(path.read_text())["commands"]}
    assert quiet == {path.parent.name for path in CASES}
