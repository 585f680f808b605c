"""Clients of one gateway, as cheap as clients can be: what they cost is not there for whoever answers them.

Every answer is checked. A measurement of errors is none, so the first one ends it, unless errors are what is counted.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httptools

from benchmarks.gateway.answers import MODELS, Form, body_of, fault, request

PATIENCE = 120.0
"""More seconds than the slowest gateway needs for what is under way when its time is over."""


LATE, LATE_SECONDS = 1.02, 0.05
"""How much longer requests at fixed times may take to be sent: more says that who sends them had no core."""


class BenchError(Exception):
    """Something did not run, so that there is nothing to measure; the message says what."""


@dataclass(frozen=True)
class Target:
    """Who is asked: its port, the keys that its clients have, and whether it passes bytes on as they come."""

    name: str
    port: int
    keys: tuple[str, ...] = ("",)
    exact: bool = True

    def clients(self, form: Form) -> Iterator[Iterator[bytes]]:
        """Yield clients without end: what each asks on its connection, with one key, and each model in turn."""
        for number, key in enumerate(itertools.cycle(self.keys)):
            asked = [request(form, port=self.port, key=key, model=model) for model in MODELS]
            first = number % len(asked)
            yield itertools.cycle(asked[first:] + asked[:first])


class Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time; httptools calls the `on_` methods.

    `first` is seconds from the request to the first byte of its answer's body, `fault` what is wrong with the answer.
    """

    def __init__(
        self, target: Target, form: Form, requests: Iterator[bytes], answered: Callable[["Connection"], None]
    ) -> None:
        self.first = 0.0
        self.fault = ""
        self._target = target
        self._form = form
        self._requests = requests
        self._right = body_of(form)
        self._answered = answered
        self._waits = False
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._begun = 0.0

    def ask(self) -> None:
        """Send its client's next request."""
        self._waits, self._body = True, []
        asked = next(self._requests)
        self._begun = time.perf_counter()
        self._transport.write(asked)

    @property
    def alive(self) -> bool:
        """Say whether the other end kept it too."""
        return not self._transport.is_closing()

    def close(self) -> None:
        """Leave."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"an answer that is not HTTP: {error}")

    def connection_lost(self, _: Exception | None) -> None:
        """Tell of an answer that will not end."""
        self._end(f"the connection broke off after {sum(map(len, self._body))} bytes of the body")

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        if not self._body:
            self.first = time.perf_counter() - self._begun
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Check the answer."""
        status, body = self._parser.get_status_code(), b"".join(self._body)
        # The usual case first: this runs tens of thousands of times a second.
        right = status == 200 and body == self._right
        self._end("" if right else fault(self._form, status, body, exact=self._target.exact))

    def _end(self, fault: str) -> None:
        if self._waits:
            self._waits, self.fault = False, fault
            self._answered(self)


async def connect(
    target: Target, form: Form, requests: Iterator[bytes], answered: Callable[[Connection], None]
) -> Connection:
    """Return a new connection of a client that asks `requests`, or raise BenchError."""
    loop = asyncio.get_running_loop()
    try:
        _, made = await loop.create_connection(
            lambda: Connection(target, form, requests, answered), "127.0.0.1", target.port
        )
    except OSError as error:
        raise BenchError(f"{target.name} takes no connection: {error}") from error
    return made


@dataclass(frozen=True)
class Rate:
    """So many answers in so many seconds."""

    answers: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Return how many a second."""
        return self.answers / self.seconds


class ClosedLoop:
    """So many connections, each of which asks again as soon as it is answered, until the time is over.

    What is under way then is waited for and counted with its time: the gateway works at it as hard as before.
    """

    def __init__(self, target: Target, form: Form) -> None:
        self._target = target
        self._form = form
        self._clients = target.clients(form)
        self._answers = 0
        self._asking = 0
        self._deadline = 0.0
        self._ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def run(self, connections: int, seconds: float) -> Rate:
        """Return the rate, or raise BenchError for the first answer that is wrong."""
        clients = itertools.islice(self._clients, connections)
        made = [await connect(self._target, self._form, requests, self._next) for requests in clients]
        begun = time.perf_counter()
        self._deadline, self._asking = begun + seconds, connections
        try:
            for each in made:
                each.ask()
            async with asyncio.timeout(seconds + PATIENCE):
                return Rate(await self._answered(), await self._ended - begun)
        except TimeoutError:
            raise BenchError(f"{self._target.name} still answered {PATIENCE:g} s after the end") from None
        finally:
            for each in made:
                each.close()

    async def _answered(self) -> int:
        await self._ended
        return self._answers

    def _next(self, connection: Connection) -> None:
        if self._ended.done():
            return
        if connection.fault:
            self._ended.set_exception(BenchError(f"{self._target.name} answered wrong: {connection.fault}"))
            return
        self._answers += 1
        now = time.perf_counter()
        if now < self._deadline:
            connection.ask()
            return
        self._asking -= 1
        if not self._asking:
            self._ended.set_result(now)


@dataclass(frozen=True)
class Answer:
    """Seconds to the first byte of the body, and what is wrong with it."""

    first: float
    fault: str = ""


class OpenLoop:
    """Requests at fixed times, whoever has been answered by then; connections that are idle are used again."""

    def __init__(self, target: Target, form: Form, count: int, interval: float) -> None:
        self._target = target
        self._form = form
        self._clients = target.clients(form)
        self._count = count
        self._interval = interval
        self._made: list[Connection] = []
        self._idle: list[Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._answers: list[Answer] = []
        self._last = 0.0
        self._ended = asyncio.Event()

    async def run(self, seconds: float, spare: int = 0) -> list[Answer]:
        """Return all answers; those that are not there within `seconds` are wrong; `spare` connections are made before.

        Raises BenchError if the requests were not sent at their times.
        """
        loop = asyncio.get_running_loop()
        for _ in range(spare):
            self._idle.append(await self._connect())
        begun = loop.time()
        timers = [loop.call_at(begun + number * self._interval, self._ask) for number in range(self._count)]
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            missing = self._count - len(self._answers)
            self._answers += [Answer(0.0, f"no answer within {seconds:g} s")] * missing
        finally:
            for timer in timers:
                timer.cancel()
            for task in self._opening:
                task.cancel()
            answers, self._answers = self._answers, []
            for connection in self._made:
                connection.close()
        self._check_pace(self._last - begun)
        return answers

    def _check_pace(self, took: float) -> None:
        planned = (self._count - 1) * self._interval
        if took > planned * LATE + LATE_SECONDS:
            raise BenchError(
                f"{self._count} requests were sent in {took:.2f} s instead of {planned:.2f}: no core is free"
            )

    def _ask(self) -> None:
        self._last = asyncio.get_running_loop().time()
        while self._idle:
            if (idle := self._idle.pop()).alive:
                idle.ask()
                return
        task = asyncio.create_task(self._ask_anew())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _ask_anew(self) -> None:
        try:
            made = await self._connect()
        except BenchError as error:
            self._note(Answer(0.0, str(error)))
        else:
            made.ask()

    async def _connect(self) -> Connection:
        self._made.append(await connect(self._target, self._form, next(self._clients), self._answered))
        return self._made[-1]

    def _answered(self, connection: Connection) -> None:
        self._note(Answer(connection.first, connection.fault))
        if not connection.fault:
            self._idle.append(connection)

    def _note(self, answer: Answer) -> None:
        self._answers.append(answer)
        if len(self._answers) == self._count:
            self._ended.set()
