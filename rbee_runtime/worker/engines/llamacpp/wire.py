"""What the front and the engine's process say to each other: msgpack messages, each behind its length (4 bytes).

Both are of one release and end together, so there are no versions here.
"""

import struct
from typing import Any

import msgspec

from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.worker.engines import Delta, Sampling
from rbee_runtime.worker.engines.options import Task

LARGEST = 256 << 20
"""Bytes of one message; a prompt is at most 16 MiB, so more is damage."""

_HEAD = struct.Struct("<I")


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first message: which model, and how. `directory` is the engine artefact ("": installed packages).

    `gpu_layers` None is all; `flash_attention` and `kv_type` are the names of the engine's options, `shares` those of
    the devices; `parking` is bytes of main memory for sequences that nobody answers now; `task` and `pooling` are as
    the options have them.
    """

    path: str
    directory: str
    context: int
    slots: int
    gpu_layers: int | None
    threads: int
    batch: int
    flash_attention: str
    kv_type: str
    parking: int
    shares: tuple[float, ...] = ()
    task: str = ""
    pooling: str = ""


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Answer a prompt (text or token ids). `room` None is until the context is full; `logprobs` None is none.

    `shown` is texts of control tokens that are given out as text, where others are not.
    """

    request: int
    prompt: str | list[int]
    room: int | None
    stop: tuple[str, ...]
    sampling: Sampling
    choices: int = 1
    logprobs: int | None = None
    shown: tuple[str, ...] = ()


class Tokenise(msgspec.Struct, frozen=True, tag=True):
    """Return the tokens of a text, as a prompt would have them."""

    request: int
    text: str


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Return the vectors of texts (or token ids)."""

    request: int
    texts: list[str | list[int]]


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Nobody waits for this request any more."""

    request: int


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Say that you are there, and how busy."""

    number: int


class Quit(msgspec.Struct, frozen=True, tag=True):
    """End, and free the model."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """So much (0..1) of the model is loaded."""

    share: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is ready; `context` is tokens per sequence, `template` its chat template ("": none).

    `task` is what it serves.
    """

    context: int
    template: str
    bos: str
    eos: str
    task: Task = Task.GENERATE


class NotLoaded(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded; `reason` is an exit reason."""

    message: str
    reason: str


class Piece(msgspec.Struct, frozen=True):
    """A part of the answer to a request."""

    request: int
    delta: Delta


class Pieces(msgspec.Struct, frozen=True, tag=True):
    """All that one step brought."""

    pieces: list[Piece]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A request that cannot be served, as an answer to its client."""

    request: int
    status: int
    message: str
    code: str | None = None
    param: str | None = None
    kind: str = "invalid_request_error"
    retry_after: int | None = None

    @classmethod
    def of(cls, request: int, error: RequestError) -> "Refused":
        """Return the refusal of a request."""
        return cls(request, error.status, str(error), error.code, error.param, error.kind, error.retry_after)

    @property
    def error(self) -> RequestError:
        """Return it as the front has it."""
        return RequestError(
            self.status,
            self.message,
            kind=self.kind,
            code=self.code,
            param=self.param,
            retry_after=self.retry_after,
        )


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """The tokens of a text."""

    request: int
    tokens: list[int]


class Vectors(msgspec.Struct, frozen=True, tag=True):
    """Vectors in the order of the texts, each as its 32-bit floats, and how many tokens all texts had."""

    request: int
    vectors: list[bytes]
    tokens: int


class Pong(msgspec.Struct, frozen=True, tag=True):
    """The answer to a ping: slots taken, prompts that wait, tokens in cells, seconds since the running step began.

    `stuck` is how many seconds something has been computed that nobody waits for, and nobody can stop.
    """

    number: int
    busy: int = 0
    waiting: int = 0
    held: int = 0
    step: float = 0.0
    stuck: float = 0.0


class Crashed(msgspec.Struct, frozen=True, tag=True):
    """The engine is beyond use, and this is why; `reason` is an exit reason where one is known."""

    message: str
    reason: str = ""


ToEngine = Load | Submit | Tokenise | Embed | Cancel | Ping | Quit
ToFront = Progress | Loaded | NotLoaded | Pieces | Refused | Tokens | Vectors | Pong | Crashed

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_to_front = msgspec.msgpack.Decoder(ToFront)

STUCK_SECONDS = 5.0
"""Of what is stuck for longer the engine gets rid: nobody new is sent to it, and it ends when nobody waits any more."""

HEAD = _HEAD.size
"""Bytes before each message."""


def frame(message: ToEngine | ToFront) -> bytes:
    """Return a message as it goes over the socket."""
    return framed(_encoder.encode(message))


def framed(payload: bytes) -> bytes:
    """Return bytes behind their length."""
    return _HEAD.pack(len(payload)) + payload


def length_of(head: bytes | bytearray) -> int:
    """Return how many bytes follow a head; EngineCrashedError if no message is that long."""
    length: int = _HEAD.unpack(head)[0]
    if length > LARGEST:
        raise EngineCrashedError(f"the engine's process sends damaged messages ({length} bytes announced)")
    return length


def taken(unread: bytearray) -> bytes | None:
    """Take the first message off what came; None if it is not whole yet, EngineCrashedError as in `length_of`."""
    if len(unread) < HEAD:
        return None
    end = HEAD + length_of(unread[:HEAD])
    if len(unread) < end:
        return None
    payload = bytes(memoryview(unread)[HEAD:end])
    del unread[:end]
    return payload


def for_engine(payload: bytes) -> Any:
    """Return a message to the engine's process."""
    return _to_engine.decode(payload)


def for_front(payload: bytes) -> Any:
    """Return a message to the front."""
    return _to_front.decode(payload)
