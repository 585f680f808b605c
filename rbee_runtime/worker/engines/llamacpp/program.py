"""The process that holds the model: `python -m rbee_runtime.worker.engines.llamacpp.program FD`.

One thread reads what the front sends and tokenises, the main thread decodes. It ends with the front: when the socket
closes, or when the front's process is gone.
"""

import contextlib
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from rbee_runtime.errors import EngineError, EngineLoadError, ModelStoreError
from rbee_runtime.models import gguf
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import artefact, attendant
from rbee_runtime.worker.engines.llamacpp import native, wire
from rbee_runtime.worker.engines.llamacpp.embedding import Embedder, chosen
from rbee_runtime.worker.engines.llamacpp.loop import Loop
from rbee_runtime.worker.engines.options import Task

LOOK_SECONDS = 0.5
"""So often is looked, while nobody asks for anything, whether what is stuck has come to an end."""

IDLE_SECONDS = 3.0
"""So long nobody asks for anything before the end: the front hears within a second that it shall send nobody, and what
it was preparing then still comes."""

READ = 256 << 10
"""Bytes that are taken off the socket at once."""

SLICE = 64
"""Texts that are tokenised before somebody else's are."""


class Channel:
    """The socket to the front, blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unread = bytearray()
        self._lock = threading.Lock()
        self._coming = select.poll()
        self._coming.register(connection, select.POLLIN)

    def send(self, message: wire.ToFront) -> None:
        """Send a whole message; BrokenPipeError when the front is gone."""
        with self._lock:
            self._socket.sendall(wire.frame(message))

    def receive(self) -> Any:
        """Return the next message, None at the end."""
        while (payload := wire.taken(self._unread)) is None:
            # A thread that waits in recv is woken whenever the front has read something: with each token, where the
            # main thread computes.
            self._coming.poll()
            received = self._socket.recv(READ)
            if not received:
                return None
            self._unread += received
        return wire.for_engine(payload)


class Program:
    """The halves of the process: a thread that reads, one that tokenises, and the main one that decodes."""

    def __init__(self, channel: Channel, clock: Callable[[], float]) -> None:
        self._channel = channel
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._texts: queue.Queue[_Asked] = queue.Queue()
        self._abort = native.Abort()
        self._steps: Loop | Embedder | None = None
        self._since = 0.0
        self._stuck = 0.0
        self._idle_since: float | None = None

    def run(self, order: wire.Load) -> None:
        """Load the model and serve until the front ends."""
        # Reading begins at once: a front that gives up while the model loads is heard.
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        try:
            task, model = self._load(order)
        except EngineLoadError as error:
            self._channel.send(wire.NotLoaded(str(error), error.reason))
            return
        if task is Task.EMBED:
            context = min(order.context, model.trained or order.context)
            self._steps = self._embedder(model, order, context)
        else:
            context = min(order.context, model.cells // order.slots)
            self._steps = self._answerer(model, order, context)
        threading.Thread(target=self._tokenise, args=(model, self._steps), name="tokeniser", daemon=True).start()
        self._channel.send(wire.Loaded(context, model.template or "", model.bos, model.eos, task))
        self._serve(self._steps)

    def _load(self, order: wire.Load) -> tuple[Task, native.NativeModel]:
        path = Path(order.path)
        try:
            metadata = gguf.read(path).metadata
        except ModelStoreError as error:
            raise EngineLoadError(str(error)) from error
        if order.directory:
            artefact.activate(Path(order.directory), "llama-cpp")
        task, pooling = chosen(metadata, order.task, order.pooling)
        order = msgspec.structs.replace(order, pooling=pooling)
        return task, native.load(order, task=task, progress=self._progress, abort=self._abort)

    def _answerer(self, model: native.NativeModel, order: wire.Load, context: int) -> Loop:
        return Loop(
            model,
            slots=order.slots,
            context=context,
            batch=order.batch,
            parking=order.parking,
            send=self._channel.send,
            clock=self._clock,
        )

    def _embedder(self, model: native.NativeModel, order: wire.Load, context: int) -> Embedder:
        room = max(order.batch, context)
        return Embedder(
            model, context=context, room=room, slots=order.slots, send=self._channel.send, clock=self._clock
        )

    def _progress(self, share: float) -> None:
        try:
            self._channel.send(wire.Progress(share))
        except OSError:
            # The front is gone, and an error in a callback of C is printed each time and forgotten.
            self._abort.set(True)

    def _serve(self, steps: Loop | Embedder) -> None:
        worked = True
        while True:
            try:
                # While there is something to compute: what came meanwhile, without waiting for more.
                call = self._inbox.get(block=not worked, timeout=LOOK_SECONDS if steps.stuck else None)
            except queue.Empty:
                self._look_for_stuck(steps)
                self._since = self._clock()
                worked = steps.step()
                self._since = 0.0
                continue
            if call is None:
                return
            self._since = self._clock()
            call()
            self._since = 0.0
            worked = True

    def _look_for_stuck(self, steps: Loop | Embedder) -> None:
        """Note for how long something is stuck; EngineError when only the end of this helps and holds nobody up."""
        self._stuck = steps.stuck
        idle = self._stuck >= wire.STUCK_SECONDS and steps.idle
        if not idle or self._texts.unfinished_tasks or not self._inbox.empty():
            self._idle_since = None
            return
        now = self._clock()
        self._idle_since = now if self._idle_since is None else self._idle_since
        if now - self._idle_since >= IDLE_SECONDS:
            raise EngineError("a grammar of a client has no end, and takes a processor until this process ends")

    def _read(self) -> None:
        try:
            while (message := self._channel.receive()) is not None and not isinstance(message, wire.Quit):
                self._take(message)
        finally:
            self._abort.set(True)
            self._inbox.put(None)

    def _take(self, message: Any) -> None:
        match message:
            case wire.Submit() | wire.Tokenise() | wire.Embed():
                self._texts.put(message)
            case wire.Cancel() if (steps := self._steps) is not None:
                steps.abandon(message.request)
                self._inbox.put(lambda: steps.cancel(message.request))
            case wire.Ping():
                since = self._since
                busy = self._steps.counts() if self._steps is not None else (0, 0, 0)
                step = self._clock() - since if since else 0.0
                self._channel.send(wire.Pong(message.number, *busy, step, self._stuck))

    def _tokenise(self, model: native.NativeModel, steps: Loop | Embedder) -> None:
        while True:
            asked = self._texts.get()
            try:
                if isinstance(asked, wire.Tokenise):
                    self._channel.send(_tokens(model, asked))
                elif isinstance(asked, wire.Embed):
                    self._texts.put(_Partly(asked.request, asked.texts))
                elif isinstance(asked, _Partly) and asked.goes_on(model):
                    # Behind what came meanwhile: a library of texts takes seconds.
                    self._texts.put(asked)
                else:
                    self._inbox.put(_prepared(model, steps, asked))
            except Exception as error:  # noqa: BLE001 - a thread that is gone would keep every later request waiting
                message = f"its text cannot be made into tokens: {error}"
                param = "input" if isinstance(asked, _Partly) else "messages"
                self._channel.send(wire.Refused(asked.request, 400, message, None, param))
            finally:
                self._texts.task_done()


@dataclass
class _Partly:
    """Texts of which the first ones are tokenised; `too_long` is the number and least count of one that is too long."""

    request: int
    texts: list[str | list[int]]
    tokens: list[list[int]] = field(default_factory=list)
    too_long: tuple[int, int] | None = None

    def goes_on(self, model: native.NativeModel) -> bool:
        """Tokenise some more; False once all are, or one is too long."""
        for text in self.texts[len(self.tokens) : len(self.tokens) + SLICE]:
            if isinstance(text, str) and (least := model.fewest_tokens(text)) > model.cells:
                self.too_long = (len(self.tokens), least)
                return False
            self.tokens.append(model.tokens_of(text) if isinstance(text, str) else text)
        return len(self.tokens) < len(self.texts)


_Asked = wire.Submit | wire.Tokenise | wire.Embed | _Partly


def _prepared(model: native.NativeModel, steps: Loop | Embedder, asked: wire.Submit | _Partly) -> Callable[[], None]:
    match asked, steps:
        case wire.Submit(), Loop():
            return _submission(model, steps, asked)
        case _Partly(), Embedder():
            if asked.too_long is not None:
                return partial(steps.refuse, asked.request, *asked.too_long)
            return partial(steps.submit, asked.request, asked.tokens)
        case _:
            raise AssertionError(f"{type(asked).__name__} is not for {type(steps).__name__}")


def _submission(model: native.NativeModel, loop: Loop, submit: wire.Submit) -> Callable[[], None]:
    if not isinstance(submit.prompt, str):
        prompt = submit.prompt
    elif (least := model.fewest_tokens(submit.prompt)) > model.cells:
        # What is surely too long is not tokenised: some vocabularies take minutes for ten million characters.
        return lambda: loop.refuse(submit, least)
    else:
        prompt = model.tokens_of(submit.prompt)
    return lambda: loop.submit(submit, prompt)


def _tokens(model: native.NativeModel, asked: wire.Tokenise) -> wire.Tokens | wire.Refused:
    if (least := model.fewest_tokens(asked.text)) > model.cells:
        message = f"the text has {least} tokens or more, which no context of this model holds"
        return wire.Refused(asked.request, 400, message, "context_length_exceeded", "content")
    return wire.Tokens(asked.request, model.tokens_of(asked.text))


def main() -> None:
    """Serve the socket whose number is the only argument."""
    if not attendant.attend():
        return
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    order = channel.receive()
    if not isinstance(order, wire.Load):
        return
    with contextlib.suppress(BrokenPipeError):
        try:
            Program(channel, time.monotonic).run(order)
        except EngineError as error:
            channel.send(wire.Crashed(str(error)))
        except MemoryError:
            channel.send(wire.Crashed("it is out of memory", ExitReason.OUT_OF_MEMORY))
    sys.stderr.flush()
    # Not sys.exit: a decode step that hangs in native code would turn the interpreter's clean-up into a crash.
    os._exit(0)


if __name__ == "__main__":
    main()
