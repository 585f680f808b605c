"""Against caches that the hub's own client filled from a hub on loopback."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.references import parse_source
from rbee_runtime.models.sources import hf_cache
from rbee_runtime.models.sources.hf import HfSource
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec
from tests.unit.models.pulling import uninspected
from tests.unit.models.sources.conftest import LOOPBACK, content
from tests.unit.models.sources.hub import COMMIT, Hub
from tests.unit.models.sources.servers import Server

WEIGHTS = b"tensors" * 5000
FILES = {"model.safetensors": WEIGHTS, "config.json": b'{"model_type":"bee"}', "README.md": b"# bee"}
Fill = Callable[..., Path]


@pytest.fixture
def fill(serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Fill a cache by the real client: all files of a repository, or the named ones."""

    def filled(files: dict[str, bytes], *names: str) -> Path:
        from huggingface_hub import HfApi, constants  # noqa: PLC0415 - see conftest

        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        api, cache = HfApi(endpoint=serve(Hub(files).answer).url, token=False), tmp_path / "home" / "hub"
        for name in names:
            api.hf_hub_download("acme/bee", name, cache_dir=cache)
        if not names:
            api.snapshot_download("acme/bee", cache_dir=cache)
        return cache

    return filled


async def test_a_cached_model_is_listed_offline_with_its_paths(fill: Fill) -> None:
    """Offline a cache is a source: the commit, the names and verified hashes, and where the bytes lie."""
    settings = StoreSettings(offline=True, hf_caches=(fill(FILES).parent,))
    source = HfSource(parse_source("hf:acme/bee"), settings=settings, env={})
    listing = await source.list()
    files = {file.name: file for file in listing.files}
    assert listing.revision == COMMIT
    assert set(files) == {"model.safetensors", "config.json"}
    for name, file in files.items():
        assert file.path is not None
        assert file.path.read_bytes() == FILES[name]
        assert file.sha256 == hashlib.sha256(FILES[name]).hexdigest()
    await source.close()


async def test_a_cached_model_comes_into_the_store_without_a_second_copy(fill: Fill, tmp_path: Path) -> None:
    """The store's blob and the cache's are one file, and the store keeps it when the cache is emptied."""
    cache = fill(FILES)
    store = ModelStore(tmp_path / "models", StoreSettings(offline=True, hf_caches=(cache,), spare=0))
    report = await Puller(store, inspect=uninspected).pull(ModelSpec(name="bee", source="hf:acme/bee"))
    (weights,) = (file for file in report.files if file.name == "model.safetensors")
    cached = next(cache.rglob(f"snapshots/{COMMIT}/model.safetensors")).resolve()
    assert store.path_of(weights).stat().st_ino == cached.stat().st_ino
    shutil.rmtree(cache)
    assert store.path_of(weights).read_bytes() == WEIGHTS


async def test_online_what_the_cache_has_is_not_fetched_again(fill: Fill, serve: Callable[..., Server]) -> None:
    """The hub says which files, the cache where the large ones are already; reading them still works."""
    cache = fill(FILES, "model.safetensors")
    hub = serve(Hub(FILES).answer)
    settings = LOOPBACK.model_copy(update={"hf_endpoint": hub.url})
    source = HfSource(parse_source("hf:acme/bee"), settings=settings, env={"HF_HUB_CACHE": str(cache)})
    files = {file.name: file for file in (await source.list()).files}
    assert files["model.safetensors"].path is not None
    assert files["config.json"].path is None
    assert await content(source, files["config.json"]) == FILES["config.json"]
    await source.close()


def test_a_scan_finds_what_can_be_adopted(fill: Fill) -> None:
    """A complete snapshot is offered by the reference that pins it."""
    (snapshot,) = hf_cache.adoptable(hf_cache.caches(StoreSettings(), {"HF_HOME": str(fill(FILES).parent)}))
    assert snapshot.source == f"hf:acme/bee@{COMMIT}"
    assert snapshot.refs == ("main",)


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
def test_a_snapshot_that_lost_a_file_is_not_adopted(fill: Fill, lost: str) -> None:
    """The client's own list of the commit says what belongs to it."""
    cache = fill(FILES)
    next(cache.rglob(f"snapshots/{COMMIT}/{lost}")).unlink()
    assert hf_cache.adoptable([cache]) == ()
    (snapshot,) = hf_cache.snapshots([cache])
    with pytest.raises(ModelStoreError, match=f"lacks 1 files of the model, {lost} first"):
        hf_cache.listing(snapshot)


def test_an_index_says_which_weights_belong_to_it(fill: Fill) -> None:
    """Without a list of the commit, the index of the weights is held against the files."""
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}).encode()
    files = {**FILES, "model.safetensors.index.json": index}
    (snapshot,) = hf_cache.snapshots([fill(files, *files)])
    with pytest.raises(ModelStoreError, match=r"lacks 1 files of the model, more\.safetensors first"):
        hf_cache.listing(snapshot)


