"""From each kind of source into a real store."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import Credentials
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
