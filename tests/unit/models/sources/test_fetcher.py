"""The fetcher: where it connects to, what it follows, and how much of a hostile answer it takes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources import RangeRefusedError, TransientError
from rbee_runtime.models.sources.addresses import PinnedBackend, is_named, is_public
from rbee_runtime.models.sources.fetcher import Fetcher
from tests.unit.models.faulty_server import Fault, FaultyServer, faulty_server

CONTENT = b"GGUF" * 1000
NOT_PUBLIC = (
    *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "::1", "fe80::1", "fe80::1%eth0"),
    *("fd00::1", "fec0::1", "ff02::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1"),
    *("2002:7f00:1::", "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2001:db8::1"),
    *("2001:0:4136:e378:8000:63bf:80ff:fffe", "not an address"),
)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_t14_addresses_inside_are_told_apart(address: str) -> None:
    """Loopback, private, link-local, metadata and documentation addresses are not public, in whatever form."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_public(address: str) -> None:
    """Addresses of the internet are permitted, also when carried in another form."""
    assert is_public(address)


@pytest.mark.parametrize(
    ("names", "named"),
    [(("h",), True), (("H",), True), (("h:80",), True), (("h:81",), False), (("x.h",), False), ((), False)],
)
def test_a_host_is_named_exactly(names: tuple[str, ...], named: bool) -> None:
    """Only the very host, or the very host and port, that the settings name counts."""
    assert is_named("h", 80, names) is named


URLS = (
    *(
        "http://{a}/x",
        "http://{a}:{p}/x",
        "http://localhost:{p}/x",
        "http://0x7f000001:{p}/x",
        "http://2130706433:{p}/x",
    ),
    *("http://127.1:{p}/x", "http://0177.0.0.1:{p}/x", "http://[::1]:{p}/x", "http://[::ffff:127.0.0.1]:{p}/x"),
    *(
        "http://user@{a}:{p}/x",
        "http://public.example@{a}:{p}/x",
        "http://{a}:{p}\\@public.example/x",
        "ftp://{a}:{p}/x",
    ),
    *("file:///etc/passwd", "gopher://{a}:{p}/x", "dict://{a}:{p}/x", "//{a}:{p}/x", "http:{a}:{p}/x", "http:///x"),
    *("https://localhost:{p}/x", "https://{a}:{p}/x", "https://0x7f000001:{p}/x", "https://2130706433:{p}/x"),
    *(
        "https://127.1:{p}/x",
        "https://[::1]:{p}/x",
        "https://[::ffff:7f00:1]:{p}/x",
        "https://0:{p}/x",
        "https://0.0.0.0:{p}/x",
    ),
    *(
        "https://169.254.169.254/latest",
        "https://[fd00:ec2::254]/latest",
        "https://10.0.0.1/x",
        "https://user:pw@{a}:{p}/x",
    ),
    *(
        "https://{a}:{p}\n/x",
        "https://{a}:{p}/\r\nx",
        "https://{a}:99999/x",
        "https://[::1/x",
        "https://",
        "https:///x",
    ),
    *("https://rebind.example:{p}/x", "https://mixed.example:{p}/x", "HTTP://{a}:{p}/x", "javascript:alert(1)"),
)


async def scripted(host: str, port: int) -> Sequence[str]:
    """Resolve as a hostile name server does; numbers as the system does."""
    if host.endswith(".example"):
        return ["127.0.0.1", "::1"]
    found = await asyncio.get_running_loop().getaddrinfo(host, port)
    return [str(entry[4][0]) for entry in found]


@pytest.mark.parametrize("url", URLS)
async def test_t14_no_url_reaches_a_server_inside(url: str) -> None:
    """Forty forms of URLs that mean a host inside are refused in a sentence, and the server there sees nothing."""
    async with faulty_server(CONTENT) as canary:
        fetcher = Fetcher(StoreSettings(), resolver=scripted)
        with pytest.raises(ModelStoreError):
            await read(fetcher, url.format(a="127.0.0.1", p=canary.port))
        await fetcher.close()
    assert canary.connections == 0


async def test_t14_a_name_is_resolved_once() -> None:
    """A name that changes its address between check and connection gains nothing: the checked address is used."""
    answers = [["8.8.8.8"], ["127.0.0.1"]]

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    backend = PinnedBackend((), rebinding)
    dialled: list[str] = []

    class Sockets:
        async def connect_tcp(self, host: str, *_: object) -> None:
            dialled.append(host)

    backend._sockets = Sockets()  # type: ignore[assignment]
    await backend.connect_tcp("rebind.example", 443)
    assert (dialled, len(answers)) == (["8.8.8.8"], 1)


async def read(fetcher: Fetcher, url: str, **options: object) -> bytes:
    got = bytearray()
    async with aclosing(fetcher.read(url, **options)) as blocks:  # type: ignore[arg-type, type-var]
        async for block in blocks:
            got += block
    return bytes(got)


def to(url: str, status: int = 302) -> Fault:
    return Fault(status=status, headers={"Location": url}, content=b"")


