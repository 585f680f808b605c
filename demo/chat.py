"""A streamed chat answer through a queen, printed as it comes."""

import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from demo.story import DemoError

QUESTION = "In two short sentences: why do bees build hexagons?"
ANSWER_TOKENS = 80
PATIENCE_SECONDS = 180.0
"""A model of 100 MB loads in under a second; the rest is for a busy machine's start of several processes."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where an OpenAI client connects: base URL without `/v1`, API key, the CA to trust (None for plain HTTP)."""

    url: str
    key: str
    ca: ssl.SSLContext | None = None

    def client(self) -> httpx.Client:
        """Return an HTTP client that sends the key."""
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.key}"},
            verify=self.ca if self.ca is not None else True,
            timeout=httpx.Timeout(60.0, connect=5.0),
            trust_env=False,
        )


def wait_ready(endpoint: Endpoint, model: str, *, patience: float = PATIENCE_SECONDS) -> None:
    """Return when the queen lists `model` as ready, or raise DemoError with what it said last."""
    deadline = time.monotonic() + patience
    with endpoint.client() as client:
        while (last := _state(client, model)) != "ready":
            if time.monotonic() > deadline:
                raise DemoError(f"model {model} is not ready after {patience:.0f} s: {last}")
            time.sleep(0.25)


def _state(client: httpx.Client, model: str) -> str:
    try:
        answer = client.get("/v1/models")
    except httpx.TransportError as error:
        return f"the queen does not answer ({error})"
    if answer.status_code != 200:
        return f"the queen answers {answer.status_code}: {answer.text[:200]}"
    states = {entry["id"]: str(entry.get("state")) for entry in answer.json()["data"]}
    return states.get(model, f"the queen does not know it, only {sorted(states)}")


def stream_answer(endpoint: Endpoint, model: str) -> str:
    """Print the answer to QUESTION as it arrives and return a line on its speed."""
    print(f"\nyou: {QUESTION}\n{model}: ", end="", flush=True)
    begin = time.monotonic()
    first = begin
    tokens = 0
    with endpoint.client() as client:
        for event in _events(client, model):
            text = _text(event)
            first = first if tokens or not text else time.monotonic()
            tokens += bool(text)
            print(text, end="", flush=True)
    spent = max(time.monotonic() - first, 1e-6)
    print("\n", flush=True)
    if tokens < 2:
        raise DemoError("the stream ended without an answer: see journalctl -u rbee-queen and -u 'rbee-worker@*'")
    return f"first token after {first - begin:.2f} s, then {(tokens - 1) / spent:.0f} tokens/s ({tokens} tokens)"


def _events(client: httpx.Client, model: str) -> Iterator[dict[str, Any]]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": ANSWER_TOKENS,
        "stream": True,
    }
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise DemoError(f"the queen answers {answer.status_code}: {answer.read().decode()[:300]}")
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


def _text(event: dict[str, Any]) -> str:
    if "error" in event:
        raise DemoError(f"the stream broke off: {event['error'].get('message')}")
    choices = event.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""
