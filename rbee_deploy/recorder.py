"""Takes the time of every operation on every host, for the report."""

import time
from collections.abc import Callable
from typing import Any

from pyinfra.api.state import BaseStateCallback


class Recorder(BaseStateCallback):
    """Notes how long each operation took on each host; `on_operation` hears of each that begins."""

    def __init__(self, on_operation: Callable[[Any, str], None] = lambda _state, _op_hash: None) -> None:
        self.seconds: dict[tuple[str, str], float] = {}
        self._begun: dict[tuple[str, str], float] = {}
        self._on_operation = on_operation

    def operation_start(self, state: Any, op_hash: str) -> None:
        """Pass it on."""
        self._on_operation(state, op_hash)

    def operation_host_start(self, state: Any, host: Any, op_hash: str) -> None:
        """Note the start."""
        self._begun[host.name, op_hash] = time.monotonic()

    def operation_host_success(self, state: Any, host: Any, op_hash: str, retry_count: int = 0) -> None:
        """Note the end."""
        self._end(host, op_hash)

    def operation_host_error(
        self, state: Any, host: Any, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        """Note the end."""
        self._end(host, op_hash)

    def was_cut_off(self, host: str, op_hash: str) -> bool:
        """Say whether an operation began on a host and did not end."""
        return (host, op_hash) in self._begun and (host, op_hash) not in self.seconds

    def since(self, host: str, op_hash: str) -> float:
        """Return the seconds that an operation took, or has taken until now."""
        begun = self._begun.get((host, op_hash), time.monotonic())
        return self.seconds.get((host, op_hash), time.monotonic() - begun)

    def _end(self, host: Any, op_hash: str) -> None:
        self.seconds[host.name, op_hash] = self.since(host.name, op_hash)
