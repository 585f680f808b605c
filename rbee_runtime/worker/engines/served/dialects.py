"""What tells one server of OpenAI's API from another."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import ChatRequest, Delta


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server shall listen: a socket in a folder of the worker's own, or a port on loopback behind a key."""

    folder: Path
    port: int
    key: str

    @property
    def socket(self) -> Path:
        """Return the socket's path."""
        return self.folder / "engine.sock"


@dataclass(frozen=True, slots=True)
class Start:
    """A program to start: its words, variables beside those of the worker, and whether it listens on the port."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    on_port: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat: the body to send, and what makes the answer of what comes back (None: it is the answer)."""

    body: dict[str, Any]
    reader: "Callable[[AsyncIterator[Delta]], AsyncGenerator[Delta, None]] | None" = None


@dataclass(frozen=True, slots=True)
class Words:
    """A server's fields for what OpenAI has none for; "" where it has none either.

    `goes_on` says whether it takes vLLM's two fields by which an answer is the rest of the last message.
    """

    top_k: str = ""
    min_p: str = ""
    repeat: str = ""
    grammar: str = ""
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Levels:
    """The names of a server's own figures in its /metrics, `NAME[LABEL]` for a label; "" for what it does not tell."""

    busy: str = ""
    waiting: str = ""
    held_share: str = ""
    cells: str = ""


class Dialect(Protocol):
    """One server: how to start it and how to speak to it."""

    @property
    def name(self) -> str:
        """Return the engine's name for people."""

    @property
    def ready_path(self) -> str:
        """Return the path that answers 200 once the model is loaded and as long as all is well."""

    @property
    def writes(self) -> bool:
        """Say whether its model answers with text: some servers would write with one of vectors too, but nonsense."""

    @property
    def sees(self) -> bool:
        """Say whether pictures are passed on; one that cannot read them may still refuse."""

    @property
    def words(self) -> Words:
        """Return its fields beside OpenAI's."""

    @property
    def levels(self) -> Levels:
        """Return the names of its figures."""

    def named(self, model: str) -> dict[str, Any]:
        """Return the field by which the server knows its model."""

    def start(self, place: Place) -> Start:
        """Return what to start, or raise EngineLoadError: no program, no memory."""

    def progress(self, line: str) -> float | None:
        """Return how far the load is by a line of the log, None if it does not say."""

    def reason(self, line: str) -> ExitReason | None:
        """Return why the load fails if a line of the log says so; the first that does is believed."""

    @property
    def unknown_reason(self) -> ExitReason:
        """Return why a load failed of which the log does not say why."""

    def chat(self, body: dict[str, Any], request: ChatRequest) -> Chat:
        """Return a chat as this server needs it, from its body in OpenAI's words; RequestError if it cannot be."""

    def text_tokens(self, text: str) -> tuple[str, dict[str, Any]]:
        """Return the path and body that give a text's tokens; RequestError if there is no such route."""

    def prompt_of(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the path and body that give the tokens, or at least the text, of a chat's prompt."""


def visible(devices: Sequence[str]) -> dict[str, str]:
    """Return the variable that leaves NVIDIA's libraries the devices of a spec and no others; {} for none in it."""
    found = [device for device in devices if device.startswith(("GPU-", "MIG-"))]
    return {"CUDA_VISIBLE_DEVICES": ",".join(found)} if devices else {}
