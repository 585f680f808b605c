"""Requests that a server may misread, and what ours does with them."""

from dataclasses import dataclass

HEAD = b"POST /x HTTP/1.1\r\nhost: a\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """Bytes of a client; the statuses that come back, the bodies that the application gets, whether it goes on."""

    name: str
    raw: bytes
    statuses: tuple[int, ...]
    bodies: tuple[bytes, ...] = ()
    open: bool = False


def _refused(name: str, raw: bytes, status: int = 400) -> Case:
    return Case(name, raw, (status,))


def _taken(name: str, raw: bytes, body: bytes = b"", *, ends: bool = False) -> Case:
    return Case(name, raw, (200,), (body,), open=not ends)


def _get(target: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET %b %b\r\nhost: a\r\n\r\n" % (target, version)


LENGTHS = (
    _refused("length then chunked", HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n" + END),
    _refused("chunked then length", HEAD + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n" + END),
    _refused("same length twice", HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
    _refused("two lengths", HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
    _refused("list of lengths", HEAD + b"content-length: 3, 3\r\n\r\nabc"),
    _refused("length with plus", HEAD + b"content-length: +3\r\n\r\nabc"),
    _refused("length with minus", HEAD + b"content-length: -3\r\n\r\nabc"),
    _refused("length in hex", HEAD + b"content-length: 0x3\r\n\r\nabc"),
    _refused("length with underscore", HEAD + b"content-length: 1_0\r\n\r\nabcdefghij"),
    _refused("empty length", HEAD + b"content-length: \r\n\r\n"),
    _refused("length beyond 64 bits", HEAD + b"content-length: 99999999999999999999999\r\n\r\nabc"),
    _taken("length and a space", HEAD + b"content-length: 3 \r\n\r\nabc", b"abc"),
    _taken("body of a GET", b"GET /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
)

CODINGS = (
    _refused("identity", HEAD + b"transfer-encoding: identity\r\n\r\n", 501),
    _refused("gzip in chunks", HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n" + END, 501),
    _refused("chunks in gzip", HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n" + END),
    _refused("another word", HEAD + b"transfer-encoding: xchunked\r\n\r\n" + END, 501),
    _refused("chunked twice", HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + END),
    _refused("chunked, identity", HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n" + END),
    _refused("a word, then chunked", HEAD + b"transfer-encoding: x\r\ntransfer-encoding: chunked\r\n\r\n" + END, 501),
    _refused("odd space before chunked", HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n" + END),
    _refused("space before the colon", HEAD + b"transfer-encoding : chunked\r\n\r\n" + END),
    _refused("chunked in HTTP/1.0", b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n" + END),
    _taken("in capitals", HEAD + b"Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n" + END, b"abc"),
)

CHUNKS = (
    _taken("several", CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n" + END, b"abcde"),
    _taken("an extension", CHUNKED + b"3;a=b\r\nabc\r\n" + END, b"abc"),
    _refused("an extension that ends in a bare LF", CHUNKED + b"3;a\nabc\r\n" + END),
    _refused("no number", CHUNKED + b"zz\r\nabc\r\n" + END),
    _refused("0x", CHUNKED + b"0x3\r\nabc\r\n" + END),
    _refused("a space", CHUNKED + b"3 \r\nabc\r\n" + END),
    _refused("minus", CHUNKED + b"-3\r\nabc\r\n" + END),
    _refused("beyond 64 bits", CHUNKED + b"fffffffffffffffff\r\nabc\r\n" + END),
    _refused("longer than it says", CHUNKED + b"3\r\nabcX\r\n" + END),
    _refused("bare LF", CHUNKED + b"3\nabc\n0\n\n"),
    _refused("a length among trailers", CHUNKED + b"3\r\nabc\r\n0\r\ncontent-length: 5\r\n\r\n"),
    _taken("other trailers", CHUNKED + b"3\r\nabc\r\n0\r\nauthorization: Bearer x\r\n\r\n", b"abc"),
)

HEADERS = (
    _refused("space in a name", HEAD + b"x y: 1\r\n\r\n"),
    _refused("space behind a name", HEAD + b"xy : 1\r\n\r\n"),
    _refused("folded", HEAD + b"x: 1\r\n 2\r\n\r\n"),
    _refused("folded at the beginning", b"POST /x HTTP/1.1\r\n host: a\r\n\r\n"),
    _refused("NUL", HEAD + b"x: a\x00b\r\n\r\n"),
    _refused("bare CR", HEAD + b"x: a\rb\r\n\r\n"),
    _refused("bare LF", b"POST /x HTTP/1.1\nhost: a\n\n"),
    _refused("no colon", HEAD + b"abc\r\n\r\n"),
    _refused("no name", HEAD + b": abc\r\n\r\n"),
    _refused("a name that is not ASCII", HEAD + b"x\xff: abc\r\n\r\n"),
    _taken("a value that is not ASCII", HEAD + b"x: \xff\r\n\r\n"),
    _refused("no host", b"POST /x HTTP/1.1\r\n\r\n"),
    _refused("two hosts", HEAD + b"host: b\r\n\r\n"),
    _refused("two keys", HEAD + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n"),
    _refused("two types", HEAD + b"content-type: application/json\r\ncontent-type: text/plain\r\n\r\n"),
    _taken("two of another header", HEAD + b"accept: a\r\naccept: b\r\n\r\n"),
    _refused("a long host", b"POST /x HTTP/1.1\r\nhost: " + b"a" * 301 + b"\r\n\r\n"),
    _refused("a host with a path", b"POST /x HTTP/1.1\r\nhost: a b/c\r\n\r\n"),
    _taken("no host in HTTP/1.0", b"POST /x HTTP/1.0\r\n\r\n", ends=True),
    _refused("too many", HEAD + b"".join(b"x%d: 1\r\n" % i for i in range(128)) + b"\r\n", 431),
    _refused("another expectation", HEAD + b"expect: 200-ok\r\ncontent-length: 3\r\n\r\nabc", 417),
    Case("100-continue", HEAD + b"expect: 100-continue\r\ncontent-length: 3\r\n\r\nabc", (100, 200), (b"abc",), True),
    _taken("an upgrade", b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
    _taken(
        "an upgrade and a body",
        HEAD + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
        b"content-length: 3\r\n\r\nabc",
        b"abc",
    ),
    _taken(
        "an upgrade and an end",
        HEAD + b"connection: upgrade, close\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n" + END,
        b"abc",
        ends=True,
    ),
)

LINES = (
    _refused("method in small letters", b"post /x HTTP/1.1\r\nhost: a\r\n\r\n"),
    _refused("unknown method", b"BREW /x HTTP/1.1\r\nhost: a\r\n\r\n"),
    _refused("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n", 405),
    _refused("TRACE", b"TRACE /x HTTP/1.1\r\nhost: a\r\n\r\n", 405),
    _refused("OPTIONS of all", b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"),
    _refused("HTTP/0.9", b"GET /x\r\n\r\n", 505),
    _refused("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _refused("HTTP/1.2", _get(b"/x", b"HTTP/1.2")),
    _refused("HTTP/11.1", _get(b"/x", b"HTTP/11.1")),
    _refused("http", _get(b"/x", b"http/1.1")),
    _taken("address as target", _get(b"http://b/x")),
    _refused("address of another kind", _get(b"ftp://b/x")),
    _refused("host as target", _get(b"b:80")),
    _refused("fragment", _get(b"/x#y")),
    _refused("backslash", _get(b"\\x")),
    _refused("backslash behind", _get(b"/x\\..\\y")),
    _refused("space in the target", _get(b"/x y")),
    _refused("tab in the target", _get(b"/x\ty")),
    _refused("target that is not ASCII", _get(b"/x\xff")),
    _taken("a long target", _get(b"/" + b"x" * 8191)),
    _refused("too long a target", _get(b"/" + b"x" * 8192), 414),
    _taken("empty lines before", b"\r\n\r\n" + _get(b"/x")),
    _refused("space before", b" " + _get(b"/x")),
    _refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
)

SEVERAL = (
    Case("at once", (HEAD + b"content-length: 3\r\n\r\nabc") * 3, (200,), (b"abc",)),
    Case("and nonsense", HEAD + b"content-length: 3\r\n\r\nabcjunk\r\n\r\n", (200,), (b"abc",)),
    Case("behind an end", HEAD + b"connection: close\r\n\r\n" + HEAD + b"\r\n", (200,), (b"",)),
    Case("HTTP/1.0", b"POST /x HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na" * 2, (200,), (b"a",)),
)

CASES = (*LENGTHS, *CODINGS, *CHUNKS, *HEADERS, *LINES, *SEVERAL)
