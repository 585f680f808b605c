"""The steps of an engine that embeds: whole texts of many requests in one step, and a vector for each."""

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rbee_runtime.errors import EngineLoadError, RequestError
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines.llamacpp import wire
from rbee_runtime.worker.engines.llamacpp.forgotten import Forgotten
from rbee_runtime.worker.engines.llamacpp.loop import no_room
from rbee_runtime.worker.engines.llamacpp.native import MOST_TEXTS, POOLING, NativeModel, Outcome
from rbee_runtime.worker.engines.llamacpp.pace import Pace
from rbee_runtime.worker.engines.options import Task
from rbee_runtime.worker.engines.vectors import unit

_NAMES = {number: name for name, number in POOLING.items()}


@dataclass(slots=True)
class _Request:
    """Texts of which the first `len(vectors)` are done."""

    texts: list[list[int]]
    vectors: list[bytes] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.texts) - len(self.vectors)


class Embedder:
    """Called from one thread only, but for `counts` and `abandon`.

    `context` is tokens of a text at most, `room` those that a step holds; `send` takes a message to the front, `clock`
    is in seconds.
    """

    def __init__(
        self,
        model: NativeModel,
        *,
        context: int,
        room: int,
        slots: int,
        send: Callable[[wire.ToFront], None],
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._context = context
        self._slots = slots
        self._room = room
        self._pace = Pace(room)
        self._clock = clock
        self._send = send
        self._requests: dict[int, _Request] = {}
        self._gone = Forgotten()
        self._stepping: set[int] = set()

    def submit(self, request: int, texts: Sequence[list[int]]) -> None:
        """Queue the texts of a request, or refuse it."""
        if self._gone.pop(request):
            return
        try:
            for index, text in enumerate(texts):
                self._check(index, text)
        except RequestError as error:
            self._refuse(request, error)
        else:
            self._requests[request] = _Request(list(texts))

    def refuse(self, request: int, index: int, least: int) -> None:
        """Answer that a text of at least so many tokens is too long."""
        if not self._gone.pop(request):
            self._refuse(request, too_long(index, f"{least} tokens or more", self._context))

    def counts(self) -> tuple[int, int, int]:
        """Return requests that are computed, those that wait, and tokens kept (none); from any thread."""
        known = len(self._requests)
        return min(known, self._slots), max(0, known - self._slots), 0

    @property
    def idle(self) -> bool:
        """Say whether nobody waits for vectors."""
        return not self._requests

    @property
    def stuck(self) -> float:
        """Say that nothing is computed that nobody can stop."""
        return 0.0

    def cancel(self, request: int) -> None:
        """Forget a request; one that is not known yet is forgotten when it comes."""
        if self._requests.pop(request, None) is None:
            self._gone.add(request)

    def abandon(self, request: int) -> None:
        """End the running step if it computes for nobody else; from any thread, and `cancel` comes as well."""
        self._stepping.discard(request)
        if not self._stepping:
            self._model.abort.set(True)

    def step(self) -> bool:
        """Compute as many texts as fit into a step; False if there was nothing to do."""
        waiting = {number: request.texts[len(request.vectors) :] for number, request in self._shown()}
        taken = plan(waiting, self._pace.room(0), self._room)
        if not taken:
            return False
        begin = self._clock()
        self._stepping = {number for number, _ in taken}
        self._model.abort.set(False)
        outcome = self._model.embed([text for _, text in taken])
        if outcome is Outcome.DONE:
            self._pace.took(self._clock() - begin, prompts=sum(len(text) for _, text in taken), answering=0)
            self._done([number for number, _ in taken])
        elif outcome is Outcome.NO_ROOM:
            for number in {number for number, _ in taken}:
                self._refuse(number, no_room())
        return True

    def _shown(self) -> list[tuple[int, _Request]]:
        """Return the requests that the next step can serve, the one that waits longest first."""
        return list(self._requests.items())[:MOST_TEXTS]

    def _done(self, numbers: Sequence[int]) -> None:
        for index, number in enumerate(numbers):
            values = unit(self._model.vector(index))
            request = self._requests.get(number)
            if request is None:
                # Refused for a text before this one.
                continue
            if not all(map(math.isfinite, values)):
                self._refuse(number, _no_vector())
                continue
            request.vectors.append(array("f", values).tobytes())
            if not request.left:
                del self._requests[number]
                self._send(wire.Vectors(number, request.vectors, sum(map(len, request.texts))))
        self._turn(numbers)

    def _turn(self, numbers: Sequence[int]) -> None:
        """Have those that were served wait behind the others."""
        for number in dict.fromkeys(numbers):
            if (request := self._requests.pop(number, None)) is not None:
                self._requests[number] = request

    def _check(self, index: int, text: list[int]) -> None:
        most = self._model.vocabulary - 1
        if not text:
            raise RequestError(400, f"input {index} holds no text", param="input")
        if not all(0 <= token <= most for token in text):
            raise RequestError(400, f"input {index}: token ids of this model are 0 to {most}", param="input")
        if len(text) > self._context:
            raise too_long(index, f"{len(text)} tokens", self._context)

    def _refuse(self, request: int, error: RequestError) -> None:
        self._requests.pop(request, None)
        self._send(wire.Refused.of(request, error))


def plan(waiting: Mapping[int, Sequence[list[int]]], room: int, most: int) -> list[tuple[int, list[int]]]:
    """Return the texts of the next step, each with its request: at most MOST_TEXTS with at most `room` tokens.

    One of each request in turn, so that a short question does not wait for a library; within a request in order. The
    first one always goes, up to the `most` that a step holds.
    """
    taken: list[tuple[int, list[int]]] = []
    first = next((texts[0] for texts in waiting.values() if texts), [])
    room = min(most, max(room, len(first)))
    rest = {number: iter(texts) for number, texts in waiting.items()}
    while rest:
        for number in list(rest):
            text = next(rest[number], None)
            if text is None or len(text) > room or len(taken) == MOST_TEXTS:
                del rest[number]
                continue
            room -= len(text)
            taken.append((number, text))
    return taken


def chosen(metadata: Mapping[str, Any], task: str, pooling: str) -> tuple[Task, str]:
    """Return what a model is loaded for, and how its vectors are pooled; EngineLoadError where it can do neither.

    `task` and `pooling` are the worker's options ("": as the file says).
    """
    architecture = metadata.get("general.architecture", "")
    pooled, causal = metadata.get(f"{architecture}.pooling_type"), metadata.get(f"{architecture}.attention.causal")
    said = _NAMES.get(pooled, "") if isinstance(pooled, int) else ""
    if said == "rank":
        raise EngineLoadError(
            "this model ranks texts, which engine llama-cpp does not serve; take engine llama-server with task=rerank",
            reason=ExitReason.BAD_CONFIG,
        )
    if task == Task.GENERATE and causal is False:
        raise EngineLoadError(
            "this model makes vectors and no text; leave the option task out, or set it to embed",
            reason=ExitReason.BAD_CONFIG,
        )
    of_vectors = bool(said) or causal is False
    found = Task(task) if task else Task.EMBED if of_vectors else Task.GENERATE
    return found, (pooling or said or "mean") if found is Task.EMBED else ""


def too_long(index: int, tokens: str, context: int) -> RequestError:
    """Return the refusal of a text that the model cannot read in one piece; `tokens` says how many it has."""
    return RequestError(
        400,
        f"input {index} has {tokens}, this model reads {context} at a time; divide it",
        code="context_length_exceeded",
        param="input",
    )


def _no_vector() -> RequestError:
    message = "the engine's vector of this text has values that are no numbers"
    return RequestError(500, message, kind="server_error", code="engine_failed")
