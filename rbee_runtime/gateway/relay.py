"""Every request that is relayed at the moment."""

import asyncio
from collections.abc import Callable

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.attempt import Means
from rbee_runtime.gateway.clockwork import Clockwork
from rbee_runtime.gateway.downstream import Answer
from rbee_runtime.gateway.exchange import Exchange, Outcome, too_large
from rbee_runtime.gateway.front import Front
from rbee_runtime.gateway.routes import HotRoute
from rbee_runtime.gateway.seam import Gate, Limits
from rbee_runtime.gateway.upstream import Pool


class Relay:
    """Carries requests between clients and workers; one per process. `over` hears of each that is done."""

    def __init__(
        self, gate: Gate, pool: Pool, *, limits: Limits | None = None, over: Callable[[Outcome], None] = lambda _: None
    ) -> None:
        self._means = Means(gate, pool, limits or Limits(), asyncio.get_running_loop())
        self._tell = over
        self.continued = 0
        """How often a worker went on with the stream of another one."""
        self._open: set[Exchange] = set()
        self._clockwork = Clockwork(self._open, self._means.loop)
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open(self) -> int:
        """Return how many exchanges are under way."""
        return len(self._open)

    async def wait_idle(self) -> None:
        """Return once no exchange is under way."""
        await self._idle.wait()

    def cut(self) -> None:
        """End every exchange now, each with an error its client understands."""
        for exchange in tuple(self._open):
            exchange.cut()

    def take(
        self,
        front: Front,
        route: HotRoute,
        *,
        key: str,
        request_id: str,
        pin: str = "",
        refusal: RequestError | None = None,
    ) -> Exchange:
        """Return who answers the request whose head `front` has: by the worker `pin` alone, with `refusal` if any."""
        length = front.header(b"content-length")
        if refusal is None and length and int(length) > self._means.limits.body_bytes:
            refusal = too_large(self._means.limits)
        exchange = Exchange(
            self._means,
            Answer(front, route, request_id),
            Outcome(path=route.path, key=key, request_id=request_id),
            accept=front.header(b"accept"),
            pin=pin,
            refusal=refusal,
            over=self._over,
        )
        self._open.add(exchange)
        self._idle.clear()
        self._clockwork.start()
        return exchange

    def _over(self, exchange: Exchange) -> None:
        self._open.discard(exchange)
        if not self._open:
            self._idle.set()
        self.continued += exchange.outcome.continued
        self._tell(exchange.outcome)
