"""A made-up container engine on a real socket, in the words of Podman or Docker, that writes down what it is asked."""

import contextlib
import json
import re
import secrets
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

from rbee_runtime.guard.config import EngineKind, GuardConfig

PODMAN_INFO = {"host": {"cgroupControllers": ["memory", "pids"], "security": {"rootless": False}, "kernel": "6.1"}}
DOCKER_INFO = {
    "MemoryLimit": True,
    "PidsLimit": True,
    "CDISpecDirs": ["/etc/cdi"],
    "LoggingDriver": "json-file",
    "LiveRestoreEnabled": True,
    "RegistryConfig": {"secret": "of somebody"},
}
_BRIDGE = "com.docker.network.bridge"
DOCKER_SHUT = {
    f"{_BRIDGE}.name": "rbee-workers",
    f"{_BRIDGE}.enable_icc": "false",
    f"{_BRIDGE}.enable_ip_masquerade": "false",
}
PODMAN_SHUT = {"no_default_route": "true", "isolate": "true"}
Said = tuple[int, Any]


@dataclass(frozen=True)
class Asked:
    """One request as the engine got it."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Made:
    """One container or network that the engine has."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(32))
    state: str = "created"
    body: Any = None
    log: tuple[str, ...] = ()


class RecordingEngine:
    """The engine; `meddle` runs before each answer, to change things between two calls, and `instead` may give it."""

    def __init__(self, kind: EngineKind, socket: Path, *images: str) -> None:
        self.kind, self.socket, self.images = kind, socket, set(images)
        self.version = {"ApiVersion": "1.45", "KernelVersion": "6.1.0-18-amd64"}
        self.image_env: tuple[str, ...] = ()
        self.asked: list[Asked] = []
        self.containers: list[Made] = []
        self.networks: list[Made] = []
        self.ended = threading.Event()
        self.followers = 0
        self.meddle: Callable[[Asked], None] = lambda _: None
        self.instead: Callable[[Asked], Said | None] = lambda _: None

    @property
    def podman(self) -> bool:
        return self.kind is EngineKind.PODMAN

    def changes(self) -> list[Asked]:
        """Return what was asked beside questions."""
        return [each for each in self.asked if each.method != "GET"]

    def add(self, name: str, **labels: str) -> Made:
        """Put a container there, as somebody does who may speak to the engine."""
        self.containers.append(Made(name, labels, state="running"))
        return self.containers[-1]

    def answer(self, asked: Asked) -> Said:
        """Return status and document."""
        said = self.instead(asked)
        if said is not None:
            return said
        path = re.sub(r"^/v[0-9.]+(/libpod)?", "", asked.path)
        for pattern, action in self._actions.items():
            found = re.fullmatch(pattern, f"{asked.method} {path}")
            if found:
                return action(self, asked, *found.groups())
        return 404, self._error(f"page {asked.path} not found")

    def find(self, made: list[Made], name: str) -> Made | None:
        """Return what has a name, an id or an id that begins so."""
        exact = [each for each in made if name in {each.name, each.id}]
        return next(iter(exact or [each for each in made if each.id.startswith(name)]), None)

    def _error(self, message: str) -> dict[str, Any]:
        return {"cause": "engine", "message": message, "response": 0}

    def _info(self, _: Asked) -> Said:
        return 200, PODMAN_INFO if self.podman else DOCKER_INFO

    def _version(self, _: Asked) -> Said:
        return 200, self.version

    def _image(self, asked: Asked, image: str) -> Said:
        if unquote(image) not in self.images:
            return 404, self._error(f"No such image: {image}")
        if asked.path.endswith("/exists"):
            return 204, None
        return 200, {"Id": "sha256:1", "Config": {"Env": ["SECRET=1", *self.image_env]}}

    def _listed(self, asked: Asked) -> Said:
        ((kind, (value,)),) = json.loads(asked.query["filters"]).items()
        wanted = [
            each
            for each in self.containers
            if (kind == "network" or value in [f"{name}={text}" for name, text in each.labels.items()])
        ]
        slash = "" if self.podman else "/"
        told = [
            {"Id": each.id, "Names": [slash + each.name], "Labels": each.labels, "State": each.state, "Mounts": ["x"]}
            for each in wanted
        ]
        return 200, told

    def _inspect(self, _: Asked, name: str) -> Said:
        found = self.find(self.containers, name)
        if found is None:
            return 404, self._error(f"no container with name or ID {name} found")
        shown = found.name if self.podman else f"/{found.name}"
        state = {"Status": found.state, "Pid": 7 if found.state == "running" else 0, "ExitCode": 0}
        config = {"Labels": found.labels, "Env": ["SECRET=1"]}
        return 200, {"Id": found.id, "Name": shown, "State": state, "Config": config}

    def _create(self, asked: Asked) -> Said:
        name = asked.body["name"] if self.podman else asked.query["name"]
        labels = asked.body["labels" if self.podman else "Labels"]
        if self.find(self.containers, name) is not None:
            return 409, self._error(f"the name {name} is in use")
        self.containers.append(Made(name, labels, body=asked.body, log=(f"{name} is here", "event=ready")))
        return 201, {"Id": self.containers[-1].id, "Warnings": []}

    def _to(self, state: str) -> Callable[..., Said]:
        def change(_: Asked, name: str) -> Said:
            found = self.find(self.containers, name)
            if found is None:
                return 404, self._error(f"no container with name or ID {name} found")
            found.state = state
            if state != "running":
                self.ended.set()
            return 204, None

        return change

    def _delete(self, _: Asked, name: str) -> Said:
        found = self.find(self.containers, name)
        if found is None:
            return 404, self._error(f"no container with name or ID {name} found")
        if found.state == "running":
            return 409, self._error(f"container {name} is running")
        self.containers.remove(found)
        return (200, [{"Id": found.id}]) if self.podman else (204, None)

    def _network(self, _: Asked, name: str) -> Said:
        found = self.find(self.networks, name)
        return (404, self._error(f"network {name} not found")) if found is None else (200, self._shown(found))

    def _shown(self, found: Made) -> dict[str, Any]:
        if not self.podman:
            own = {"Name": found.name, "Id": found.id, "Labels": found.labels, "Containers": {"x": "y"}}
            own |= {key: found.body.get(key, False) for key in ("Internal", "EnableIPv6")}
            return own | {key: found.body[key] for key in ("Driver", "Options")}
        subnets = found.body.get("subnets") or [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}]
        own = {"name": found.name, "id": found.id, "subnets": subnets, "routes": found.body.get("routes")}
        own["network_interface"] = found.body.get("network_interface", "podman1")
        return own | {key: found.body[key] for key in ("driver", "internal", "dns_enabled", "labels", "options")}

    def _make_network(self, asked: Asked) -> Said:
        name, labels = (asked.body[key if self.podman else key.title()] for key in ("name", "labels"))
        self.networks.append(Made(name, labels, body=asked.body))
        made = self.networks[-1]
        return (200, self._shown(made)) if self.podman else (201, {"Id": made.id, "Warning": ""})

    def _drop_network(self, _: Asked, name: str) -> Said:
        found = self.find(self.networks, name)
        if found is None:
            return 404, self._error(f"network {name} not found")
        self.networks.remove(found)
        return (200, [{"Name": name}]) if self.podman else (204, None)

    _actions: ClassVar[dict[str, Callable[..., Said]]] = {
        r"GET /info": _info,
        r"GET /version": _version,
        r"GET /_ping": lambda *_: (200, "OK"),
        r"GET /images/(.+)/(?:exists|json)": _image,
        r"GET /containers/json": _listed,
        r"GET /containers/([^/]+)/json": _inspect,
        r"POST /containers/create": _create,
        r"POST /containers/([^/]+)/start": lambda self, *given: self._to("running")(*given),
        r"POST /containers/([^/]+)/(?:stop|kill)": lambda self, *given: self._to("exited")(*given),
        r"DELETE /containers/([^/]+)": _delete,
        r"GET /networks/([^/]+)": _network,
        r"POST /networks/create": _make_network,
        r"DELETE /networks/([^/]+)": _drop_network,
    }


