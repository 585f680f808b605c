"""URLs that carry a secret: nothing of it is shown or kept readable, and a new signature is no new model."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.references import identity
from rbee_runtime.protocol import ModelSpec

from .faulty_server import Fault, FaultyServer, faulty_server
from .pulling import CONTENT, Pulling

SIZE = len(CONTENT)
SECRET = "hunter2hunter2"


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server(CONTENT) as found:
        yield found


@pytest.fixture
def pulling(tmp_path: Path) -> Pulling:
    return Pulling(tmp_path / "models")


def signed(server: FaultyServer, secret: str = SECRET, file: str = "a") -> ModelSpec:
    source = f"{server.url()}?file={file}&X-Amz-Credential=me&X-Amz-Signature={secret}"
    return ModelSpec(name="m", source=source)


def secrets_in(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


async def test_a_signature_is_neither_kept_nor_shown(
    pulling: Pulling, server: FaultyServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken off, resumed, and through a redirect to another signed URL: no file, report, error or log line has it."""
    caplog.set_level(logging.INFO)
    moved = f"HTTP/1.1 302 X\r\nLocation: /m.gguf?sig={SECRET}\r\nContent-Length: 0\r\n\r\n".encode()
    server.faults = [Fault(raw=moved), Fault(cut=SIZE // 2), Fault(status=403)]
    with pytest.raises(ModelStoreError, match="403") as caught:
        await pulling.puller().pull(signed(server))
    beside = next((pulling.root / "partial").glob("*.json"))
    assert (secrets_in(pulling.root), beside.stat().st_mode & 0o777, SECRET in str(caught.value)) == ([], 0o600, False)
    server.faults = [Fault()]
    report = await pulling.puller().pull(signed(server))
    assert secrets_in(pulling.root) == []
    assert report.source == pulling.store.reports()[0].source
    assert report.source.startswith(f"{server.url()}?***")
    assert SECRET not in caplog.text + "".join(capsys.readouterr()) + str(report)


async def test_a_new_signature_goes_on_where_the_old_one_ended(pulling: Pulling, server: FaultyServer) -> None:
    """The rest of a download comes by the new URL, and the model that is there is that of every signature."""
    server.faults = [Fault(cut=SIZE // 2), Fault(status=403)]
    with pytest.raises(ModelStoreError, match="403"):
        await pulling.puller().pull(signed(server, "old"))
    server.faults, server.sent = [Fault()], 0
    await pulling.puller().pull(signed(server, "new"))
    assert (server.sent, "range: bytes=" in server.asked[-1].lower()) == (SIZE // 2, True)
    assert pulling.store.find(signed(server, "third")) is not None
    assert pulling.store.find(signed(server, "third", file="b")) is None


async def test_a_manifest_of_an_older_version_is_shown_without_its_secret(
    pulling: Pulling, server: FaultyServer
) -> None:
    """Written with the whole URL, it is still that model, and reports do not have the secret."""
    await pulling.puller().pull(signed(server))
    path = pulling.store.layout.manifest("m")
    source = pulling.store.reports()[0].source
    path.write_text(path.read_text().replace(source, signed(server).source))
    assert secrets_in(pulling.root) == [path.name]
    assert (pulling.store.reports()[0].source, pulling.store.find(signed(server)) is None) == (source, False)


BASE = "https://h.example/m.gguf"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f"{BASE}?X-Amz-Signature=1&X-Amz-Date=2", f"{BASE}?X-Amz-Date=3&X-Amz-Signature=4", True),
        (f"{BASE}?sv=1&sig=2&se=3", f"{BASE}?sv=1&sig=5&se=6", True),
        (f"{BASE}?Expires=1&Signature=2&Key-Pair-Id=3", f"{BASE}?Expires=9&Signature=8&Key-Pair-Id=3", True),
        (f"{BASE}?access_token=1", f"{BASE}?access_token=2", True),
        (f"{BASE}?x=1&y=2", f"{BASE}?y=2&x=1", True),
        (f"{BASE}?x=1", f"{BASE}?x=2", False),
        (f"{BASE}?sig=1", "https://h.example/n.gguf?sig=1", False),
        (f"{BASE}?sig=1#sha256={'a' * 64}", f"{BASE}?sig=1#sha256={'b' * 64}", False),
        ("file:/models/a?sig=1", "file:/models/a?sig=2", False),
        ("https://me:1@h.example/m", "https://you:2@h.example/m", True),
    ],
)
def test_what_signs_a_url_says_nothing_about_its_content(one: str, other: str, same: bool) -> None:
    """The same URL signed anew is the same source; any other difference is another one; done twice it is the same."""
    assert (identity(one) == identity(other)) is same
    assert identity(identity(one)) == identity(one)
