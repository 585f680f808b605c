"""New certificates and a new first API key, wherever an earlier rotation was cut off."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rbee_deploy import api_keys, drift
from rbee_deploy.authority import CLIENT_ROLE, EXPORTED, FleetAuthority, issue_anew, site_state
from rbee_deploy.errors import AuthorityError
from rbee_deploy.observed import Observed
from rbee_deploy.render import OwnedFile, owned_files
from rbee_deploy.site import Site
from tests.unit.deploy.sites import two_hosts

NOW = datetime(2026, 7, 1, tzinfo=UTC)
YEARS = timedelta(days=365)


def authority(folder: Path, when: datetime = NOW) -> FleetAuthority:
    """Return the authority of the fleet under test at a time."""
    return FleetAuthority.open(folder / "secrets", "test", clock=lambda: when)


def files_of(folder: Path, site: Site, name: str, when: datetime = NOW) -> tuple[OwnedFile, ...]:
    """Return what a host should have at a time."""
    state = site_state(authority(folder, when), site, release="r", models={})
    return owned_files(site, next(host for host in site.hosts if host.name == name), state)


def as_placed(files: tuple[OwnedFile, ...]) -> Observed:
    """Return the fact of a host that has these files."""
    return Observed.parse(
        {
            "paths": {
                file.path: {
                    "kind": "file",
                    "mode": file.mode,
                    "owner": file.owner,
                    "group": file.group,
                    "sha256": file.sha256,
                }
                for file in files
            }
        }
    )


@pytest.mark.parametrize(
    ("age", "differs"),
    [(timedelta(), False), (YEARS, False), (1.5 * YEARS, True), (2.5 * YEARS, True)],
    ids=["new", "half its life left", "a quarter left", "expired"],
)
def test_check_names_a_certificate_that_is_to_be_renewed(age: timedelta, differs: bool, tmp_path: Path) -> None:
    """A host whose certificates have less than a third of their life left, or none, is not what it should be."""
    placed = as_placed(files_of(tmp_path, two_hosts(), "gpu1"))
    wanted = files_of(tmp_path, two_hosts(), "gpu1", NOW + age)
    named = [line for line in drift.found(placed, (), wanted, (), ()) if ".pem" in line]
    both = ["/etc/rbee/credentials/hive.pem has other content", "/etc/rbee/credentials/worker.pem has other content"]
    assert named == (both if differs else [])


def test_all_certificates_are_replaced_and_the_authority_stays(tmp_path: Path) -> None:
    """Each certificate of each host is another one afterwards, of the same authority, so that old ones are taken."""
    site = two_hosts()
    before = site_state(authority(tmp_path), site, release="r", models={})
    issued = issue_anew(authority(tmp_path), site)
    after = site_state(authority(tmp_path), site, release="r", models={})
    assert issued == ("queen queen", "hive gpu1", "worker gpu1")
    assert (before.ca, before.bootstrap_key) == (after.ca, after.bootstrap_key)
    same = [key for key in before.certificates if before.certificates[key] == after.certificates[key]]
    assert same == []


def test_clients_of_the_fleet_s_own_endpoint_get_a_new_certificate_too(tmp_path: Path) -> None:
    """The one that clients see is issued anew where the authority issues it."""
    assert "client queen" in issue_anew(authority(tmp_path), replace(two_hosts(), client_endpoint="fleet-tls"))


def test_an_exported_client_endpoint_gets_a_new_key_too(tmp_path: Path) -> None:
    """It has the same names with another key, which the next export for those names takes as it is."""
    site, names = replace(two_hosts(), client_endpoint="fleet-tls"), ["chat.example", "*.example", "192.0.2.1", "::1"]
    before = authority(tmp_path).certificate(CLIENT_ROLE, EXPORTED, names)
    assert "client _exported" in issue_anew(authority(tmp_path), site)
    assert authority(tmp_path).exported() == tuple(names)
    renewed = authority(tmp_path).certificate(CLIENT_ROLE, EXPORTED, names)
    assert before.key.reveal() != renewed.key.reveal() == (tmp_path / "secrets/hosts/_exported/client.key").read_text()


def test_what_was_never_exported_gets_no_certificate(tmp_path: Path) -> None:
    """Neither a fleet without an export nor one whose exported pair is damaged, which the next export makes anew."""
    site = replace(two_hosts(), client_endpoint="fleet-tls")
    assert "client _exported" not in issue_anew(authority(tmp_path), site)
    authority(tmp_path).certificate(CLIENT_ROLE, EXPORTED, ["chat.example"])
    (tmp_path / "secrets/hosts/_exported/client.pem").write_text("damaged")
    assert "client _exported" not in issue_anew(authority(tmp_path), site)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of secrets with a key in use."""
    made = authority(tmp_path).directory
    api_keys.current(made)
    return made


def text(folder: Path, name: str) -> str | None:
    """Return the key in a file, None if there is none."""
    path = folder / name
    return path.read_text().strip() if path.exists() else None


def test_a_new_key_is_learnt_before_it_is_used(folder: Path) -> None:
    """Until it was tried, the operator's key is the old one while the queen is told the new one; then both are kept."""
    first = text(folder, "api-key")
    new = api_keys.begin(folder)
    assert text(folder, "api-key") == first
    assert api_keys.bootstrap_line(folder) == api_keys.line(new)
    api_keys.finish(folder)
    assert (text(folder, "api-key"), text(folder, "api-key.old")) == (new.reveal(), first)
    assert text(folder, "api-key.new") is None
    assert api_keys.bootstrap_line(folder) == api_keys.line(new)


def cut_off_before_it_was_learnt(folder: Path) -> None:
    api_keys.begin(folder)


def cut_off_after_the_old_one_was_kept(folder: Path) -> None:
    api_keys.begin(folder)
    (folder / "api-key.old").write_text((folder / "api-key").read_text())
    (folder / "api-key.old").chmod(0o600)


@pytest.mark.parametrize("cut_off", [cut_off_before_it_was_learnt, cut_off_after_the_old_one_was_kept])
def test_a_rotation_that_was_cut_off_goes_on_with_its_key(cut_off: Callable[[Path], None], folder: Path) -> None:
    """The next run makes no third key and ends as if it had not been cut off; before that nothing can be revoked."""
    first = text(folder, "api-key")
    cut_off(folder)
    made = text(folder, "api-key.new")
    with pytest.raises(AuthorityError, match=r"api-key\.new is not in use yet"):
        api_keys.old(folder)
    assert api_keys.begin(folder).reveal() == made
    api_keys.finish(folder)
    api_keys.finish(folder)
    assert (text(folder, "api-key"), text(folder, "api-key.old")) == (made, first)


def test_a_second_rotation_waits_for_the_revocation(folder: Path) -> None:
    """An old key that still works is not forgotten: the next rotation asks to revoke it first."""
    api_keys.begin(folder)
    api_keys.finish(folder)
    with pytest.raises(AuthorityError, match="rbee-deploy rotate api-key --revoke-old -i "):
        api_keys.begin(folder)
    old = api_keys.old(folder)
    assert old is not None
    api_keys.forget_old(folder)
    api_keys.forget_old(folder)
    assert api_keys.old(folder) is None
    assert api_keys.begin(folder) != old


def test_key_files_are_closed(folder: Path) -> None:
    """Every file of a rotation is readable by its owner alone."""
    api_keys.begin(folder)
    api_keys.finish(folder)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("api-key*")} == {0o600}
