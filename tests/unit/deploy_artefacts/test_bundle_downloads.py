"""Models that hosts would fetch come into a bundle by the code that hives use."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_deploy.bundle.downloads import download
from rbee_deploy.errors import BundleError, SecretError
from rbee_deploy.inventory import host, model, secret_env, store
from rbee_deploy.site import Site
from tests.unit.deploy.sites import site_of
from tests.unit.models.gguf_builder import LLAMA, UINT32, entry, gguf, tensor
from tests.unit.models.sources.hub import TOKEN, Hub
from tests.unit.models.sources.servers import Server

pytestmark = pytest.mark.slow

PARTS = {
    f"bee-0000{number + 1}-of-00002.gguf": gguf(
        (*LLAMA, entry("split.no", UINT32, number), entry("split.count", UINT32, 2)), [tensor(f"t{number}")]
    )
    for number in (0, 1)
}
BEE = model("bee", source="hf:acme/bee:*.gguf")


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a hub that hands its model only to who has accepted the terms and shows the token."""
    with Server(Hub(PARTS, gated=True, accepted=True).answer).running() as server:
        yield server


@pytest.fixture
def site(server: Server) -> Site:
    of_host = store(hf_endpoint=server.url, plain_http_hosts=["127.0.0.1"], offline=True, quota=1)
    box = host("box1", address="192.0.2.1", queen=True, store=of_host)
    return site_of(box, models=(BEE,), hf_token=secret_env("BUNDLE_TOKEN"))


def test_a_gated_model_comes_with_all_its_files(
    site: Site, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the inventory's token and mirror, in the order of its parts; what a host's disk allows does not count here.

    A second run asks nobody.
    """
    monkeypatch.setenv("BUNDLE_TOKEN", TOKEN)
    held = download(site, BEE, tmp_path)
    assert [(each.file.name, each.path.read_bytes()) for each in held] == list(PARTS.items())
    asked = len(server.asked)
    assert download(site, BEE, tmp_path) == held
    assert len(server.asked) == asked


def test_a_model_that_is_refused_is_one_sentence(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It names the model, says why, shows no token, and what else can be written."""
    monkeypatch.setenv("BUNDLE_TOKEN", "hf_canaryOfTheBundle")
    with pytest.raises(BundleError, match=r"^model bee: .*; or write the model as file:/absolute/path$") as raised:
        download(site, BEE, tmp_path)
    assert "canary" not in str(raised.value) + "".join(capfd.readouterr())


def test_a_token_that_is_not_there_is_named_by_its_field(site: Site, tmp_path: Path) -> None:
    """As at a deploy: the place in the inventory first."""
    with pytest.raises(SecretError, match="fleet 'test': hf_token: environment variable BUNDLE_TOKEN is not set"):
        download(site, BEE, tmp_path)


def test_a_fetch_that_dies_is_one_sentence(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the process, nobody sees a traceback."""
    monkeypatch.setenv("BUNDLE_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(BundleError, match=r"model bee was not fetched \(exit status 1\); run the same command again"):
        download(site, BEE, tmp_path)