def test_a_damaged_small_file_is_not_adopted(fill: Fill) -> None:
    """Small files are held against the name that git gives them; large ones are hashed when they are taken in."""
    cache = fill(FILES)
    blob = next(cache.rglob(f"snapshots/{COMMIT}/config.json")).resolve()
    blob.write_bytes(b'{"model_type":"wasp"}')
    (snapshot,) = hf_cache.snapshots([cache])
    with pytest.raises(ModelStoreError, match="is damaged: git names its content"):
        hf_cache.listing(snapshot)


@pytest.mark.parametrize("shut", ["config.json", "model.safetensors"])
async def test_a_cache_that_is_closed_to_us_is_told_in_one_sentence(
    fill: Fill, monkeypatch: pytest.MonkeyPatch, shut: str
) -> None:
    """A cached file that may not be read, or goes away while it is looked at, is named with the way out."""
    cache, plain = fill(FILES), hf_cache._blob
    blob = next(cache.rglob(f"snapshots/{COMMIT}/{shut}")).resolve()

    def gone(path: Path) -> str:
        name = plain(path)
        if path.name == shut:
            blob.unlink()
        return name

    monkeypatch.setattr(hf_cache, "_blob", gone)
    settings = StoreSettings(offline=True, hf_caches=(cache,))
    source = HfSource(parse_source("hf:acme/bee"), settings=settings, env={})
    with pytest.raises(ModelStoreError, match=f"cannot read the cached file .*{blob.name}: .*; let the hive's user"):
        await source.list()
    await source.close()


def test_a_link_out_of_the_cache_is_not_followed(fill: Fill, tmp_path: Path) -> None:
    """A cache that others can write to cannot make the hive read elsewhere."""
    cache = fill(FILES)
    (tmp_path / "secret").write_bytes(WEIGHTS)
    link = next(cache.rglob(f"snapshots/{COMMIT}/model.safetensors"))
    link.unlink()
    link.symlink_to(tmp_path / "secret")
    assert hf_cache.adoptable([cache]) == ()


def test_a_blob_shared_between_repositories_keeps_its_name(fill: Fill) -> None:
    """Newer clients put a second link in between; the content's name is that of the first."""
    cache = fill(FILES)
    link = next(cache.rglob(f"snapshots/{COMMIT}/model.safetensors"))
    blob = Path(os.path.normpath(link.parent / link.readlink()))
    shared = cache / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True, exist_ok=True)
    blob.replace(shared)
    blob.symlink_to(shared)
    (snapshot,) = hf_cache.snapshots([cache])
    weights = next(file for file in hf_cache.listing(snapshot).files if file.name == "model.safetensors")
    assert (weights.sha256, weights.path) == (hashlib.sha256(WEIGHTS).hexdigest(), shared)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("hf:acme/bee", True),
        ("hf:acme/bee@main", True),
        (f"hf:acme/bee@{COMMIT}", True),
        ("hf:acme/bee@v2", False),
        ("hf:acme/wasp", False),
    ],
)
def test_a_reference_finds_its_snapshot(fill: Fill, source: str, found: bool) -> None:
    """Branches are those that the cache knows, and a commit is itself."""
    snapshot = hf_cache.find(parse_source(source), [fill(FILES)])
    assert (snapshot is not None) is found


def test_a_folder_that_only_others_may_enter_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's private folder is passed over, with whatever way of looking at it."""

    def denied(*_arguments: object, **_named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", denied)
    monkeypatch.setattr(os, "listdir", denied)
    assert hf_cache.caches(StoreSettings(hf_caches=(tmp_path,)), {}) == ()


def test_folders_without_models_are_no_caches(tmp_path: Path) -> None:
    """Missing, empty and foreign folders are passed over in silence."""
    (tmp_path / "empty").mkdir()
    settings = StoreSettings(hf_caches=(tmp_path / "empty", tmp_path / "missing"))
    assert hf_cache.caches(settings, {"HOME": str(tmp_path), "HF_HOME": "", "XDG_CACHE_HOME": "/proc"}) == ()


async def test_a_damaged_cache_does_not_keep_a_model_away(
    fill: Fill, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """A cached file whose content is not what the hub says is left where it is, and the hub's own is fetched."""
    cache = fill(FILES)
    cached = next(cache.rglob("snapshots/*/model.safetensors")).resolve()
    cached.write_bytes(WEIGHTS[:-1] + b"!")
    settings = StoreSettings(
        hf_endpoint=serve(Hub(FILES).answer).url,
        hf_caches=(cache,),
        spare=0,
        plain_http_hosts=LOOPBACK.plain_http_hosts,
    )
    store = ModelStore(tmp_path / "models", settings)
    report = await Puller(store, inspect=uninspected).pull(ModelSpec(name="bee", source="hf:acme/bee"))
    (weights,) = (file for file in report.files if file.name == "model.safetensors")
    assert store.path_of(weights).read_bytes() == WEIGHTS
