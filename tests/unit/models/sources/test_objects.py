from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.references import parse_source
from rbee_runtime.models.sources import Credentials, RangeRefusedError, TransientError, open_source
from rbee_runtime.models.sources.objects import ObjectSource
from tests.unit.models.sources.bucket import KEY_ID, Bucket, etag
from tests.unit.models.sources.conftest import LOOPBACK, content
from tests.unit.models.sources.servers import Server

WEIGHTS = bytes(range(256)) * 20_000
ONE = {"bee/bee.gguf": WEIGHTS}
FOLDER = {
    "llm/bee/model-00001-of-00002.safetensors": b"one",
    "llm/bee/model-00002-of-00002.safetensors": b"two",
    "llm/bee/model.safetensors.index.json": b"{}",
    "llm/bee/config.json": b"{}",
    "llm/bee/original/consolidated.pth": b"pickle",
    "llm/beetle/config.json": b"{}",
}
KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": "buzz", "AWS_REGION": "hive-1"}


@asynccontextmanager
async def opened(
    server: Server, source: str, keys: Mapping[str, str] | None = None, settings: StoreSettings = LOOPBACK
) -> AsyncIterator[ObjectSource]:
    credentials = Credentials(objects={"AWS_ENDPOINT_URL": server.url, **(keys or {})})
    made = ObjectSource(parse_source(source), settings=settings, credentials=credentials)
    try:
        yield made
    finally:
        await made.close()


async def test_one_object_is_listed_and_read_without_keys(serve: Callable[..., Server]) -> None:
    """A public object needs no credential: size and etag are known before the first byte."""
    async with opened(serve(Bucket(ONE).answer), "s3://models/bee/bee.gguf") as source:
        (file,) = (await source.list()).files
        assert (file.name, file.size, file.etag) == ("bee.gguf", len(WEIGHTS), etag(WEIGHTS))
        assert await content(source, file) == WEIGHTS


async def test_an_object_is_read_on_from_an_offset(serve: Callable[..., Server]) -> None:
    """Only the rest is asked for, at the end nothing at all, and only of the object that was listed."""
    server = serve(Bucket(ONE, public=False).answer)
    async with opened(server, "s3://models/bee/bee.gguf", KEYS) as source:
        (file,) = (await source.list()).files
        assert await content(source, file, offset=4_000_000) == WEIGHTS[4_000_000:]
        assert await content(source, file, offset=len(WEIGHTS)) == b""
    assert server.asked[-1].headers["range"] == "bytes=4000000-"
    assert server.asked[-1].headers["if-match"] == etag(WEIGHTS)


@pytest.mark.parametrize("prefix", ["s3://models/llm/bee", "s3://models/llm/bee/"])
async def test_a_prefix_is_the_folder_of_one_model(serve: Callable[..., Server], prefix: str) -> None:
    """All pages of the listing count, neighbours with a similar name and pickle copies do not."""
    async with opened(serve(Bucket(FOLDER).answer), prefix) as source:
        names = [file.name for file in (await source.list()).files]
    assert names == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


@pytest.mark.parametrize(("offset", "error"), [(0, ModelStoreError), (5, RangeRefusedError)])
async def test_an_object_that_was_replaced_is_not_mixed(
    serve: Callable[..., Server], offset: int, error: type[ModelStoreError]
) -> None:
    """The etag of the listing holds for every byte that is read."""
    bucket = Bucket(dict(ONE))
    async with opened(serve(bucket.answer), "s3://models/bee/bee.gguf") as source:
        (file,) = (await source.list()).files
        bucket.objects["bee/bee.gguf"] = WEIGHTS[::-1]
        with pytest.raises(error, match="has changed since it was listed") as refusal:
            await content(source, file, offset=offset)
    assert type(refusal.value) is error


REFUSALS = [
    pytest.param(
        Bucket(ONE, public=False), "s3://models/bee/bee.gguf", {}, "refuses access; put the keys", id="no keys"
    ),
    pytest.param(
        Bucket(ONE), "s3://models/bee/bee.gguf", KEYS | {"AWS_ACCESS_KEY_ID": "WASP"}, "refuses access", id="wrong keys"
    ),
    pytest.param(
        Bucket(ONE, public=False), "s3://models/bee/", {}, "refuses access; put the keys", id="no keys to list"
    ),
    pytest.param(Bucket(ONE), "s3://models/wasp.gguf", {}, "nothing is there", id="missing key"),
    pytest.param(Bucket(ONE), "s3://wasps/wasp.gguf", {}, "no such bucket or object", id="missing bucket"),
    pytest.param(Bucket({"a/x/b.gguf": b"", "a/no model": b"x"}), "s3://models/a/", {}, "has no model", id="no model"),
    pytest.param(Bucket({"a/b c.gguf": b"x"}), "s3://models/a/", {}, "is not allowed: use letters", id="strange name"),
]


@pytest.mark.parametrize(("bucket", "source", "keys", "said"), REFUSALS)
async def test_a_refusal_is_one_sentence(
    serve: Callable[..., Server], bucket: Bucket, source: str, keys: Mapping[str, str], said: str
) -> None:
    """What a client reports in many lines becomes one sentence without a secret."""
    async with opened(serve(bucket.answer), source, keys) as made:
        with pytest.raises(ModelStoreError, match=said) as refusal:
            await made.list()
    assert "\n" not in str(refusal.value)
    assert "buzz" not in str(refusal.value)


async def test_a_store_that_is_not_there_is_worth_another_try() -> None:
    """A refused connection is a passing trouble, told in one sentence."""
    credentials = Credentials(objects={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    source = ObjectSource(parse_source("s3://models/a.gguf"), settings=LOOPBACK, credentials=credentials)
    with pytest.raises(TransientError, match=r"the object store at 127\.0\.0\.1:9 does not answer; check its address"):
        await source.list()


CONFIGURATIONS = [
    pytest.param("s3://models/a", {"AWS_ENDPOINT_URL": "http://minio.example"}, "not encrypted", id="plain http"),
    pytest.param(
        "s3://models/a", {"AWS_ACCESS_KEY_ID": "k"}, "correct the credential object-store.env", id="half a key"
    ),
    pytest.param("az://models/a", {}, "Account must be specified", id="azure without account"),
    pytest.param("gs://models/a", {"GOOGLE_SERVICE_ACCOUNT_KEY": "{"}, "correct the credential", id="damaged gs key"),
    pytest.param("s3://models/a", {"AWS_NO_SUCH": "k"}, "correct the credential", id="unknown setting"),
]


@pytest.mark.parametrize(("source", "keys", "said"), CONFIGURATIONS)
def test_a_wrong_configuration_says_which_file_to_correct(source: str, keys: Mapping[str, str], said: str) -> None:
    """Nothing is asked with settings that cannot be right."""
    with pytest.raises(ModelStoreError, match=said):
        ObjectSource(parse_source(source), settings=StoreSettings(), credentials=Credentials(objects=keys))


@pytest.mark.parametrize("source", ["s3://models/a", "gs://models/a"])
async def test_every_scheme_has_a_store(source: str) -> None:
    """The factory opens object stores, anonymous ones as well."""
    made = open_source(parse_source(source), StoreSettings())
    assert isinstance(made, ObjectSource)
    await made.close()


def test_offline_no_store_is_opened() -> None:
    """The offline switch holds for object stores."""
    with pytest.raises(ModelStoreError, match="offline"):
        ObjectSource(parse_source("s3://models/a"), settings=StoreSettings(offline=True))
