"""The keeper's calls to a queen; everything that goes wrong is one QueenCallError with a sentence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlencode

import httpx

from rbee_runtime.errors import QueenCallError, QueenUnreachableError
from rbee_runtime.keeper.settings import Settings

Row = dict[str, Any]

_API = "/api/v1/"
_EVENTS = f"{_API}events"
_MODELS = f"{_API}models"
_JSON = "application/json"

_TIMEOUT = httpx.Timeout(10.0)
_CHAT_TIMEOUT = httpx.Timeout(10.0, read=330.0)
"""A cold model may load for 300 s before the first byte; the queen's pings come every 15 s after that."""

_FOLLOW_TIMEOUT = httpx.Timeout(15.0, read=None)
"""A worker may write nothing for hours; a person ends it with Ctrl-C."""

_VERIFY_TIMEOUT = httpx.Timeout(10.0, read=3660.0)
"""A disk may take an hour to read a large model, and the queen waits as long."""


@dataclass(frozen=True)
class Piece:
    """Some text of an answer; the last ones have why it ended and the numbers of tokens if the queen said them."""

    text: str
    tokens: int | None = None
    prompt_tokens: int | None = None
    finish: str = ""


class QueenClient:
    """One queen. `transport` is for tests."""

    def __init__(
        self, settings: Settings, *, transport: httpx.BaseTransport | None = None, timeout: httpx.Timeout = _TIMEOUT
    ) -> None:
        key = settings.key.reveal()
        self._has_key = bool(key)
        self._url = settings.url
        self._http = httpx.Client(
            base_url=settings.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            verify=settings.verify(),
            timeout=timeout,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections, and with them every stream that is open."""
        self._http.close()

    def health(self) -> Row:
        """Return the queen's own state."""
        found = self._call("GET", "/health")
        return found if isinstance(found, dict) else {}

    def rows(self, kind: str) -> list[Row]:
        """Return what the admin API lists under that name, such as `hives`."""
        found = self._call("GET", f"/api/v1/{kind}")
        if not isinstance(found, list):
            raise self._no_queen()
        return found

    def of_hive(self, hive: str, kind: str) -> list[Row]:
        """Return `devices`, `models` or `events` of one hive, as it says itself."""
        found = self._call("GET", f"{_place('hives', hive)}/{kind}", accept=_JSON)
        if not isinstance(found, list):
            raise self._no_queen()
        return found

    def worker(self, worker: str) -> Row:
        """Return all that its hive knows of one worker."""
        return self._answer("GET", _place("workers", worker))

    def logs(self, worker: str, lines: int, *, follow: bool) -> Iterator[str]:
        """Yield the last lines that a worker wrote, and with `follow` those that it writes from now on."""
        query: Row = {"lines": lines, **({"follow": 1} if follow else {})}
        yield from self._lines(f"{_place('workers', worker)}/logs", query, {})

    def past_events(self) -> list[Row] | None:
        """Return what the queen still holds of what happened in the fleet; None from one that keeps no such list."""
        found = self._call("GET", _EVENTS, accept=_JSON, absent=True)
        if found is not None and not isinstance(found, list):
            raise self._no_queen()
        return found

    def events(self, hive: str, last: str = "") -> Iterator[Row]:
        """Yield what happens on a hive ("": in the fleet), each event with its `name` to go on after.

        It begins after the event of the name `last`, without one with what happens from now on.
        """
        headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        name = ""
        for line in self._lines(f"{_place('hives', hive)}/events" if hive else _EVENTS, {}, headers):
            field, _, value = line.partition(": ")
            if field == "id":
                name = value
            elif field == "data":
                yield {**self._json(value), "name": name}

    def _lines(self, path: str, query: Row, headers: dict[str, str]) -> Iterator[str]:
        with (
            self._explained(),
            self._http.stream("GET", path, params=query, headers=headers, timeout=_FOLLOW_TIMEOUT) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise self._refusal(answer)
            yield from answer.iter_lines()

    def load(self, model: str) -> Row:
        """Have a model loaded and return how far that is."""
        return self._answer("POST", f"{_place('models', model)}/load")

    def unload(self, model: str) -> Row:
        """Have every worker of a model go once its requests have ended, and return how many there are."""
        return self._answer("POST", f"{_place('models', model)}/unload")

    def pull(self, hive: str, model: str) -> Row:
        """Have a hive fetch a model, or go on with that, and say whether it is there."""
        return self._answer("POST", f"{_on_disk(hive, model)}/pull")

    def cancel_pull(self, hive: str, model: str) -> Row:
        """Stop a pull."""
        return self._answer("DELETE", f"{_on_disk(hive, model)}/pull")

    def on_disk(self, hive: str, model: str) -> Row | None:
        """Return how a hive has a model or how far that is on its way, None if neither."""
        found = self._call("GET", _on_disk(hive, model), absent=True)
        return found if isinstance(found, dict) else None

    def remove(self, hive: str, model: str) -> None:
        """Remove a model from a hive's disk."""
        self._call("DELETE", _on_disk(hive, model))

    def verify(self, hive: str, model: str) -> Row:
        """Have a hive read a model's files and compare them with their hashes; takes as long as its disk."""
        return self._answer("POST", f"{_on_disk(hive, model)}/verify", timeout=_VERIFY_TIMEOUT)

    def declare(self, name: str, source: str) -> Row:
        """Have a queen of this machine alone serve a file of it from now on."""
        found = self._call("POST", _MODELS, {"name": name, "source": source}, absent=True)
        if not isinstance(found, dict):
            raise QueenCallError(
                f"the queen at {self._url} serves the models of its inventory; only one of "
                "rbee-keeper start-queen --attached-hive takes --model"
            )
        return found

    def explain(self, model: str) -> Row:
        """Return why a model's workers are where they are."""
        return self._answer("GET", f"{_place('models', model)}/explain")

    def move(self, worker: str, hive: str) -> Row:
        """Have a worker replaced on another hive ("": the best one)."""
        return self._answer("POST", f"{_place('workers', worker)}/move", {"hive": hive})

    def served_models(self) -> list[Row]:
        """Return the models that this key may use."""
        found = self._call("GET", "/v1/models")
        if not isinstance(found, dict) or not isinstance(found.get("data"), list):
            raise self._no_queen()
        return list(found["data"])

    def set_drained(self, hive: str, *, drained: bool) -> str:
        """Drain a hive, or take it back; return why a drain is not in force yet, "" if it is."""
        found = self._call("POST", f"{_place('hives', hive)}/{'drain' if drained else 'undrain'}")
        return str(found.get("detail", "")) if isinstance(found, dict) else ""

    def create_key(self, asked: Row) -> Row:
        """Return a new key; the only time that it is shown."""
        found = self._answer("POST", "/api/v1/keys", asked)
        if "key" not in found:
            raise self._no_queen()
        return found

    def usage(self, asked: Row) -> list[Row]:
        """Return what keys used; `asked` may have `key`, `model`, `since`, `until`."""
        return self.rows(f"usage?{urlencode(asked)}")

    def revoke_key(self, key_id: str) -> None:
        """Make a key invalid."""
        self._call("DELETE", _place("keys", key_id))

    def chat(self, model: str, messages: list[Row], **options: Any) -> Iterator[Piece]:
        """Yield an answer as it comes; `options` are further fields of the request. Closed, it closes the stream."""
        body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        with (
            self._explained(),
            self._http.stream("POST", "/v1/chat/completions", json=body | options, timeout=_CHAT_TIMEOUT) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise self._refusal(answer)
            yield from self._pieces(answer)

    def _pieces(self, answer: httpx.Response) -> Iterator[Piece]:
        began = False
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return
            event = self._json(line.removeprefix("data: "))
            if event.get("error"):
                said = _message(event)
                raise QueenCallError(f"the answer broke off: {said}" if began else f"there is no answer: {said}")
            usage = event.get("usage") or {}
            choices = event.get("choices", ())
            text = "".join(choice["delta"].get("content") or "" for choice in choices)
            finish = "".join(choice.get("finish_reason") or "" for choice in choices)
            began = began or bool(text)
            yield Piece(text, usage.get("completion_tokens"), usage.get("prompt_tokens"), finish)
        raise QueenCallError("the answer broke off: the connection ended before the answer did")

    def _answer(self, method: str, path: str, body: Row | None = None, *, timeout: httpx.Timeout | None = None) -> Row:
        found = self._call(method, path, body, timeout=timeout)
        if not isinstance(found, dict):
            raise self._no_queen()
        return found

    def _call(
        self,
        method: str,
        path: str,
        body: Row | None = None,
        *,
        accept: str = "*/*",
        timeout: httpx.Timeout | None = None,
        absent: bool = False,
    ) -> Any:
        """Return what is answered; with `absent`, None for what is not there."""
        with self._explained():
            answer = self._http.request(
                method, path, json=body, headers={"accept": accept}, timeout=timeout or self._http.timeout
            )
        if absent and answer.status_code in {404, 405}:
            return None
        if answer.status_code >= 300:
            raise self._refusal(answer)
        return self._json(answer.text) if answer.content else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise QueenUnreachableError(f"the queen at {self._url} did not answer in time") from error
        except httpx.ConnectError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                raise QueenUnreachableError(
                    f"what answers at {self._url} does not speak TLS; write http://… in --url"
                ) from error
            raise QueenUnreachableError(
                f"no queen at {self._url}: {error}; check --url and --ca, or start one: "
                "rbee-keeper start-queen --attached-hive --model NAME=file:/path.gguf"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise QueenUnreachableError(
                f"the connection to {self._url} broke: {error}; check --url, then the journal of rbee-queen"
            ) from error

    def _refusal(self, answer: httpx.Response) -> QueenCallError:
        if answer.status_code == 401:
            return QueenCallError(f"the queen at {self._url} {self._key_problem()}")
        if answer.status_code == 404 and (sentence := _missing(answer.request.url)):
            return QueenCallError(sentence)
        try:
            body = answer.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            return self._no_queen(f" (status {answer.status_code})")
        return QueenCallError(f"the queen refused: {_message(body)}")

    def _key_problem(self) -> str:
        if self._has_key:
            return "does not accept the API key; check --api-key-file or RBEE_API_KEY"
        return "needs an API key; give --api-key-file or set RBEE_API_KEY"

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise self._no_queen() from error

    def _no_queen(self, detail: str = "") -> QueenUnreachableError:
        return QueenUnreachableError(f"what answers at {self._url} is not a queen{detail}; check --url")


def _place(kind: str, name: str) -> str:
    """Return the path of one thing of a kind; a name of dots alone would be taken for a step on the path."""
    return f"{_API}{kind}/{_segment(name)}"


def _segment(name: str) -> str:
    segment = quote(name, safe="")
    return segment if segment.strip(".") else segment.replace(".", "%2E")


def _on_disk(hive: str, model: str) -> str:
    return f"{_place('hives', hive)}/models/{_segment(model)}"


def _missing(url: httpx.URL) -> str:
    """Return a sentence for a name with a slash, which a server reads as a longer path that it does not know."""
    kind, _, rest = url.raw_path.decode("ascii").partition(_API)[2].partition("/")
    name = unquote(rest.partition("/")[0])
    slashed = "/" in name and kind != "models"
    return f"the queen has no {kind.removesuffix('s')} {name!r}: no name holds a slash" if slashed else ""


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", error)) if isinstance(error, dict) else "without a reason"