NAMED = StoreSettings(plain_http_hosts=("127.0.0.1",))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://localhost:{p}/x", "is not fetched: only https"),
        ("https://localhost:{p}/x", "not an address of the public internet"),
        ("https://169.254.169.254/latest", "not an address of the public internet"),
        ("file:///etc/passwd", "is not fetched"),
        ("http://127.0.0.1:{p}/again", "redirects more than 3 times"),
        ("http://u:p@127.0.0.1:{p}/x", "user name"),
        ("http://[", "is not a URL that can be fetched"),
        ("//[::1/x", "is not a URL that can be fetched"),
    ],
)
async def test_d6_every_redirect_is_checked(target: str, said: str) -> None:
    """A permitted server cannot send the fetcher anywhere else, nor for ever."""
    async with faulty_server(CONTENT) as canary, faulty_server(CONTENT) as server:
        port = canary.port if "again" not in target else server.port
        server.faults = [to(target.format(p=port))]
        fetcher = Fetcher(NAMED, resolver=scripted)
        with pytest.raises(ModelStoreError, match=said):
            await read(fetcher, server.url())
        await fetcher.close()
        assert (canary.connections, len(server.asked) <= 4) == (0, True)


@pytest.mark.parametrize(("redirects", "followed"), [(3, True), (4, False)])
async def test_three_redirects_are_followed(redirects: int, followed: bool) -> None:
    """A file may be three redirects away; for a fourth nothing is asked."""
    async with faulty_server(CONTENT) as server:
        server.faults = [to(server.url(f"/{number}")) for number in range(redirects)] + [Fault()]
        fetcher = Fetcher(NAMED, resolver=scripted)
        if followed:
            assert await read(fetcher, server.url()) == CONTENT
        else:
            with pytest.raises(ModelStoreError, match="redirects more than 3 times"):
                await read(fetcher, server.url())
        await fetcher.close()
        assert server.gets == 4


@pytest.mark.parametrize("across", [True, False])
async def test_a_credential_stays_with_its_host(across: bool) -> None:
    """An authorization header follows a redirect on the same host and port, and no further."""
    async with faulty_server(CONTENT) as other, faulty_server(CONTENT) as server:
        target = other if across else server
        server.faults = [to(target.url("/elsewhere")), Fault()]
        fetcher = Fetcher(NAMED)
        assert await read(fetcher, server.url(), headers={"Authorization": "Bearer secret"}) == CONTENT
        await fetcher.close()
        assert "secret" in server.asked[0]
        assert ("secret" in target.asked[-1]) is not across


ENDLESS = b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"a" * 400_000
MANY = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(3000)) + b"\r\n"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(raw=ENDLESS), "broke off or does not speak HTTP"),
        (Fault(raw=MANY), "headers: not a server of models"),
        (Fault(raw=b"\x00\xff garbage\r\n\r\n"), "broke off or does not speak HTTP"),
        (Fault(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "broke off or does not speak HTTP"),
        (Fault(headers={"Content-Encoding": "gzip"}), "is sent compressed"),
        (Fault(status=206, headers={"Content-Range": "bytes 5-9/10"}), "sends from byte 5 on"),
        (Fault(status=206), "without saying which"),
        (Fault(status=401), "it asks for a credential"),
        (Fault(status=404), "there is no such file"),
        (Fault(cut=100), "broke off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_d6_hostile_answers_are_refused(fault: Fault, said: str) -> None:
    """Endless and countless headers, compressed bodies, wrong ranges and nonsense end in one sentence."""
    async with faulty_server(CONTENT, fault) as server:
        fetcher = Fetcher(NAMED)
        with pytest.raises(ModelStoreError, match=said):
            await read(fetcher, server.url())
        await fetcher.close()


async def test_a_silent_server_is_given_up() -> None:
    """Without a byte for the stall time the connection ends in an error that is worth another try."""
    async with faulty_server(CONTENT * 100, Fault(pause=60)) as server:
        fetcher = Fetcher(NAMED, stall=0.2)
        with pytest.raises(TransientError, match=r"silent for 0.2 s"):
            await read(fetcher, server.url())
        await fetcher.close()


@pytest.mark.parametrize(
    ("fault", "options", "refused"),
    [
        (Fault(), {"offset": 100, "etag": '"v1"'}, False),
        (Fault(), {"offset": 100}, False),
        (Fault(etag='"v2"'), {"offset": 100, "etag": '"v1"'}, True),
        (Fault(ignore_range=True), {"offset": 100}, True),
        (Fault(), {"size": 5}, True),
    ],
)
async def test_the_rest_of_a_file_is_of_the_same_file(fault: Fault, options: dict[str, object], refused: bool) -> None:
    """A range is taken only if server, validator and size agree that it belongs to what came before."""
    async with faulty_server(CONTENT, fault) as server:
        fetcher = Fetcher(NAMED)
        if refused:
            with pytest.raises(RangeRefusedError):
                await read(fetcher, server.url(), **options)
        else:
            assert await read(fetcher, server.url(), **options) == CONTENT[100:]
        await fetcher.close()


async def test_size_and_validator_come_without_the_content(served: FaultyServer) -> None:
    """A look at a file costs no bytes of it."""
    fetcher = Fetcher(NAMED)
    answer = await fetcher.look(served.url())
    await fetcher.close()
    assert (answer.size, answer.etag, served.sent) == (len(CONTENT), '"v1"', 0)


@pytest.fixture
async def served() -> AsyncIterator[FaultyServer]:
    async with faulty_server(CONTENT) as server:
        yield server


async def test_t14_a_host_named_with_its_usual_port_is_inside_too() -> None:
    """A server outside cannot redirect to it by leaving the port out."""
    fetcher = Fetcher(StoreSettings(plain_http_hosts=("models.lan:443", "old.lan:80")))
    with pytest.raises(ModelStoreError, match="redirects into this network"):
        fetcher._redirected("https://public.example/x", "https://models.lan/x", {})
    assert fetcher._redirected("https://models.lan/x", "https://models.lan:443/y", {})[0].endswith("/y")
    await fetcher.close()
