import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.references import parse_source
from rbee_runtime.models.sources import Credentials, RangeRefusedError, TransientError
from rbee_runtime.models.sources.hf import HfSource
from tests.unit.models.sources.conftest import LOOPBACK, content
from tests.unit.models.sources.hub import COMMIT, TOKEN, Hub
from tests.unit.models.sources.servers import Server

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
REPO = {"bee-Q4_K_M.gguf": WEIGHTS, "bee-Q8_0.gguf": WEIGHTS * 2, "README.md": b"# bee"}
TENSORS = {"model.safetensors": WEIGHTS, "config.json": b'{"model_type":"bee"}', "pytorch_model.bin": b"\x80"}
ONE = "hf:acme/bee:*Q4_K_M.gguf"


@asynccontextmanager
async def opened(server: Server, source: str, token: str = "") -> AsyncIterator[HfSource]:
    settings = LOOPBACK.model_copy(update={"hf_endpoint": server.url})
    made = HfSource(parse_source(source), settings=settings, credentials=Credentials(hf_token=token), env={})
    try:
        yield made
    finally:
        await made.close()


async def test_a_glob_chooses_one_file_at_the_commit_of_its_branch(serve: Callable[..., Server]) -> None:
    """The listing pins the commit, and carries the size and sha256 that the hub has for a large file."""
    async with opened(serve(Hub(REPO).answer), ONE) as source:
        listing = await source.list()
    (file,) = listing.files
    assert listing.revision == COMMIT
    assert (file.name, file.size, file.sha256) == ("bee-Q4_K_M.gguf", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    assert f"/resolve/{COMMIT}/" in file.locator


async def test_reading_goes_on_at_an_offset(serve: Callable[..., Server]) -> None:
    """An interrupted file is continued by a range, and only its rest is sent."""
    server = serve(Hub(REPO).answer)
    async with opened(server, ONE) as source:
        (file,) = (await source.list()).files
        assert await content(source, file) == WEIGHTS
        assert await content(source, file, offset=5000) == WEIGHTS[5000:]
    assert server.asked[-1].headers["range"] == "bytes=5000-"


async def test_a_branch_that_moves_after_the_listing_is_read_as_listed(serve: Callable[..., Server]) -> None:
    """What is read names the commit, never the branch."""
    server = serve(Hub(REPO).answer)
    async with opened(server, "hf:acme/bee@main:*Q4_K_M.gguf") as source:
        (file,) = (await source.list()).files
        await content(source, file)
    assert [asked.path for asked in server.asked if "/resolve/" in asked.path] == [
        f"/acme/bee/resolve/{COMMIT}/bee-Q4_K_M.gguf"
    ]


async def test_the_token_does_not_follow_a_redirect_to_another_host(serve: Callable[..., Server]) -> None:
    """The hub gets the token, the host that holds the bytes does not."""
    hub = Hub(REPO, gated=True, accepted=True)
    elsewhere = serve(hub.content)
    hub.cdn = f"http://localhost:{elsewhere.port}"
    server = serve(hub.answer)
    async with opened(server, ONE, TOKEN) as source:
        (file,) = (await source.list()).files
        assert await content(source, file, offset=100) == WEIGHTS[100:]
    assert {asked.headers.get("authorization") for asked in server.asked} == {f"Bearer {TOKEN}"}
    assert elsewhere.asked
    assert not [asked for asked in elsewhere.asked if TOKEN in str(asked.headers)]


async def test_safetensors_come_with_their_configuration_and_without_pickles(serve: Callable[..., Server]) -> None:
    """Without a glob the weights and what engines read beside them are chosen, small files named by git."""
    async with opened(serve(Hub(TENSORS).answer), "hf:acme/bee") as source:
        files = {file.name: file for file in (await source.list()).files}
        assert set(files) == {"model.safetensors", "config.json"}
        assert await content(source, files["config.json"]) == TENSORS["config.json"]
        assert files["config.json"].sha256 is None
        with pytest.raises(RangeRefusedError):
            await content(source, files["config.json"], offset=3)


async def test_a_small_file_that_arrives_damaged_is_refused(serve: Callable[..., Server]) -> None:
    """Files without a sha256 are verified by the name that git gives their content."""
    async with opened(serve(Hub(TENSORS, damaged={"config.json"}).answer), "hf:acme/bee") as source:
        small = next(file for file in (await source.list()).files if file.name == "config.json")
        with pytest.raises(ModelStoreError, match=r"config\.json arrived damaged"):
            await content(source, small)


REFUSALS = [
    pytest.param(
        Hub(REPO, gated=True), ONE, "", r"is gated: accept its terms at \S+/acme/bee and put a token", id="gated"
    ),
    pytest.param(
        Hub(REPO, gated=True), ONE, TOKEN, "is gated: accept its terms .* with the account", id="not accepted"
    ),
    pytest.param(Hub(REPO), ONE, "hf_wrong", "does not accept the token", id="wrong token"),
    pytest.param(Hub(REPO, private=True), ONE, "", "private or gated: then put a token", id="private"),
    pytest.param(Hub(REPO), "hf:acme/beee", "", "does not exist.*did you mean acme/bee", id="unknown repository"),
    pytest.param(Hub(REPO), "hf:acme/beee", TOKEN, "does not exist, or the token", id="unknown with token"),
    pytest.param(Hub(REPO), "hf:acme/bee@mian", "", "no revision 'mian'; did you mean main", id="unknown revision"),
    pytest.param(Hub(REPO), "hf:acme/bee", "", "has 2 GGUF models; choose one by a glob", id="several models"),
    pytest.param(Hub(REPO), "hf:acme/bee:*Q5*", "", "no file that matches", id="glob without a match"),
]


@pytest.mark.parametrize(("hub", "source", "token", "said"), REFUSALS)
async def test_a_refusal_is_one_sentence_that_says_what_to_do(
    serve: Callable[..., Server], hub: Hub, source: str, token: str, said: str
) -> None:
    """Each refusal of the hub is told apart, and no sentence carries the token."""
    async with opened(serve(hub.answer), source, token) as made:
        with pytest.raises(ModelStoreError, match=said) as refusal:
            await made.list()
    assert "\n" not in str(refusal.value)
    assert not token or token not in str(refusal.value)


async def test_a_hub_that_is_down_is_worth_another_try(serve: Callable[..., Server]) -> None:
    """A busy hub is a passing trouble, unlike a refusal."""
    async with opened(serve(Hub(REPO, down=True).answer), ONE) as source:
        with pytest.raises(TransientError, match="busy or broken: 503"):
            await source.list()


async def test_a_hub_that_is_not_there_is_worth_another_try() -> None:
    """A refused connection is one sentence, with the address that was tried."""
    settings = LOOPBACK.model_copy(update={"hf_endpoint": "http://127.0.0.1:9"})
    source = HfSource(parse_source(ONE), settings=settings, env={})
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:9 gives no list"):
        await source.list()
    await source.close()


def test_a_hub_without_tls_must_be_named() -> None:
    """A token is not sent in the clear because of a typing error in an address."""
    settings = LOOPBACK.model_copy(update={"hf_endpoint": "http://hub.example"})
    with pytest.raises(ModelStoreError, match="not asked without TLS"):
        HfSource(parse_source(ONE), settings=settings, env={})


async def test_offline_nothing_is_asked(serve: Callable[..., Server]) -> None:
    """The offline switch holds without a cache as well, and says so."""
    server = serve(Hub(REPO).answer)
    settings = LOOPBACK.model_copy(update={"hf_endpoint": server.url, "offline": True})
    source = HfSource(parse_source(ONE), settings=settings, env={})
    with pytest.raises(ModelStoreError, match=r"in no Hugging Face cache .* offline"):
        await source.list()
    assert not server.asked
