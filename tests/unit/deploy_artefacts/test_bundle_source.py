"""A run that takes everything from a bundle."""

from pathlib import Path

import pytest

from rbee_deploy import engines, model_files, releases, wheels
from rbee_deploy.artefacts import Target, file_sha256
from rbee_deploy.bundle.source import Bundled
from rbee_deploy.errors import BundleError
from rbee_deploy.inventory import model
from rbee_deploy.observed import Observed
from rbee_deploy.plan import HostPlan, Workshop, fetched
from rbee_deploy.site import Site
from tests.unit.deploy_artefacts.bundles import BOOKWORM, FETCHED, SPLIT, TRIXIE, bundle_of, two_boxes


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return two_boxes(tmp_path)


@pytest.fixture
def bundled(site: Site, tmp_path: Path) -> Bundled:
    return Bundled(bundle_of(site, tmp_path / "bundle"))


@pytest.fixture
def plan(site: Site, bundled: Bundled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostPlan:
    """Return the plan of a host where nothing can be built, downloaded, hashed into a cache or run."""
    for module, name in (
        (releases, "build_release"),
        (releases, "uv_binary"),
        (engines, "build_engine"),
        (wheels, "run"),
        (model_files, "describe"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("this machine was asked"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    (tmp_path / "smol.gguf").unlink()
    return Workshop(site, bundled).plan(site.hosts[1], TRIXIE)


def test_a_plan_needs_neither_cache_nor_network(plan: HostPlan, bundled: Bundled, tmp_path: Path) -> None:
    """Everything in it lies in the bundle, under the ids and hashes of the manifest, and no cache comes to be."""
    artefacts = (plan.release, plan.uv, *plan.engines)
    assert [each.archive.is_relative_to(bundled.bundle.folder) for each in artefacts] == [True] * 3
    assert [each.sha256 for each in artefacts] == [file_sha256(each.archive) for each in artefacts]
    assert plan.release.id == f"0.1.0-{TRIXIE.label}"
    assert not (tmp_path / "no-cache").exists()


def test_models_come_from_the_bundle_whatever_their_source(plan: HostPlan) -> None:
    """A file that the operator has no more, and what hosts with a network would fetch, in the order of its files."""
    assert [(model.name, file.name) for model, file in plan.models] == [
        ("smol", "smol.gguf"),
        *(("bee", name) for name in SPLIT),
    ]
    assert {file_sha256(path) for path in plan.contents.values()} == set(plan.contents)


def test_the_queen_hears_which_files_a_fetched_model_has(site: Site, bundled: Bundled) -> None:
    """Hives then find the model complete and ask no source for it."""
    fleet = next(f for f in Workshop(site, bundled).plan(site.hosts[0], TRIXIE).files if f.path.endswith("fleet.yaml"))
    assert all(name in fleet.text() for name in SPLIT)


def test_no_hive_is_said_to_fetch_what_the_bundle_has(site: Site, plan: HostPlan) -> None:
    """The report does not promise a connection that there is not."""
    box, nothing = site.hosts[1], Observed.parse({})
    assert fetched(site, box, nothing) != []
    assert fetched(site, box, nothing, {model.name for model, _ in plan.models}) == []


@pytest.mark.parametrize(
    ("target", "fit"),
    [
        (BOOKWORM, BOOKWORM),
        (TRIXIE, TRIXIE),
        (Target(python="3.13", arch="x86_64", glibc="2.44"), TRIXIE),
    ],
)
def test_a_host_gets_what_fits_it(bundled: Bundled, target: Target, fit: Target) -> None:
    """The same Python and processor, and a glibc that is no newer than the host's."""
    assert bundled.release("0.1.0", target).id == f"0.1.0-{fit.label}"
    assert bundled.uv(target).id == "uv-1-x86_64"
    engine = bundled.engine("llama-cpp", "cpu-x86_64_v3", target)
    assert engine.id == f"llama-cpp-cpu-x86_64_v3-{fit.python}-{fit.arch}"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(python="3.12", arch="x86_64", glibc="2.39"), "python=3.12,arch=x86_64,glibc=2.39"),
        (Target(python="3.13", arch="aarch64", glibc="2.41"), "python=3.13,arch=aarch64,glibc=2.41"),
        (Target(python="3.13", arch="x86_64", glibc="2.36"), "python=3.13,arch=x86_64,glibc=2.36"),
    ],
)
def test_a_host_that_nothing_fits_is_told_the_command(bundled: Bundled, target: Target, words: str) -> None:
    """The sentence says what the host is, and the command that adds it to this bundle."""
    with pytest.raises(BundleError) as raised:
        bundled.release("0.1.0", target)
    assert f"has no release for Python {target.python} on {target.arch} with glibc {target.glibc}" in str(raised.value)
    assert f"-o {bundled.bundle.folder} --target {words}, which adds it" in str(raised.value)


def test_another_version_is_refused(bundled: Bundled) -> None:
    """An inventory that asks for a version which the bundle does not have gets both ways out."""
    with pytest.raises(BundleError, match=r"asks for rbee 9\.9\.9 and .* has 0.1.0: use a bundle of 9.9.9, or drop"):
        bundled.release("9.9.9", TRIXIE)


def test_a_model_that_came_later_is_named(bundled: Bundled) -> None:
    """Its source is shown without what signs it, with the command that brings it in."""
    later = model("later", source="https://models.example/later.gguf?sig=secret")
    with pytest.raises(
        BundleError, match=r"has no model later \(https://models.example/later.gguf\?\*\*\*\): run rbee"
    ):
        bundled.model(later)


def test_a_model_that_lies_on_the_hosts_needs_no_bundle(bundled: Bundled) -> None:
    """What the inventory says is there already is not looked for."""
    there = model("there", source="file:/srv/there.gguf", preseed=False)
    assert bundled.model(there) == ()
    assert bundled.model(model("echo", source="fake:tokens=3")) == ()


def test_a_bundle_shows_no_signature(bundled: Bundled) -> None:
    """Sources stand in the manifest as they stand in answers."""
    assert {entry.of for entry in bundled.bundle.manifest.entries if entry.kind == "model"} >= {FETCHED}
