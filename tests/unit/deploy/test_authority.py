"""The fleet's certificate authority on the operator's disk, and real TLS with what it issues."""

import hashlib
import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from rbee_deploy import _x509
from rbee_deploy.authority import FleetAuthority, site_state
from rbee_deploy.errors import AuthorityError
from rbee_deploy.inventory import TlsPaths
from rbee_deploy.plan import Workshop
from rbee_deploy.render import Certificate
from rbee_runtime.link import Link, Role, peer_identity
from tests.unit.deploy.sites import one_box, two_hosts

NOW = datetime.now(UTC)


def open_at(folder: Path, when: datetime = NOW, fleet: str = "test") -> FleetAuthority:
    return FleetAuthority.open(folder / "secrets", fleet, clock=lambda: when)


def link_folder(folder: Path, authority: FleetAuthority, role: str, certificate: Certificate) -> Path:
    """Lay out credentials as systemd shows them to a unit."""
    target = folder / f"link-{role}"
    target.mkdir()
    (target / "ca.pem").write_text(authority.ca_pem)
    (target / f"{role}.pem").write_text(certificate.pem)
    (target / f"{role}.key").write_text(certificate.key.reveal())
    return target


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None) -> ssl.SSLObject:
    """Run a handshake in memory and return the server's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = server.wrap_bio(to_server, to_client, server_side=True)
    right = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for end in (right, left):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return left


def test_links_accept_each_other(tmp_path: Path) -> None:
    """Queen and hive shake hands by TLS 1.3 with issued certificates, and each sees the other's role and name."""
    authority = open_at(tmp_path)
    contexts = {}
    for role, name in ((Role.QUEEN, "box1"), (Role.HIVE, "gpu1")):
        folder = link_folder(tmp_path, authority, role, authority.certificate(role, name, ["192.0.2.1"]))
        contexts[role] = Link(role, "test", folder)
    server, client = contexts[Role.QUEEN].server_context(), contexts[Role.HIVE].client_context()
    assert isinstance(server, ssl.SSLContext)
    assert isinstance(client, ssl.SSLContext)
    identity = peer_identity(handshake(server, client).getpeercert())
    assert identity is not None
    assert identity.uri == "rbee://test/hive/gpu1"


@pytest.mark.parametrize("name", ["192.0.2.10", "box1", "localhost", "127.0.0.1"])
def test_ordinary_clients_trust_the_client_endpoint(name: str, tmp_path: Path) -> None:
    """A strict client that knows only ca.pem accepts the endpoint under each of its names."""
    site = replace(one_box(), name="test")
    authority = open_at(tmp_path)
    certificate = site_state(authority, site, release="r", models={}).certificates["client", "box1"]
    folder = link_folder(tmp_path, authority, "client", certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "client.pem", folder / "client.key")
    client = ssl.create_default_context(cadata=authority.ca_pem)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert handshake(server, client, name).version() == "TLSv1.3"


def test_the_client_endpoint_has_no_identity_on_links(tmp_path: Path) -> None:
    """The certificate that everybody may see cannot act as queen, hive or worker."""
    certificate = open_at(tmp_path).certificate("client", "box1", ["box1"])
    names = x509.load_pem_x509_certificate(certificate.pem.encode()).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.UniformResourceIdentifier) == []


def test_secrets_are_closed(tmp_path: Path) -> None:
    """Every folder is 0700 and every file with content 0600, whatever the umask."""
    before = os.umask(0)
    try:
        site_state(open_at(tmp_path, fleet="test"), two_hosts(), release="r", models={})
    finally:
        os.umask(before)
    paths = [tmp_path / "secrets", *(tmp_path / "secrets").rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths if path.name != ".lock"}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_the_second_run_issues_nothing(tmp_path: Path) -> None:
    """Authority, certificates and API key stay as they are from run to run."""
    first = site_state(open_at(tmp_path), two_hosts(), release="r", models={})
    second = site_state(open_at(tmp_path), two_hosts(), release="r", models={})
    assert first == second


