"""Somebody else's server that speaks OpenAI's API, as one file of the standard library for any Python and any host.

Its lists of models are those of llama-server, Ollama and vLLM, letter by letter where a client could care. Each request
is a line of JSON in `--log`: path, authorization, the model that was asked for, and whether its client left.
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LISTS = {
    "llama-server": {
        "models": [{"name": "/srv/models/tiny.gguf", "model": "/srv/models/tiny.gguf"}],
        "object": "list",
        "data": [{"id": "/srv/models/tiny.gguf", "object": "model", "created": 1, "owned_by": "llamacpp", "meta": {}}],
    },
    "ollama": {
        "object": "list",
        "data": [
            {"id": "llama3:latest", "object": "model", "created": 1, "owned_by": "library"},
            {"id": "hf.co/org/tiny:Q4", "object": "model", "created": 1, "owned_by": "org"},
        ],
    },
    "ollama-empty": {"object": "list", "data": None},
    "vllm": {
        "object": "list",
        "data": [{"id": "org/tiny", "object": "model", "created": 1, "owned_by": "vllm", "root": "org/tiny"}],
    },
}
REFUSING = frozenset({"vllm"})
"""Those that ask for the key even before they say what they have."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options = argparse.Namespace()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self._json(404, {"error": {"message": "there is no such route"}})
        elif self.options.flavour in REFUSING and not self._known():
            self._json(401, {"error": "Unauthorized"})
        else:
            self._json(200, LISTS[self.options.flavour])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._note(event="asked", model=body["model"])
        if not self._known():
            self._json(401, {"error": {"message": "Invalid API Key"}})
        elif body.get("stream"):
            self._stream(body)
        else:
            self._json(200, {"model": body["model"], "choices": [{"message": {"role": "assistant", "content": "hi"}}]})

    def _stream(self, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for number in range(self.options.tokens):
                delta = {"index": 0, "delta": {"content": f"tok{number} "}}
                self._chunk(b"data: %s\n\n" % json.dumps({"choices": [delta]}).encode())
                time.sleep(self.options.pause)
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except OSError:
            self.close_connection = True
            self._note(event="left", model=body["model"])

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _known(self) -> bool:
        return not self.options.key or self.headers.get("authorization") == f"Bearer {self.options.key}"

    def _json(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _note(self, **fields: object) -> None:
        if self.options.log:
            line = json.dumps({"path": self.path, "authorization": self.headers.get("authorization"), **fields})
            with _WRITING, Path(self.options.log).open("a") as log:
                log.write(line + "\n")


_WRITING = threading.Lock()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flavour", choices=sorted(LISTS), default="llama-server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--key", default="")
    parser.add_argument("--tokens", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--log", default="")
    Handler.options = parser.parse_args()
    ThreadingHTTPServer((Handler.options.host, Handler.options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
