import gzip
import hashlib
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.references import parse_source
from rbee_runtime.models.sources import Credentials, RangeRefusedError, TransientError
from rbee_runtime.models.sources.oci import OciSource
from tests.unit.models.sources.conftest import LOOPBACK, content
from tests.unit.models.sources.oci_registry import BASIC, INDEX, MANIFEST, TAR, TOKEN, Registry, digest, layer, tar
from tests.unit.models.sources.servers import Reply, Server

WEIGHTS = b"GGUF" + bytes(range(256)) * 9000
FOLDER = {"model.safetensors": WEIGHTS, "config.json": b"{}", "tokenizer.json": b"{}", "README.md": b"#"}
LONG = f"models/{'b' * 120}.gguf"


@asynccontextmanager
async def opened(server: Server, rest: str = "", *, login: bool = False) -> AsyncIterator[OciSource]:
    host = f"127.0.0.1:{server.port}"
    credentials = Credentials(registries={host: BASIC} if login else {})
    made = OciSource(parse_source(f"oci://{host}/acme/bee{rest}"), settings=LOOPBACK, credentials=credentials)
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("login", ["", "basic", "bearer"])
async def test_an_artefact_is_read_and_continued_after_each_kind_of_login(
    serve: Callable[..., Server], login: str
) -> None:
    """A titled layer is a file of that name; its digest is the sha256, and a range continues it."""
    registry = Registry(login=login)
    revision = registry.artefact({"bee.gguf": WEIGHTS})
    server = serve(registry.answer)
    registry.url = server.url
    async with opened(server, login=True) as source:
        listing = await source.list()
        (file,) = listing.files
        assert (listing.revision, file.name, file.size) == (revision, "bee.gguf", len(WEIGHTS))
        assert file.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert await content(source, file, offset=7) == WEIGHTS[7:]


async def test_a_token_is_got_without_a_credential(serve: Callable[..., Server]) -> None:
    """Public repositories hand out tokens to strangers."""
    registry = Registry(login="bearer")
    registry.artefact({"bee.gguf": WEIGHTS})
    server = serve(registry.answer)
    registry.url = server.url
    async with opened(server) as source:
        assert len((await source.list()).files) == 1
    assert not [asked for asked in server.asked if BASIC in str(asked.headers)]


async def test_a_login_does_not_follow_a_redirect_to_another_host(serve: Callable[..., Server]) -> None:
    """The host that sends the bytes sees neither credential nor token."""
    registry = Registry(login="bearer")
    registry.artefact({"bee.gguf": WEIGHTS})
    elsewhere = serve(registry.content)
    registry.cdn = f"http://localhost:{elsewhere.port}"
    server = serve(registry.answer)
    registry.url = server.url
    async with opened(server, login=True) as source:
        (file,) = (await source.list()).files
        assert await content(source, file) == WEIGHTS
    assert elsewhere.asked
    assert not [asked for asked in elsewhere.asked if TOKEN in str(asked.headers) or BASIC in str(asked.headers)]


async def test_an_artefact_of_many_files_is_one_model(serve: Callable[..., Server]) -> None:
    """A pushed folder gives the weights and what engines read beside them."""
    registry = Registry()
    registry.artefact(FOLDER, tag="v1")
    async with opened(serve(registry.answer), ":v1") as source:
        assert [file.name for file in (await source.list()).files] == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]


async def test_a_layer_of_a_models_own_type_needs_no_title(serve: Callable[..., Server]) -> None:
    """What model packagers push without a name is called by its format."""
    registry = Registry()
    blob = layer(registry.blob(WEIGHTS), len(WEIGHTS), "application/vnd.docker.ai.gguf.v3")
    registry.push("latest", {"mediaType": MANIFEST, "layers": [blob]})
    async with opened(serve(registry.answer)) as source:
        assert [file.name for file in (await source.list()).files] == ["model.gguf"]


