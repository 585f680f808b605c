"""What becomes of a request at which we fail ourselves: an answer and a line in the log, never a client that waits."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from rbee_runtime.errors import RequestError


class Breakable(Protocol):
    """A request, or a part of one."""

    def broken(self, error: Exception) -> None:
        """End the request: this of ours went wrong with it."""
        ...


_Whose = TypeVar("_Whose", bound=Breakable)
_Given = ParamSpec("_Given")


def guarded(method: Callable[Concatenate[_Whose, _Given], None]) -> Callable[Concatenate[_Whose, _Given], None]:
    """Have the request end where `method` raises: sockets, clocks and tasks call it, and none of them could end it."""

    @functools.wraps(method)
    def call(self: _Whose, /, *arguments: _Given.args, **named: _Given.kwargs) -> None:
        try:
            method(self, *arguments, **named)
        except Exception as error:  # noqa: BLE001 - it is logged there
            self.broken(error)

    return call


def unforeseen() -> RequestError:
    """Return what a client hears of a fault of ours; what it was is in the log."""
    return RequestError(500, "the queen failed at this request", kind="server_error", code="queen_failed")
