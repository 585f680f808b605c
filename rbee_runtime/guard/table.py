"""The one table of calls that are let through: method, path, parameters, and what each call means. Pure.

Paths are compared as they were sent: a name with an escaped character is none of ours. Images alone are escaped by
clients, and have a grammar of their own.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import docker_words, podman_words, strict_json
from rbee_runtime.guard.calls import (
    Call,
    Create,
    HasImage,
    Info,
    Inspect,
    ListOwn,
    ListUsers,
    LookAtNetwork,
    MakeNetwork,
    Ping,
    ReadLog,
    Remove,
    RemoveNetwork,
    Start,
    Stop,
    Terminate,
    Version,
)
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.guard.worker_container import MOST_STOP_SECONDS
from rbee_runtime.guard.worker_network import Subnet, WorkerNetwork

MOST_LINES = 1_000_000
_PREFIXES = {
    EngineKind.PODMAN: re.compile(r"/v[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}/libpod(?=/)"),
    EngineKind.DOCKER: re.compile(r"/v[0-9]{1,3}\.[0-9]{1,3}(?=/)"),
}
_SEGMENTS = {
    "container": r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}",
    "network": r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}",
    "image": r"[A-Za-z0-9._/:@%-]{1,300}",
}
_PART = r"[A-Za-z0-9]+(?:[._-]{1,2}[A-Za-z0-9]+)*"
_REFERENCE = re.compile(
    rf"{_PART}(?::[0-9]{{1,5}})?(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?(?:@sha256:[0-9a-f]{{64}})?"
)


@dataclass(frozen=True)
class Request:
    """One call as it came, whole: `target` is path and query."""

    method: str
    target: str
    body: bytes = b""


@dataclass(frozen=True)
class Context:
    """What a call is read against; `subnet` are the addresses that the engine chose for the network last."""

    config: GuardConfig
    subnet: Subnet | None = None


@dataclass(frozen=True)
class Given:
    """Values of one call that fits a row."""

    context: Context
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any = None


Parameter = Callable[[str], Any]


@dataclass(frozen=True)
class Row:
    """One kind of call; a parameter reads its value or raises ValueError."""

    method: str
    path: str
    build: Callable[[Given], Call]
    query: Mapping[str, Parameter] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    has_body: bool = False

    def fits(self, method: str, path: str) -> Mapping[str, str] | None:
        """Return the names in a path if this row is meant, None if not."""
        pattern = re.sub(r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{_SEGMENTS[found[1]]})", self.path)
        found = re.fullmatch(pattern, path) if method == self.method else None
        return None if found is None else found.groupdict()


def read(request: Request, context: Context) -> Call:
    """Return what a request asks for; GuardError says why it is let nowhere."""
    raw, _, query = request.target.partition("?")
    path = _PREFIXES[context.config.engine].sub("", raw, count=1) if raw.startswith("/v") else raw
    for row in ROWS[context.config.engine]:
        names = row.fits(request.method, path)
        if names is not None:
            given = Given(context, names, _query(row, query), _body(row, request.body))
            return row.build(given)
    raise GuardError(
        f"{request.method} {ascii(raw)[1:-1][:200]} is no call that a hive needs, so it is not let through"
    )


def _query(row: Row, query: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=16)
    except ValueError:
        raise GuardError(f"the parameters of {row.path} are not understood: write name=value", status=400) from None
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name in found:
            raise GuardError(f"{name} is there twice: give every parameter once", status=400)
        if name not in row.query:
            raise GuardError(f"{ascii(name)[:80]} is no parameter of {row.path} that a hive needs: leave it out")
        try:
            found[name] = row.query[name](text)
        except ValueError as error:
            raise GuardError(f"{name} is {ascii(text)[:80]} for {row.path}: {error}") from None
    if missing := row.needs - found.keys():
        raise GuardError(f"{row.path} lacks {', '.join(sorted(missing))}: give it")
    return found


def _body(row: Row, body: bytes) -> Any:
    if not row.has_body:
        if body:
            raise GuardError(f"{row.path} has a body: send none", status=400)
        return None
    try:
        return strict_json.loads(body)
    except ValueError as error:
        raise GuardError(f"the body {error}", status=400) from None


def only(*allowed: str) -> Parameter:
    """Return a parameter with one meaning, however it is spelled."""

    def read_text(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"use {' or '.join(allowed)}")
        return text

    return read_text


def whole(most: int) -> Parameter:
    """Return a parameter that is a number of 0 to `most`."""

    def read_number(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
            raise ValueError(f"use a whole number of 0 to {most}")
        return int(text)

    return read_number


def flag(text: str) -> bool:
    """Read yes or no as the clients write them."""
    known = {"1": True, "true": True, "True": True, "0": False, "false": False, "False": False}
    if text not in known:
        raise ValueError("use true or false")
    return known[text]


def filters(text: str) -> tuple[str, str]:
    """Read the one filter of a list and its one value."""
    found = strict_json.loads(text.encode(errors="surrogatepass"))
    if isinstance(found, dict) and len(found) == 1:
        ((name, values),) = found.items()
        if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str):
            return name, values[0]
    raise ValueError("use one filter with one value")


YES = only("1", "true", "True")
NO = only("0", "false", "False")


def _containers(given: Given) -> Call:
    name, value = given.query["filters"]
    config = given.context.config
    if name == "label":
        if value != f"rbee.hive={config.hive}":
            raise GuardError(f"label {ascii(value)[:80]} is not of this hive: list rbee.hive={config.hive}")
        return ListOwn()
    if name != "network" or not re.fullmatch(_SEGMENTS["network"], value):
        raise GuardError(f"containers are listed by {ascii(name)[:80]}: list them by label or network")
    return ListUsers(value)


def _image(given: Given) -> Call:
    image = unquote(given.path["image"])
    if not _REFERENCE.fullmatch(image):
        raise GuardError(f"{ascii(image)[:80]} is no image reference: use NAME:TAG")
    return HasImage(image)


def _the_network(given: Given) -> None:
    name = given.path["network"] if "network" in given.path else given.query["filters"][1]
    filtered = given.query.get("filters", ("name",))[0]
    if name != given.context.config.network or filtered != "name":
        raise GuardError(f"{ascii(name)[:80]} is not the workers' network: use {given.context.config.network}")


def _look_at_network(given: Given) -> Call:
    _the_network(given)
    return LookAtNetwork()


def _remove_network(given: Given) -> Call:
    _the_network(given)
    return RemoveNetwork()


def _make_network(given: Given) -> Call:
    context = given.context
    if context.config.engine is EngineKind.DOCKER:
        return MakeNetwork(docker_words.read_network(given.body, context.config))
    wanted: WorkerNetwork = podman_words.read_network(given.body, context.config, context.subnet)
    return MakeNetwork(wanted)


def _create(given: Given) -> Call:
    config = given.context.config
    if config.engine is EngineKind.DOCKER:
        return Create(docker_words.read_container(given.query["name"], given.body, config))
    return Create(podman_words.read_container(given.body, config))


def _read_log(given: Given) -> Call:
    return ReadLog(given.path["container"], given.query["tail"], follow=given.query["follow"])


_SHARED = (
    Row("GET", "/info", lambda _: Info()),
    Row("GET", "/containers/{container}/json", lambda given: Inspect(given.path["container"])),
    Row("POST", "/containers/{container}/start", lambda given: Start(given.path["container"])),
    Row(
        "POST",
        "/containers/{container}/kill",
        lambda given: Terminate(given.path["container"]),
        {"signal": only("SIGTERM")},
        needs=frozenset({"signal"}),
    ),
    Row(
        "GET",
        "/containers/{container}/logs",
        _read_log,
        {"stdout": YES, "stderr": YES, "tail": whole(MOST_LINES), "follow": flag},
        needs=frozenset({"stdout", "stderr", "tail", "follow"}),
    ),
    Row("POST", "/networks/create", _make_network, has_body=True),
    Row("DELETE", "/networks/{network}", _remove_network),
)

ROWS: Mapping[EngineKind, tuple[Row, ...]] = {
    EngineKind.PODMAN: (
        *_SHARED,
        Row(
            "GET",
            "/containers/json",
            _containers,
            {"all": YES, "filters": filters},
            needs=frozenset({"all", "filters"}),
        ),
        Row("POST", "/containers/create", _create, has_body=True),
        Row(
            "POST",
            "/containers/{container}/stop",
            lambda given: Stop(given.path["container"], given.query["timeout"]),
            {"timeout": whole(MOST_STOP_SECONDS)},
            needs=frozenset({"timeout"}),
        ),
        Row(
            "DELETE",
            "/containers/{container}",
            lambda given: Remove(given.path["container"], ignore=given.query.get("ignore", False)),
            {"v": flag, "ignore": flag},
        ),
        Row("GET", "/images/{image}/exists", _image),
        Row("GET", "/networks/{network}", _look_at_network),
    ),
    EngineKind.DOCKER: (
        *_SHARED,
        Row("GET", "/_ping", lambda _: Ping()),
        Row("GET", "/version", lambda _: Version()),
        Row(
            "GET",
            "/containers/json",
            _containers,
            {"all": YES, "filters": filters, "limit": only("-1"), "size": NO, "trunc_cmd": NO},
            needs=frozenset({"all", "filters"}),
        ),
        Row("POST", "/containers/create", _create, {"name": str}, needs=frozenset({"name"}), has_body=True),
        Row(
            "POST",
            "/containers/{container}/stop",
            lambda given: Stop(given.path["container"], given.query["t"]),
            {"t": whole(MOST_STOP_SECONDS)},
            needs=frozenset({"t"}),
        ),
        Row(
            "DELETE",
            "/containers/{container}",
            lambda given: Remove(given.path["container"], ignore=False),
            {"v": flag, "link": NO, "force": NO},
        ),
        Row("GET", "/images/{image}/json", _image),
        Row("GET", "/networks", _look_at_network, {"filters": filters}, needs=frozenset({"filters"})),
    ),
}
