"""What replaces pyinfra's own functions says the same as they do."""

import sys
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pyinfra
import pytest
from pyinfra.api import Config, State, arguments, connectors, inventory, util
from pyinfra.api.exceptions import ArgumentTypeError
from pyinfra.context import ctx_state

from rbee_deploy import quicker

operation: Any = import_module("pyinfra.api.operation")
"""The name in `pyinfra.api` is the decorator's."""


def nested(depth: int, ask: Any) -> Any:
    """Ask from that many frames further down."""
    return nested(depth - 1, ask) if depth else ask()


@pytest.mark.parametrize("deploy_file", [__file__, "/not/in/the/stack.py", None])
def test_the_order_of_operations_is_pyinfra_s(deploy_file: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines are found from the deploy file down, from the top without one, and where it does not appear."""
    monkeypatch.setattr(pyinfra, "is_cli", True)
    state = SimpleNamespace(current_deploy_filename=deploy_file, current_op_file_number=3)
    theirs, mine = (
        nested(4, partial(ask, state)) for ask in (util.get_operation_order_from_stack, quicker.order_from_stack)
    )
    assert mine == theirs
    assert mine[0] == 3


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put everything back after the test."""
    for module, name in (
        (arguments, "all_global_arguments"),
        (inventory, "get_all_connectors"),
        (inventory, "get_execution_connectors"),
        (operation, "get_operation_order_from_stack"),
        (operation, "pop_global_arguments"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    quicker.install()
    quicker.install()


@pytest.mark.usefixtures("installed")
def test_what_is_kept_is_what_pyinfra_says() -> None:
    """Connectors and global arguments are those of pyinfra, asked for once."""
    assert inventory.get_all_connectors() == connectors.get_all_connectors()
    assert inventory.get_execution_connectors() == connectors.get_execution_connectors()
    assert inventory.get_all_connectors() is inventory.get_all_connectors()
    assert dict(arguments.all_global_arguments())["_sudo"] is bool


DATA: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "nothing is set": ({}, {}, {"own": 1}),
    "the host sets some": ({"_sudo": True, "_env": {"A": "b"}, "rbee": object()}, {}, {}),
    "the group sets it, the call wins": ({}, {"_sudo": True, "_retries": 2}, {"_sudo": False, "own": 1}),
    "the host wins over its group": ({"_retries": 1}, {"_retries": 2}, {"name": "step"}),
}
"""Data of the host, of its group, and arguments of the call."""


@pytest.mark.parametrize("case", DATA)
def test_global_arguments_are_those_that_pyinfra_finds(case: str) -> None:
    """Values come from call, host, group and configuration as before, and the same arguments are taken out."""
    of_host, of_group, given = DATA[case]
    known = inventory.Inventory((["box"], {}), group=([("box", of_host)], of_group))
    state = State(known, Config())
    mine, theirs = dict(given), dict(given)
    with ctx_state.use(state):
        found = quicker.global_arguments(state, known.get_host("box"), mine)
        assert found == arguments.pop_global_arguments(state, known.get_host("box"), theirs)
    assert mine == theirs


def test_a_wrong_global_argument_is_refused_as_before() -> None:
    """What pyinfra says of a value of the wrong type is not lost."""
    known = inventory.Inventory((["box"], {}))
    state = State(known, Config())
    with ctx_state.use(state), pytest.raises(ArgumentTypeError, match="_retries"):
        quicker.global_arguments(state, known.get_host("box"), {"_retries": "often"})


def test_the_pinned_version_is_the_one_that_was_looked_at() -> None:
    """A moved pin fails here, for somebody to compare the functions again."""
    assert pyinfra.__version__ == quicker.VERSION


def test_another_version_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is replaced in a pyinfra that nobody compared."""
    monkeypatch.setattr(pyinfra, "__version__", "3.99")
    own = operation.get_operation_order_from_stack
    quicker.install()
    assert operation.get_operation_order_from_stack is own
    assert sys.modules["pyinfra"] is pyinfra
