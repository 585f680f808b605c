"""What others ask of the task that owns the workers' state: an order and its answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rbee_runtime.errors import RbeeError


@dataclass(frozen=True)
class Order:
    """A wish from outside, done by the one task that owns the state."""

    do: Callable[[], object]
    answer: asyncio.Future[None]

    def carry_out(self) -> None:
        """Do it, and tell whoever still waits for it how that went."""
        try:
            self.do()
        except RbeeError as error:
            if not self.answer.cancelled():
                self.answer.set_exception(error)
        else:
            if not self.answer.cancelled():
                self.answer.set_result(None)