CHANGES = {
    "addresses changed": lambda folder: open_at(folder).certificate("hive", "a", ["192.0.2.9"]),
    "a third of its life is left": lambda folder: open_at(folder, NOW + timedelta(days=500)).certificate("hive", "a"),
    "its file is damaged": lambda folder: damage(folder, "hosts/a/hive.pem", "junk").certificate("hive", "a"),
    "its key is another": lambda folder: swap_key(folder).certificate("hive", "a"),
}


def damage(folder: Path, name: str, text: str) -> FleetAuthority:
    (folder / "secrets" / name).write_text(text)
    return open_at(folder)


def swap_key(folder: Path) -> FleetAuthority:
    other = open_at(folder).certificate("worker", "a")
    return damage(folder, "hosts/a/hive.key", other.key.reveal())


@pytest.mark.parametrize("case", CHANGES)
def test_a_certificate_that_is_no_longer_right_is_issued_again(case: str, tmp_path: Path) -> None:
    """The new one has another version and is then kept."""
    before = open_at(tmp_path).certificate("hive", "a")
    after = CHANGES[case](tmp_path)
    assert before.version != after.version
    assert CHANGES[case](tmp_path).version == after.version or case.startswith("its")


def test_a_certificate_with_half_of_its_life_stays(tmp_path: Path) -> None:
    """A year after it was issued it is still the one."""
    before = open_at(tmp_path).certificate("hive", "a")
    assert open_at(tmp_path, NOW + timedelta(days=365)).certificate("hive", "a") == before


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    """In the authority's last year a new one ends with it, and is kept like any other."""
    late = NOW + timedelta(days=3650 - 300)
    end = _x509.end_of(open_at(tmp_path).ca_pem)
    issued = open_at(tmp_path, late).certificate("hive", "a")
    assert _x509.end_of(issued.pem) == end
    assert open_at(tmp_path, late + timedelta(days=150)).certificate("hive", "a") == issued


