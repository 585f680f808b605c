"""Whose orders a hive carries out: those of the queen at its own address, as she answers its heartbeats.

A queen on a copy of the state knows every hive and has the next epoch when she starts, as one that was restarted has.
What she cannot do from another host is to answer heartbeats: these go where the deploy says that the queen is.
"""

import asyncio

from rbee_runtime.errors import StaleDesiredError

PATIENCE_SECONDS = 1.0
"""A queen that has just started sends her document once she hears a heartbeat; it may be here before the answer."""


class Obedience:
    """Knows the epoch of the last answer; until there is one, the mark beside the document decides alone."""

    def __init__(self, queen_url: str) -> None:
        self._queen_url = queen_url
        self._epoch: int | None = None
        self._news = asyncio.Event()

    def answered(self, epoch: int) -> None:
        """Note what the queen at our address says of herself."""
        if epoch != self._epoch:
            self._epoch = epoch
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def check(self, epoch: int) -> None:
        """Return if a queen of this epoch may command here, or raise StaleDesiredError."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self._epoch not in {None, epoch}:
                    await self._news.wait()
        except TimeoutError:
            raise StaleDesiredError(
                f"a queen of epoch {epoch} commands, the one at {self._queen_url} is of epoch {self._epoch}: another "
                "queen has a copy of the state; stop one of them, or deploy this host with the other's inventory"
            ) from None
