"""Streams that run in the background while something is done to the fleet."""

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.e2e.fleets import Fleet

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam


@dataclass
class Stream:
    """One streamed answer of a scripted model, read by a thread of its own."""

    fleet: Fleet
    model: str = "slow"
    text: str = ""
    finish: str | None = None
    error: str = ""
    started: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def begin(self) -> Self:
        """Ask, and return at the first token."""
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        if not self.started.wait(30):
            message = f"the stream did not start: {self.error or 'no token within 30 s'}"
            raise AssertionError(message)
        return self

    def end(self, seconds: float = 60) -> Self:
        """Wait for the last token."""
        if self.thread is not None:
            self.thread.join(seconds)
        return self

    def read(self) -> None:
        """Ask and read to the end, here."""
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "count"}]
        try:
            for chunk in self.fleet.client().chat.completions.create(
                model=self.model, messages=messages, max_tokens=120, stream=True
            ):
                self.text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                self.finish = chunk.choices[0].finish_reason or self.finish if chunk.choices else self.finish
                if self.text:
                    self.started.set()
        except Exception as error:  # noqa: BLE001 - whatever cut the stream is what the test asserts on
            self.error = f"{type(error).__name__}: {error}"


@dataclass
class Streaming:
    """Streamed answers, one after the other, until stopped; whoever stops waits for the last to end."""

    fleet: Fleet
    model: str
    begun: list[Stream] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self.begun.append(Stream(self.fleet, model=self.model).begin())
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def _go_on(self) -> None:
        self.begun[0].end()
        while not self._stop.is_set():
            self.begun.append(Stream(self.fleet, model=self.model))
            self.begun[-1].read()


@dataclass
class Asking:
    """New short requests, one after the other, until stopped; `failures` holds every one that was not answered."""

    fleet: Fleet
    model: str = "slow"
    answered: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _ask(self) -> None:
        client = self.fleet.client()
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                client.chat.completions.create(
                    model=self.model, messages=[{"role": "user", "content": "hi"}], max_tokens=2
                )
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - every failure counts, whatever its type
                self.failures.append(f"{type(error).__name__}: {error}")
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self._stop.wait(0.1)