async def test_an_index_leads_to_the_manifest_of_this_platform(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other platforms and attestations are passed over; the revision is the manifest's digest."""
    registry = Registry()
    wanted, other = registry.artefact({"bee.gguf": WEIGHTS}), registry.artefact({"wasp.gguf": WEIGHTS})
    platforms = {"arm64": other, "amd64": wanted}
    entries = [
        {"digest": name, "size": 1, "platform": {"os": "linux", "architecture": machine}}
        for machine, name in platforms.items()
    ]
    attestation = {"digest": other, "size": 1, "platform": {"os": "unknown", "architecture": "unknown"}}
    pinned = registry.push("latest", {"mediaType": INDEX, "manifests": [attestation, *entries]})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    async with opened(serve(registry.answer), f"@{pinned}") as source:
        assert (await source.list()).revision == wanted


IMAGES = [
    pytest.param([tar({"models/bee.gguf": WEIGHTS})], "bee.gguf", id="plain"),
    pytest.param([gzip.compress(tar({"./models/bee.gguf": WEIGHTS}))], "bee.gguf", id="gzip"),
    pytest.param(
        [
            b"".join(
                gzip.compress(part)
                for part in (tar({"models/bee.gguf": WEIGHTS})[:700], tar({"models/bee.gguf": WEIGHTS})[700:])
            )
        ],
        "bee.gguf",
        id="gzip in two members",
    ),
    pytest.param([tar({"etc/hosts": b"x", "models": None, "models/llm/bee.gguf": WEIGHTS})], "bee.gguf", id="deeper"),
    pytest.param([tar({"models/bee.gguf": WEIGHTS}), tar({"etc/hosts": b"x"})], "bee.gguf", id="lower layer"),
    pytest.param([tar({LONG: WEIGHTS})], f"{'b' * 120}.gguf", id="long name, pax"),
    pytest.param([tar({LONG: WEIGHTS}, form=tarfile.GNU_FORMAT)], f"{'b' * 120}.gguf", id="long name, gnu"),
]


@pytest.mark.parametrize(("layers", "name"), IMAGES)
async def test_a_model_is_taken_out_of_an_image(serve: Callable[..., Server], layers: list[bytes], name: str) -> None:
    """The one file under models/ is read from its layer, whole, and without unpacking anything."""
    registry = Registry()
    registry.image(layers)
    async with opened(serve(registry.answer)) as source:
        (file,) = (await source.list()).files
        assert (file.name, file.size) == (name, len(WEIGHTS))
        assert await content(source, file) == WEIGHTS
        with pytest.raises(RangeRefusedError):
            await content(source, file, offset=1)


HOSTILE = [
    pytest.param(tar({"models/bee.gguf": "../../etc/shadow"}), "link, a device or a path out", id="symbolic link"),
    pytest.param(tar({"models/../../x.gguf": b"GGUF"}), "link, a device or a path out", id="climbing path"),
    pytest.param(tar({"models/.wh.bee.gguf": b""}), "link, a device or a path out", id="deleted"),
    pytest.param(tar({"models/b e.gguf": b"GGUF"}), "is not allowed: use letters", id="strange name"),
    pytest.param(tar({"etc/hosts": b"x"}), "has no model", id="no model"),
    pytest.param(b"\x1f\x8bnonsense", "is damaged", id="damaged gzip"),
    pytest.param(b"not a tar" * 100, "not a tar archive", id="not a tar"),
    pytest.param(b"\x28\xb5\x2f\xfd" + b"x" * 20, "zstd|is damaged", id="zstd"),
]


@pytest.mark.parametrize(("archive", "said"), HOSTILE)
async def test_an_image_that_is_not_just_a_model_is_refused(
    serve: Callable[..., Server], archive: bytes, said: str
) -> None:
    """No name or link of an archive is followed; each refusal is one sentence."""
    registry = Registry()
    registry.image([archive])
    async with opened(serve(registry.answer)) as source:
        with pytest.raises(ModelStoreError, match=said) as refusal:
            await source.list()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("archive", "broken", "said"),
    [
        (tar({"models/a.gguf": b"a", "models/b.gguf": b"b"}), False, "several files under models/"),
        (tar({"models/a.gguf": b"a"}), True, "arrived damaged"),
        (tar({"models/a.gguf": b"a" * 2000})[:1500], False, "ends within"),
    ],
)
async def test_a_layer_is_verified_to_its_end(
    serve: Callable[..., Server], archive: bytes, broken: bool, said: str
) -> None:
    """What follows the model in a layer can still refuse it."""
    registry = Registry(broken=broken)
    registry.image([archive])
    async with opened(serve(registry.answer)) as source:
        (file,) = (await source.list()).files
        with pytest.raises(ModelStoreError, match=said):
            await content(source, file)