def shut(config: GuardConfig, **changed: Any) -> Made:
    """Return the network of workers, without a way out."""
    if config.engine is EngineKind.DOCKER:
        body = {"Driver": "bridge", "Internal": False, "EnableIPv6": False, "Options": dict(DOCKER_SHUT)}
    else:
        body = {"driver": "bridge", "internal": False, "dns_enabled": False, "options": dict(PODMAN_SHUT)}
        routes = [{"destination": each, "gateway": "10.89.0.1"} for each in config.callers]
        body |= {"labels": {"rbee.fleet": config.fleet}, "network_interface": config.network, "routes": routes}
    return Made(config.network, {"rbee.fleet": config.fleet}, body=body | changed)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    engine: RecordingEngine


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "hive"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Keep quiet."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        size = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        words = {name: values[-1] for name, values in parse_qs(query).items()}
        asked = Asked(self.command, path, words, body, {name.lower(): text for name, text in self.headers.items()})
        engine = self.server.engine
        engine.asked.append(asked)
        engine.meddle(asked)
        if path.endswith("/logs"):
            self._log(engine, asked)
        else:
            self._say(*engine.answer(asked))

    do_POST = do_DELETE = do_GET  # noqa: N815 - the base class calls them so

    def _say(self, status: int, document: Any) -> None:
        content = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Of-Engine", "1")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            if content:
                self.wfile.write(content)

    def _log(self, engine: RecordingEngine, asked: Asked) -> None:
        found = engine.find(engine.containers, asked.path.split("/")[-2])
        if found is None:
            self._say(404, {"message": "no such container"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        following = asked.query["follow"] == "true"
        engine.followers += following
        for line in found.log[-int(asked.query["tail"]) :]:
            piece = b"\x01\0\0\0" + len(line + "\n").to_bytes(4, "big") + line.encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if following:
            self._until_the_end(engine)
            engine.followers -= 1
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(b"0\r\n\r\n")

    def _until_the_end(self, engine: RecordingEngine) -> None:
        self.connection.settimeout(0.05)
        while not engine.ended.is_set():
            try:
                if self.connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return


@contextmanager
def running(engine: RecordingEngine) -> Iterator[RecordingEngine]:
    """Give an engine that answers at its socket."""
    with _Server(str(engine.socket), _Handler) as server:
        server.engine = engine
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            engine.ended.set()
            server.shutdown()
            thread.join()
    engine.socket.unlink(missing_ok=True)
