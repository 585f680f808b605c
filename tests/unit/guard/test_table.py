"""The table of calls: what each request of a launcher means, and what no row covers."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import calls
from rbee_runtime.guard.config import EngineKind
from rbee_runtime.guard.table import ROWS, Context, Request, read
from rbee_runtime.guard.worker_network import Subnet, WorkerNetwork
from tests.unit.guard.asking import PREFIXES
from tests.unit.guard.bodies import create_body
from tests.unit.guard.places import Places

P, D = EngineKind.PODMAN, EngineKind.DOCKER
ID = "0a" * 32


def filters(**wanted: str) -> str:
    return "filters=" + quote(json.dumps({name: [value] for name, value in wanted.items()}))


OWN = filters(label="rbee.hive=h1")
LISTED = f"limit=-1&all=1&size=0&trunc_cmd=0&{OWN}"
KNOWN: list[tuple[EngineKind, str, str, calls.Call]] = [
    (P, "GET", f"{PREFIXES[P]}/info", calls.Info()),
    (P, "GET", f"{PREFIXES[P]}/containers/json?all=True&{OWN}", calls.ListOwn()),
    (P, "GET", f"{PREFIXES[P]}/containers/json?all=True&{filters(network='n')}", calls.ListUsers("n")),
    (P, "GET", f"{PREFIXES[P]}/containers/rbee-worker-w/json", calls.Inspect("rbee-worker-w")),
    (P, "POST", f"{PREFIXES[P]}/containers/{ID}/start", calls.Start(ID)),
    (P, "POST", f"{PREFIXES[P]}/containers/rbee-worker-w/stop?timeout=0", calls.Stop("rbee-worker-w", 0)),
    (P, "POST", f"{PREFIXES[P]}/containers/c/kill?signal=SIGTERM", calls.Terminate("c")),
    (P, "DELETE", f"{PREFIXES[P]}/containers/c?v=True&ignore=True", calls.Remove("c", ignore=True)),
    (
        P,
        "GET",
        f"{PREFIXES[P]}/images/registry.example%2Fworker%3A1/exists",
        calls.HasImage("registry.example/worker:1"),
    ),
    (P, "GET", f"{PREFIXES[P]}/networks/rbee-workers", calls.LookAtNetwork()),
    (P, "DELETE", f"{PREFIXES[P]}/networks/rbee-workers", calls.RemoveNetwork()),
    (P, "GET", "/containers/c/logs?stdout=true&stderr=true&tail=5&follow=true", calls.ReadLog("c", 5, follow=True)),
    (D, "GET", "/version", calls.Version()),
    (D, "GET", "/v1.45/_ping", calls.Ping()),
    (D, "GET", "/v1.45/info", calls.Info()),
    (D, "GET", f"/v1.45/containers/json?{LISTED}", calls.ListOwn()),
    (D, "GET", "/v1.45/containers/c/json", calls.Inspect("c")),
    (D, "POST", "/v1.45/containers/c/stop?t=195", calls.Stop("c", 195)),
    (D, "DELETE", "/v1.45/containers/c?v=True&link=False&force=False", calls.Remove("c", ignore=False)),
    (D, "GET", "/v1.45/images/localhost:5000/x/worker:1/json", calls.HasImage("localhost:5000/x/worker:1")),
    (D, "GET", f"/v1.45/networks?{filters(name='rbee-workers')}", calls.LookAtNetwork()),
    (D, "DELETE", "/v1.45/networks/rbee-workers", calls.RemoveNetwork()),
]


def of(places: Places, kind: EngineKind, *request: Any, subnet: Subnet | None = None) -> calls.Call:
    return read(Request(*request), Context(places.config(kind), subnet))


@pytest.mark.parametrize(("kind", "method", "target", "call"), KNOWN)
def test_what_launchers_ask_is_known(
    places: Places, kind: EngineKind, method: str, target: str, call: calls.Call
) -> None:
    """Each question of a launcher is read into the call that it means."""
    assert of(places, kind, method, target) == call


def test_every_row_is_asked_by_a_launcher(places: Places, kind: EngineKind) -> None:
    """The table has no row but those above and the three with bodies, so that it grows by a case alone."""
    bodies = {("POST", "/containers/create"), ("POST", "/networks/create")}
    known = {
        (row.method, row.path)
        for each, method, target, _ in KNOWN
        for row in ROWS[kind]
        if each is kind and row.fits(method, target.partition("?")[0].removeprefix(PREFIXES[kind])) is not None
    }
    shared = {("POST", f"/containers/{{container}}/{verb}") for verb in ("start", "kill")}
    assert {(row.method, row.path) for row in ROWS[kind]} - known - bodies <= {
        *shared,
        ("GET", "/containers/{container}/logs"),
    }


UNKNOWN = [
    (P, "GET", "/v5.8.0/libpod/v5.8.0/libpod/info"),
    (P, "GET", "/v5.8.0/libpod/libpod/info"),
    (P, "GET", "/v1.41/containers/c/json"),
    (P, "GET", "/v5.8.0/libpod//info"),
    (P, "GET", "/v5.8.0/libpod/info/"),
    (P, "GET", "/v5.8.0/libpod/../libpod/info"),
    (P, "GET", "/v5.8.0/libpod/%69nfo"),
    (P, "HEAD", "/v5.8.0/libpod/info"),
    (P, "POST", "/v5.8.0/libpod/info"),
    (P, "GET", "http://x/v5.8.0/libpod/info"),
    (P, "GET", "/v5.8.0/libpod/info#x"),
    (P, "POST", "/v5.8.0/libpod/containers/c/exec"),
    (P, "POST", "/v5.8.0/libpod/containers/c/rename?name=x"),
    (P, "POST", "/v5.8.0/libpod/containers/c/kill"),
    (P, "POST", "/v5.8.0/libpod/containers/c/kill?signal=KILL"),
    (P, "POST", "/v5.8.0/libpod/containers/c/kill?signal=9"),
    (P, "POST", "/v5.8.0/libpod/containers/c%2Fexec/start"),
    (P, "POST", "/v5.8.0/libpod/containers/../start"),
    (P, "POST", "/v5.8.0/libpod/containers/c%00/start"),
    (P, "POST", "/v5.8.0/libpod/containers/c%3Fa/start"),
    (P, "POST", "/v5.8.0/libpod/containers/c/start?detachKeys=x"),
    (P, "POST", "/v5.8.0/libpod/containers/c/stop"),
    (P, "POST", "/v5.8.0/libpod/containers/c/stop?timeout=-1"),
    (P, "POST", "/v5.8.0/libpod/containers/c/stop?timeout=601"),
    (P, "POST", "/v5.8.0/libpod/containers/c/stop?timeout=1e1"),
    (P, "DELETE", "/v5.8.0/libpod/containers/c?force=true"),
    (P, "DELETE", "/v5.8.0/libpod/containers/c?v=True&depend=true"),
    (P, "GET", "/v5.8.0/libpod/containers/json?all=True"),
    (P, "GET", f"/v5.8.0/libpod/containers/json?{OWN}"),
    (P, "GET", f"/v5.8.0/libpod/containers/json?all=True&{filters(label='rbee.hive=h2')}"),
    (P, "GET", f"/v5.8.0/libpod/containers/json?all=True&{filters(label='rbee.hive=h1', name='x')}"),
    (P, "GET", f"/v5.8.0/libpod/containers/json?all=True&{filters(ancestor='x')}"),
    (P, "GET", f"/v5.8.0/libpod/containers/json?all=True&{filters(network='a/../b')}"),
    (P, "GET", "/v5.8.0/libpod/containers/json?all=True&filters=%7B%22label%22%3A%5B%5D%7D"),
    (P, "GET", "/v5.8.0/libpod/containers/json?all=True&filters=[[[["),
    (P, "GET", "/v5.8.0/libpod/images/..%2F..%2Fcontainers/exists"),
    (P, "GET", "/v5.8.0/libpod/images/a%252Fb/exists"),
    (P, "GET", "/v5.8.0/libpod/images/a%3Fb/exists"),
    (P, "GET", "/v5.8.0/libpod/images/a/json"),
    (P, "GET", "/v5.8.0/libpod/networks/podman"),
    (P, "DELETE", "/v5.8.0/libpod/networks/rbee-workers?force=true"),
    (P, "DELETE", "/v5.8.0/libpod/networks/rbee-worker"),
    (P, "GET", "/containers/c/logs?stdout=true&stderr=true&tail=all&follow=true"),
    (P, "GET", "/containers/c/logs?stdout=true&stderr=true&tail=5&follow=true&since=1"),
    (P, "GET", "/v5.8.0/libpod/secrets/json"),
    (P, "GET", "/_ping"),
    (D, "GET", "/v1.45/v1.45/info"),
    (D, "POST", "/v1.45/build"),
    (D, "POST", "/v1.45/images/create?fromImage=x"),
    (D, "POST", "/v1.45/containers/c/update"),
    (D, "POST", "/v1.45/containers/c/attach?stream=1"),
    (D, "GET", "/v1.45/containers/c/archive?path=/"),
    (D, "PUT", "/v1.45/containers/c/archive?path=/"),
    (D, "DELETE", "/v1.45/containers/c?v=True&link=True&force=False"),
    (D, "DELETE", "/v1.45/containers/c?force=True"),
    (D, "GET", f"/v1.45/containers/json?all=1&size=1&{OWN}"),
    (D, "GET", "/v1.45/networks"),
    (D, "GET", f"/v1.45/networks?{filters(name='bridge')}"),
    (D, "GET", f"/v1.45/networks?{filters(driver='rbee-workers')}"),
    (D, "POST", "/v1.45/networks/rbee-workers/connect"),
    (D, "POST", "/v1.45/containers/create?name=rbee-worker-w&platform=x"),
    (D, "POST", "/v1.45/volumes/create"),
    (D, "POST", "/session"),
]


@pytest.mark.parametrize(("kind", "method", "target"), UNKNOWN)
def test_what_no_launcher_asks_is_refused(places: Places, kind: EngineKind, method: str, target: str) -> None:
    """No other method, path, parameter, value or way to write them gets through."""
    with pytest.raises(GuardError) as refusal:
        of(places, kind, method, target)
    assert refusal.value.status == 403


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (("POST", "/containers/c/stop?timeout=1&timeout=2"), "timeout is there twice"),
        (("POST", "/containers/c/stop?timeout"), "write name=value"),
        (("POST", "/containers/c/stop?timeout=%FF"), "write name=value"),
        (("POST", "/containers/c/start", b"{}"), "has a body: send none"),
        (("POST", "/containers/create", b""), "is no JSON"),
        (("POST", "/containers/create", b'{"a": 1, "a": 2}'), "has 'a' twice"),
        (("POST", "/containers/create", b'{"a": NaN}'), "has NaN, and only whole numbers"),
        (("POST", "/containers/create", b'{"a": 1e400}'), "has 1e400, and only whole numbers"),
        (("POST", "/containers/create", b'{"a": ' + b"9" * 5000 + b"}"), "more than 18 digits"),
        (("POST", "/containers/create", b"[" * 100_000), "nested more than"),
        (("POST", "/containers/create", b'{"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}'), "nested more than"),
        (("POST", "/containers/create", b'{"a": "\xff"}'), "is not UTF-8"),
        (("POST", "/containers/create", '{"a": 1}'.encode("utf-16")), "is not UTF-8"),
        (("POST", "/containers/create", b"{} {}"), "is no JSON"),
    ],
)
def test_what_has_two_meanings_is_a_bad_request(places: Places, request_: tuple[Any, ...], said: str) -> None:
    """Parameters and names that come twice, and JSON that readers read differently, are status 400 with the reason."""
    with pytest.raises(GuardError, match=said) as refusal:
        of(places, P, *request_)
    assert refusal.value.status == 400


def test_a_body_is_read_into_a_call(places: Places, kind: EngineKind) -> None:
    """The launcher's own body is a worker's container."""
    name = "?name=rbee-worker-w-1" if kind is D else ""
    body = json.dumps(create_body(places, kind)).encode()
    call = of(places, kind, "POST", f"/containers/create{name}", body)
    assert isinstance(call, calls.Create)
    assert (call.wanted.name, call.wanted.published.port) == ("rbee-worker-w-1", 9000)


SUBNET = Subnet("10.89.0.0/24", "10.89.0.1")
ROUTE = {"destination": "10.0.0.0/8", "gateway": "10.89.0.1"}
SHUT = {
    "name": "rbee-workers",
    "network_interface": "rbee-workers",
    "driver": "bridge",
    "internal": False,
    "dns_enabled": False,
    "labels": {"rbee.fleet": "f"},
    "options": {"no_default_route": "true", "isolate": "true"},
}
GIVEN = {"subnets": [{"subnet": SUBNET.subnet, "gateway": SUBNET.gateway}]}


def made(places: Places, **changed: Any) -> calls.Call:
    return of(places, P, "POST", "/networks/create", json.dumps(SHUT | changed).encode(), subnet=SUBNET)


def test_a_network_is_made_shut(places: Places) -> None:
    """Its addresses are those that Podman chose just before, and routes lead to callers."""
    assert made(places) == calls.MakeNetwork(WorkerNetwork())
    assert made(places, **GIVEN, routes=[ROUTE]) == calls.MakeNetwork(WorkerNetwork(SUBNET, ("10.0.0.0/8",)))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "podman"},
        {"options": {"isolate": "true"}},
        {"options": {"no_default_route": "true", "isolate": "true", "mtu": "1"}},
        {"labels": {"rbee.fleet": "other"}},
        {"labels": {"rbee.fleet": "f", "x": "y"}},
        {"driver": "macvlan"},
        {"dns_enabled": True},
        {"ipv6_enabled": True},
        {"network_interface": "eth0"},
        {"network_interface": ""},
        {"routes": [ROUTE]},
        {"subnets": [{"subnet": "8.8.8.0/24", "gateway": "8.8.8.1"}]},
        {"subnets": [{**GIVEN["subnets"][0], "lease_range": {"start_ip": "1.1.1.1"}}]},
        {**GIVEN, "routes": [{**ROUTE, "destination": "0.0.0.0/0"}]},
        {**GIVEN, "routes": [{**ROUTE, "gateway": "10.89.0.9"}]},
        {**GIVEN, "routes": [{**ROUTE, "metric": 1}]},
    ],
)
def test_a_network_with_a_way_out_is_not_made(places: Places, changed: dict[str, Any]) -> None:
    """Other names, options, labels, addresses and routes are refused."""
    with pytest.raises(GuardError):
        made(places, **changed)


def test_addresses_that_nobody_chose_are_refused(places: Places) -> None:
    """A hive cannot give the network of somebody else's addresses before Podman has chosen some."""
    with pytest.raises(GuardError, match="addresses that Podman did not choose"):
        of(places, P, "POST", "/networks/create", json.dumps(SHUT | GIVEN).encode())


_BRIDGE = "com.docker.network.bridge"
OPTIONS = {
    f"{_BRIDGE}.enable_ip_masquerade": "false",
    f"{_BRIDGE}.enable_icc": "false",
    f"{_BRIDGE}.name": "rbee-workers",
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"Internal": True},
        {"Options": {}},
        {"Options": OPTIONS | {"com.docker.network.bridge.name": "docker0"}},
        {"Options": {name: OPTIONS[name] for name in list(OPTIONS)[:2]}},
        {"IPAM": {"Config": [{"Subnet": "8.8.8.0/24"}]}},
        {"Labels": {}},
        {"ConfigFrom": {"Network": "x"}},
    ],
)
def test_dockers_network_is_shut_too(places: Places, changed: dict[str, Any]) -> None:
    """The launcher's body makes it, and any other is refused."""
    body = {"Name": "rbee-workers", "Driver": "bridge", "Options": OPTIONS, "Labels": {"rbee.fleet": "f"}} | changed
    request = ("POST", "/v1.45/networks/create", json.dumps(body).encode())
    if not changed:
        assert of(places, D, *request) == calls.MakeNetwork(WorkerNetwork())
    else:
        with pytest.raises(GuardError):
            of(places, D, *request)