DOCUMENTS: list[object] = [
    pytest.param({"layers": [{"digest": "md5:1", "size": 1}]}, "not a sha256 digest", id="digest"),
    pytest.param({"layers": [layer(digest(b""), -1, TAR)]}, "as a size of", id="size"),
    pytest.param({"layers": [layer(digest(b""), 1, "x/y", "../up")]}, "is not allowed: use letters", id="title"),
    pytest.param({"layers": [layer(digest(b""), 1, "x/y", "a.gguf")] * 2}, "two layers named", id="twice"),
    pytest.param({"fsLayers": []}, "no layers", id="old schema"),
    pytest.param({"manifests": []}, "has nothing for linux/", id="empty index"),
    pytest.param({"layers": [layer(digest(b""), 1, TAR)] * 2001}, "more than 2000 layers", id="layers"),
]


@pytest.mark.parametrize(("document", "said"), DOCUMENTS)
async def test_a_manifest_that_cannot_be_is_refused(
    serve: Callable[..., Server], document: dict[str, object], said: str
) -> None:
    """Digests, sizes and names of a manifest are remote text and checked as such."""
    registry = Registry()
    registry.push("latest", document)
    async with opened(serve(registry.answer)) as source:
        with pytest.raises(ModelStoreError, match=said):
            await source.list()


@pytest.mark.parametrize(
    ("login", "credential", "rest", "said"),
    [
        ("basic", False, "", "asks for a login, and there is none"),
        ("bearer", False, ":v9", "has no v9; check repository and tag"),
        ("", False, f"@{digest(b'x')}", "has no sha256:"),
    ],
)
async def test_a_refusal_of_the_registry_is_one_sentence(
    serve: Callable[..., Server], login: str, credential: bool, rest: str, said: str
) -> None:
    """Missing logins, tags and digests are told apart."""
    registry = Registry(login=login)
    registry.artefact({"bee.gguf": WEIGHTS})
    server = serve(registry.answer)
    registry.url = server.url
    async with opened(server, rest, login=credential) as source:
        with pytest.raises(ModelStoreError, match=said):
            await source.list()


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_login_is_tried_again(serve: Callable[..., Server], status: int) -> None:
    """A registry that hands out no token just now does not refuse the account."""
    registry = Registry(login="bearer")
    server = serve(lambda asked: Reply(status) if asked.path == "/token" else registry.answer(asked))
    registry.url = server.url
    async with opened(server) as source:
        with pytest.raises(TransientError, match=f"is busy or broken, it answers {status}"):
            await source.list()


def test_a_short_form_is_not_guessed() -> None:
    """`oci://library/bee` names no registry, and none is assumed."""
    with pytest.raises(ModelStoreError, match="'library' is not a registry; write its host in full"):
        OciSource(parse_source("oci://library/bee"), settings=StoreSettings())


def test_offline_no_registry_is_asked() -> None:
    """The offline switch holds for registries."""
    with pytest.raises(ModelStoreError, match="offline"):
        OciSource(parse_source("oci://registry.example/bee"), settings=StoreSettings(offline=True))


async def test_who_is_redirected_to_does_not_say_where_a_login_goes(serve: Callable[..., Server]) -> None:
    """A host behind a redirect that asks for a login gets no credential of the registry, and names no place for it."""
    registry = Registry()
    registry.artefact({"bee.gguf": WEIGHTS})
    thief: Server = serve(
        lambda _: Reply(401, b"{}", {"www-authenticate": f'Bearer realm="http://localhost:{thief.port}/t"'})
    )
    registry.cdn = f"http://localhost:{thief.port}"
    async with opened(serve(registry.answer), login=True) as source:
        (file,) = (await source.list()).files
        with pytest.raises(ModelStoreError, match="redirects to a place that asks for a login"):
            await content(source, file)
    assert not [asked for asked in thief.asked if BASIC in str(asked.headers)]
