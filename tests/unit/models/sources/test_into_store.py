"""From each kind of source into a real store."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelFormatError, ModelStoreError, QuarantinedError
from rbee_runtime.models.download import Download
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import Credentials, Listing, RemoteFile, TransientError
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec
from tests.unit.models.pulling import uninspected
from tests.unit.models.sources.bucket import Bucket
from tests.unit.models.sources.conftest import LOOPBACK
from tests.unit.models.sources.hub import Hub
from tests.unit.models.sources.oci_registry import BASIC, Registry, tar
from tests.unit.models.sources.servers import Server

WEIGHTS = b"GGUF" + bytes(range(256)) * 30_000


@dataclass(frozen=True)
class Offer:
    """A place that has the model."""

    source: str
    settings: StoreSettings
    credentials: Credentials


@pytest.fixture
def offers(serve: Callable[..., Server]) -> dict[str, Offer]:
    hub = Hub({"config.json": b"{}", "model.safetensors": WEIGHTS})
    hub.cdn = f"http://localhost:{serve(hub.content).port}"
    artefact, image = Registry(login="basic"), Registry()
    artefact.artefact({"bee.gguf": WEIGHTS})
    image.image([tar({"models/bee.gguf": WEIGHTS})])
    bucket = serve(Bucket({"llm/bee.gguf": WEIGHTS}).answer)
    hosts = [f"127.0.0.1:{serve(registry.answer).port}" for registry in (artefact, image)]
    logins = Credentials(registries={hosts[0]: BASIC})
    hubbed = LOOPBACK.model_copy(update={"hf_endpoint": serve(hub.answer).url})
    return {
        "hub": Offer("hf:acme/bee", hubbed, Credentials()),
        "bucket": Offer("s3://models/llm/bee.gguf", LOOPBACK, Credentials(objects={"AWS_ENDPOINT_URL": bucket.url})),
        "artefact": Offer(f"oci://{hosts[0]}/acme/bee", LOOPBACK, logins),
        "image": Offer(f"oci://{hosts[1]}/acme/bee", LOOPBACK, logins),
    }


@pytest.mark.parametrize("kind", ["hub", "bucket", "artefact", "image"])
async def test_a_model_comes_into_the_store_whole(offers: dict[str, Offer], kind: str, tmp_path: Path) -> None:
    """Each source gives the store a blob named by its own sha256, and a second ask fetches nothing."""
    offer = offers[kind]
    store = ModelStore(tmp_path / "models", offer.settings.model_copy(update={"spare": 0}))
    spec = ModelSpec(name="bee", source=offer.source)
    report = await Puller(store, credentials=offer.credentials, inspect=uninspected).pull(spec)
    weights = next(file for file in report.files if file.name.endswith(("gguf", "safetensors")))
    assert weights.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert store.path_of(weights).read_bytes() == WEIGHTS
    assert store.find(spec) == report
    assert bool(report.revision) is (kind != "bucket")


def unhashed(serve: Callable[..., Server], kind: str, *, damaged: bool) -> Offer:
    """Return an offer of a file that only its source can check: by the hash of something else, and as a whole."""
    if kind == "hub":
        hub = Hub(
            {"config.json": b"{}" * 40, "model.safetensors": WEIGHTS}, damaged={"config.json"} if damaged else set()
        )
        return Offer("hf:acme/bee", LOOPBACK.model_copy(update={"hf_endpoint": serve(hub.answer).url}), Credentials())
    image = Registry(broken=damaged)
    image.image([tar({"models/bee.gguf": WEIGHTS})])
    return Offer(f"oci://127.0.0.1:{serve(image.answer).port}/acme/bee", LOOPBACK, Credentials())


def puller(offer: Offer, folder: Path) -> Puller:
    async def no_pause(_: float) -> None:
        await asyncio.sleep(0)

    store = ModelStore(folder, offer.settings.model_copy(update={"spare": 0}))
    return Puller(store, credentials=offer.credentials, inspect=uninspected, sleep=no_pause)


@pytest.mark.parametrize("kind", ["hub", "image"])
async def test_what_its_source_finds_damaged_is_not_taken(
    serve: Callable[..., Server], kind: str, tmp_path: Path
) -> None:
    """A file whose last byte came before its source saw that it is wrong is fetched once more, then kept aside."""
    offer = unhashed(serve, kind, damaged=True)
    with pytest.raises(QuarantinedError, match=r"arrived damaged.*, twice; it is kept aside"):
        await puller(offer, tmp_path / "models").pull(ModelSpec(name="bee", source=offer.source))
    assert [path.name for path in (tmp_path / "models" / "manifests").iterdir()] == []


@pytest.mark.parametrize("kind", ["hub", "image"])
async def test_what_was_left_unchecked_comes_anew(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, kind: str, tmp_path: Path
) -> None:
    """A file that came to its end in a process that was killed is not believed where only its source can check it."""
    offer, folder = unhashed(serve, kind, damaged=False), tmp_path / "models"
    spec = ModelSpec(name="bee", source=offer.source)

    async def killed(*_: object) -> None:
        raise ModelStoreError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Download, "_verified", killed)
        with pytest.raises(ModelStoreError, match="killed"):
            await puller(offer, folder).pull(spec)
    (left,) = (folder / "partial").glob("from-*.part")
    right = left.read_bytes()
    left.write_bytes(right[:-1] + b"!")
    report = await puller(offer, folder).pull(spec)
    assert hashlib.sha256(right).hexdigest() in {file.sha256 for file in report.files}


async def test_a_check_that_did_not_come_to_its_end_is_none(tmp_path: Path) -> None:
    """A connection that breaks between the last byte and the source's word on the file costs a second try."""
    tries = [WEIGHTS[::-1], WEIGHTS]

    class Breaking:
        async def list(self) -> Listing:
            return Listing((RemoteFile("bee.gguf", len(WEIGHTS), etag="v1", whole=True),))

        async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
            yield tries.pop(0)[offset:]
            if tries:
                raise TransientError(f"{file.name} broke off")

        async def close(self) -> None: ...

    store = ModelStore(tmp_path / "models", StoreSettings(spare=0))
    puller = Puller(store, inspect=uninspected, opener=lambda *_: Breaking())
    report = await puller.pull(ModelSpec(name="bee", source="https://models.example/bee.gguf"))
    assert (report.files[0].sha256, tries) == (hashlib.sha256(WEIGHTS).hexdigest(), [])


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_pickle_comes_as_the_refusal_advises(
    serve: Callable[..., Server], tmp_path: Path, allowed: bool
) -> None:
    """Named by a glob and allowed, it comes with its configuration and is committed; not allowed, it is refused."""
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    repository = {"pytorch_model.bin": b"\x80\x02" + WEIGHTS, "config.json": json.dumps(config).encode()}
    settings = StoreSettings(
        spare=0,
        hf_endpoint=serve(Hub(repository).answer).url,
        plain_http_hosts=LOOPBACK.plain_http_hosts,
        allow_pickle=allowed,
    )
    puller = Puller(ModelStore(tmp_path / "models", settings))
    with pytest.raises(ModelStoreError, match=r"name the file by a glob and set store\.allow_pickle"):
        await puller.pull(ModelSpec(name="bee", source="hf:acme/bee"))
    spec = ModelSpec(name="bee", source="hf:acme/bee:pytorch_model.bin")
    if allowed:
        report = await puller.pull(spec)
        assert {file.name for file in report.files} == set(repository)
    else:
        with pytest.raises(ModelFormatError, match="is a pickle"):
            await puller.pull(spec)
