"""Whose orders a hive carries out: those of the queen at its own address, as she answers its heartbeats.

A queen on a copy of the state knows every hive and has the next epoch when she starts, as one that was restarted has.
What she cannot do from another host is to answer heartbeats: these go where the deploy says that the queen is.
"""

import asyncio
import contextlib
from collections.abc import Callable

from rbee_runtime.errors import RequestError, StaleDesiredError
from rbee_runtime.protocol import QUEEN, epoch_of

PATIENCE_SECONDS = 3.0
"""How long an order of a queen that is not known yet waits for the answer to the heartbeat that asks who is there."""


class Obedience:
    """Knows who answered last; until somebody did, the mark beside the document decides alone.

    `ask` has a heartbeat sent at once, `check_mark` refuses epochs before the one that this hive follows.
    """

    def __init__(self, queen_url: str, *, check_mark: Callable[[int], None]) -> None:
        self.ask: Callable[[], None] = lambda: None
        self._queen_url = queen_url
        self._check_mark = check_mark
        self._known = ""
        self._answers = 0
        self._answer = asyncio.Event()

    def answered(self, queen: str) -> None:
        """Note what the queen at our address says of herself ("": nothing, she is of an older release)."""
        self._known = queen
        self._answers += 1
        answer, self._answer = self._answer, asyncio.Event()
        answer.set()

    async def check(self, queen: str) -> None:
        """Return if a queen may command here; StaleDesiredError if not, RequestError if that is no signature."""
        epoch = epoch_of(queen)
        if epoch is None:
            raise RequestError(400, f"{QUEEN} must be EPOCH-TOKEN, as the queen's answer to a heartbeat has it")
        if self._known not in {"", queen}:
            await self._learn(queen)
        self._check_mark(epoch)

    async def _learn(self, queen: str) -> None:
        """Ask who is there: the queen may have been started anew a moment ago."""
        self.ask()
        before = self._answers
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                # One answer may have been on its way already.
                while self._known not in {"", queen} and self._answers < before + 2:
                    await self._answer.wait()
        if self._known not in {"", queen}:
            raise StaleDesiredError(
                f"a queen commands that is not the one who answers this hive's heartbeats at {self._queen_url}: she "
                "has a copy of the state, or the answers do not come; where two are up, stop the other one"
            )