LOST = {
    "ca.key is lost": (("ca.key", None), "ca.key is missing, but its fleet exists"),
    "ca.pem is lost": (("ca.pem", None), "ca.pem is missing, but its fleet exists"),
    "ca.key is damaged": (("ca.key", "junk"), "are damaged"),
    "ca.pem is damaged": (("ca.pem", "junk"), "are damaged"),
    "api-key is damaged": (("api-key", "junk"), "does not hold an API key of the form"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_lost_authority_is_never_replaced_in_silence(case: str, tmp_path: Path) -> None:
    """What is lost or damaged is named with the way out, and nothing new is written."""
    (name, text), sentence = LOST[case]
    site_state(open_at(tmp_path), two_hosts(), release="r", models={})
    path = tmp_path / "secrets" / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(AuthorityError) as caught:
        open_at(tmp_path).first_api_key()
    assert sentence in str(caught.value)
    assert "restore" in str(caught.value)
    assert name == "api-key" or str(caught.value).endswith("with a new authority by rbee-deploy apply --new-authority")
    assert (path.read_text() if path.exists() else None) == text


def test_an_interrupted_first_run_begins_again(tmp_path: Path) -> None:
    """A key without its certificate, and nothing issued, is what a killed first run leaves."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ca.key").touch(mode=0o600)
    assert open_at(tmp_path).ca_pem == open_at(tmp_path).ca_pem


def open_for_all(folder: Path) -> None:
    open_at(folder)
    (folder / "secrets" / "ca.key").chmod(0o644)
    open_at(folder)


def of_another_fleet(folder: Path) -> None:
    open_at(folder, fleet="home")
    open_at(folder, fleet="office")


def too_late(folder: Path) -> None:
    open_at(folder)
    open_at(folder, NOW + timedelta(days=4000))


def no_folder(folder: Path) -> None:
    (folder / "secrets").write_text("a file")
    open_at(folder)


REFUSED = {
    "an open key": (open_for_all, "ca.key is open to others; run chmod 600"),
    "another fleet's": (
        of_another_fleet,
        "holds the authority of fleet 'home', not of 'office'; give this fleet another",
    ),
    "an expired one": (too_late, "is not valid now (it ends on"),
    "a file instead of a folder": (no_folder, "cannot make the folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_authority_that_cannot_serve_is_refused(case: str, tmp_path: Path) -> None:
    """Each case is one sentence that names the file and the fix."""
    use, sentence = REFUSED[case]
    with pytest.raises(AuthorityError) as caught:
        use(tmp_path)
    assert sentence in str(caught.value)


def test_the_first_api_key_has_the_form_that_the_queen_knows(tmp_path: Path) -> None:
    """The line is the key's id and its sha256; the key is in api-key and masked in print."""
    key, line = open_at(tmp_path).first_api_key()
    prefix, identifier, secret = key.reveal().split("_")
    assert (prefix, len(identifier), len(secret)) == ("rbee", 8, 64)
    assert line == f"{identifier}:{hashlib.sha256(key.reveal().encode()).hexdigest()}"
    assert (tmp_path / "secrets" / "api-key").read_text().strip() == key.reveal()


def own_certificate(folder: Path, when: datetime = NOW) -> TlsPaths:
    """Return a certificate of somebody else's authority as two files."""
    issued = FleetAuthority.open(folder / "other", "other", clock=lambda: when).certificate(
        "client", "chat", ["chat.test"]
    )
    (folder / "chat.pem").write_text(issued.pem)
    (folder / "chat.key").write_text(issued.key.reveal())
    return TlsPaths(str(folder / "chat.pem"), str(folder / "chat.key"))


def test_the_operators_own_certificate_is_taken(tmp_path: Path) -> None:
    """With TlsPaths the client endpoint shows the given certificate."""
    paths = own_certificate(tmp_path)
    site = replace(one_box(), name="test", client_endpoint=paths)
    shown = site_state(open_at(tmp_path), site, release="r", models={}).certificates["client", "box1"]
    assert shown.pem == Path(paths.certificate).read_text()


def test_a_run_knows_when_certificates_end_that_no_deploy_renews(tmp_path: Path) -> None:
    """The authority's end and, with TlsPaths, that of the operator's own certificate come out of their files."""
    now = datetime.now(UTC)
    paths = own_certificate(tmp_path, now)
    site = replace(one_box(), name="test", client_endpoint=paths, secrets_dir=str(tmp_path / "secrets"))
    trust = Workshop(site).trust()
    assert trust.own_ends == _x509.end_of(Path(paths.certificate).read_text())
    assert trust.ends == _x509.end_of((tmp_path / "secrets" / "ca.pem").read_text())
    assert trust.authority == hashlib.sha256((tmp_path / "secrets" / "ca.pem").read_bytes()).hexdigest()
    assert Workshop(replace(site, client_endpoint="fleet-tls")).trust().own_ends is None


OWN_BAD: dict[str, tuple[Callable[[Any], object], datetime, str]] = {
    "not PEM": (lambda paths: Path(paths.certificate).write_text("junk"), NOW, "must be PEM"),
    "gone": (lambda paths: Path(paths.key).unlink(), NOW, "cannot read"),
    "another key": (lambda paths: other_key(Path(paths.key)), NOW, "does not belong to certificate"),
    "expired": (lambda _: None, NOW + timedelta(days=800), "is not valid now (it ends on"),
}


def other_key(path: Path) -> None:
    path.write_text(FleetAuthority.open(path.parent / "third", "third").certificate("client", "x").key.reveal())


@pytest.mark.parametrize("case", OWN_BAD)
def test_a_bad_certificate_of_the_operator_is_refused(case: str, tmp_path: Path) -> None:
    """What cannot serve is refused on the operator's machine, before a host sees it."""
    spoil, when, sentence = OWN_BAD[case]
    paths = own_certificate(tmp_path)
    spoil(paths)
    site = replace(one_box(), name="test", client_endpoint=paths)
    with pytest.raises(AuthorityError) as caught:
        site_state(open_at(tmp_path, when), site, release="r", models={})
    assert sentence in str(caught.value)
