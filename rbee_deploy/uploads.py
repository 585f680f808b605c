"""How many hosts receive large files at a time: more than a line can carry makes every one of them late."""

from typing import Any

from gevent.lock import BoundedSemaphore
from pyinfra.api.state import BaseStateCallback

_GATE = "rbee_uploads"
_INSIDE = "rbee_uploading"


class UploadGate(BaseStateCallback):
    """Lets at most `most` hosts upload; one that fails in the middle lets the next in."""

    def __init__(self, most: int) -> None:
        self._slots = BoundedSemaphore(most)

    def enter(self, host: Any) -> None:
        """Wait until the host may upload."""
        if not host.connector_data.get(_INSIDE):
            self._slots.acquire()
            host.connector_data[_INSIDE] = True

    def leave(self, host: Any) -> None:
        """Let the next host in."""
        if host.connector_data.pop(_INSIDE, False):
            self._slots.release()

    def operation_host_success(self, state: Any, host: Any, op_hash: str, retry_count: int = 0) -> None:
        """Let the next in when an operation has ended."""
        self.leave(host)

    def operation_host_error(
        self, state: Any, host: Any, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        """Let the next in when one has failed half-way."""
        self.leave(host)


def gate(state: Any, most: int) -> UploadGate:
    """Return the run's one gate."""
    if _GATE not in state.__dict__:
        state.__dict__[_GATE] = UploadGate(most)
        state.add_callback_handler(state.__dict__[_GATE])
    made: UploadGate = state.__dict__[_GATE]
    return made
