"""Try an API key at the queen, or have her end one."""

from collections.abc import Callable, Iterator
from typing import Any

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from rbee_deploy import queens
from rbee_deploy.operations.ask import ANSWER
from rbee_deploy.operations.root import REFUSALS
from rbee_deploy.operations.workers import Door
from rbee_deploy.queens import UnansweredError


@operation()
def ended(queen: Callable[[], Door | None], key_id: str = "") -> Iterator[FunctionCommand]:
    """Use the door's key to end another by its id, unless that is ended already; with no id only use it.

    The answer is the ids of the keys that are valid then.
    """
    way = queen() if host.state.is_executing else None
    if way is None:
        host.noop("the queen is elsewhere")
        return
    known, end = (queens.asking(way, *call) for call in (("GET", "keys"), ("DELETE", f"keys/{key_id}")))
    yield FunctionCommand(_end, (known, end, key_id), {})


def _end(
    state: Any,  # noqa: ARG001 - pyinfra hands over both to a function that has both
    host: Any,
    known: StringCommand,
    end: StringCommand,
    key_id: str,
) -> bool:
    try:
        valid = {row["id"] for row in queens.answer(host, known)}
        if key_id in valid:
            queens.answer(host, end)
    except UnansweredError as error:
        host.connector_data.setdefault(REFUSALS, []).append(str(error))
        return False
    host.connector_data[ANSWER] = sorted(valid - {key_id})
    return True
