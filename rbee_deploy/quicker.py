"""Four of pyinfra's own answers, found faster: they cost more than all else on a fleet of a hundred hosts.

Each does what pyinfra's function of the version below does; any other version keeps its own. See
docs/decisions/0012-faster-pyinfra.md.
"""

import sys
from collections.abc import Callable
from copy import copy
from functools import cache
from importlib import import_module
from types import FrameType, SimpleNamespace
from typing import Any

VERSION = "3.10.0"


def install() -> None:
    """Have pyinfra use them, if it runs at all; once is enough, and again changes nothing."""
    if "pyinfra" not in sys.modules or sys.modules["pyinfra"].__version__ != VERSION:
        return
    for module, name in (
        ("pyinfra.api.arguments", "all_global_arguments"),
        ("pyinfra.api.inventory", "get_all_connectors"),
        ("pyinfra.api.inventory", "get_execution_connectors"),
    ):
        _once(import_module(module), name)
    operation: Any = import_module("pyinfra.api.operation")
    operation.get_operation_order_from_stack = order_from_stack
    operation.pop_global_arguments = global_arguments


def order_from_stack(state: Any) -> list[int]:
    """Return the lines from the deploy file down to the operation's caller, pyinfra's own left out.

    pyinfra reads the source of every frame to find a number that the frame has.
    """
    own = import_module("pyinfra.api.util").PYINFRA_INSTALL_DIR
    lines = _lines()
    deploy = state.current_deploy_filename
    first = next((at for at, (file, _) in enumerate(lines) if file == deploy), len(lines)) if deploy else 0
    return [state.current_op_file_number, *(line for file, line in lines[first:] if not file.startswith(own))]


def global_arguments(state: Any, host: Any, kwargs: dict[str, Any]) -> Any:
    """Take the global arguments out of an operation's; raises what pyinfra's own function raises, for it does the work.

    It looks through all data of a host for each of three dozen names; here that data is put together once.
    """
    pyinfra = import_module("pyinfra.api.arguments")
    names = pyinfra.all_argument_meta
    data = {name: copy(value) for name, value in host.data.dict().items() if name in names}
    seen = SimpleNamespace(data=SimpleNamespace(**data), current_deploy_kwargs=host.current_deploy_kwargs)
    return pyinfra.pop_global_arguments(state, seen, kwargs)


def _lines() -> list[tuple[str, int]]:
    """Return file and line of every frame above our own two, the outermost first."""
    found: list[tuple[str, int]] = []
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - what inspect.stack() itself begins with
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def _once(module: Any, name: str) -> None:
    """Have a function of no arguments answer with what it said the first time."""
    asked: Callable[[], Any] = getattr(module, name)
    if not hasattr(asked, "cache_info"):
        setattr(module, name, cache(asked))
