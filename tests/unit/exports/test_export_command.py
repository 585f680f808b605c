"""`rbee-deploy export` as it is typed: what it writes, what it says, and where secrets are."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from rbee_deploy import cli
from rbee_deploy.exports import folder, secret_files, write
from rbee_deploy.exports.write import Substrate
from tests.unit.exports.sites import SITES, wanted

INVENTORY = """
from rbee_deploy.inventory import fleet, host, model, secret_env
queen, hives = fleet(
    "home",
    hosts=[host("box", address="192.0.2.1", queen=True, hf_token=secret_env("EXPORT_HF_TOKEN"){more})],
    models=[model("echo", source="fake:tokens=3")],
    secrets_dir={secrets!r},
    {fields}
)
"""
TOKEN = "hf_canaryOfAnExport"


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPORT_HF_TOKEN", TOKEN)
    return written(tmp_path)


def written(where: Path, more: str = "", fields: str = "") -> Path:
    path = where / "fleet.py"
    path.write_text(INVENTORY.format(secrets=str(where / "fleet-secrets"), more=more, fields=fields))
    return path


def export(inventory: Path, out: Path, substrate: Substrate, *more: str) -> int:
    return cli.main(["export", substrate, "-i", str(inventory), "-o", str(out), *more])


def below(where: Path) -> dict[str, Path]:
    return {str(path.relative_to(where)): path for path in where.rglob("*") if path.is_file()}


@pytest.mark.parametrize("substrate", Substrate)
def test_without_being_asked_no_secret_is_read(inventory: Path, tmp_path: Path, substrate: Substrate) -> None:
    """An export by somebody without the fleet's secrets makes no authority, and its files hold nothing secret."""
    assert export(inventory, tmp_path / "out", substrate) == 0
    found = below(tmp_path / "out")
    assert not (tmp_path / "fleet-secrets").exists()
    assert not [name for name in found if name.startswith("secrets/")]
    assert not [name for name, path in found.items() if TOKEN in path.read_text() or "PRIVATE" in path.read_text()]


@pytest.mark.parametrize("substrate", Substrate)
def test_secrets_are_in_one_folder_that_only_their_owner_reads(
    inventory: Path, tmp_path: Path, substrate: Substrate
) -> None:
    """Keys are below secrets/ and nowhere else, closed to others and to git."""
    out = tmp_path / "out"
    assert export(inventory, out, substrate, "--secrets") == 0
    found = below(out)
    assert {name.partition("/")[0] for name, path in found.items() if "PRIVATE" in path.read_text()} == {"secrets"}
    paths = (out / "secrets").rglob("*")
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in [out / "secrets", *paths]}
    assert modes == {True: 0o700, False: 0o600}
    assert found["secrets/.gitignore"].read_text() == "*\n"


@pytest.mark.parametrize("substrate", Substrate)
@pytest.mark.parametrize("endpoint", ["fleet-tls", "plain-http"])
def test_secrets_are_those_that_manifests_name(
    substrate: Substrate, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part gets the files that it is said to need, whatever the fleet has of credentials and servers."""
    monkeypatch.setenv("EXPORT_HF_TOKEN", TOKEN)
    monkeypatch.setenv("EXPORT_OLLAMA_KEY", "key")
    site = SITES[substrate](client_endpoint=endpoint, secrets_dir=str(tmp_path))
    held = secret_files.read(site, [])
    for part in write.stack_of(site, wanted(substrate)).parts:
        assert sorted(held[part.role, part.host.name]) == sorted(part.secrets)


def test_kubernetes_secrets_have_the_names_that_pods_mount(inventory: Path, tmp_path: Path) -> None:
    """What `kubectl apply` makes of the secrets' file is what the deployments ask for."""
    out = tmp_path / "out"
    assert export(inventory, out, Substrate.KUBERNETES, "--secrets") == 0
    made = {each["metadata"]["name"] for each in yaml.safe_load_all((out / "secrets" / "secrets.yaml").read_text())}
    texts = [out.joinpath(name).read_text() for name in ("queen.yaml", "hive-box.yaml")]
    asked = {
        volume["secret"]["secretName"]
        for text in texts
        for each in yaml.safe_load_all(text)
        if each["kind"] == "Deployment"
        for volume in each["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }
    assert made == asked == {"rbee-queen-credentials", "rbee-hive-box-credentials"}


def test_clients_may_use_the_names_that_were_given(inventory: Path, tmp_path: Path) -> None:
    """The queen's certificate holds for her service, for her host's address, and for what the option adds."""
    out = tmp_path / "out"
    assert export(inventory, out, Substrate.COMPOSE, "--secrets", "--client-name", "chat.example") == 0
    certificate = x509.load_pem_x509_certificate((out / "secrets" / "rbee-queen" / "client.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"rbee-queen", "chat.example", "box"} <= set(names.get_values_for_type(x509.DNSName))
    assert "192.0.2.1" in map(str, names.get_values_for_type(x509.IPAddress))


def test_an_export_again_keeps_certificates_and_takes_away_what_has_gone(inventory: Path, tmp_path: Path) -> None:
    """The same inventory gives the same files, and a manifest of a hive that is no more does not stay to be applied."""
    out = tmp_path / "out"
    assert export(inventory, out, Substrate.KUBERNETES, "--secrets") == 0
    before = {name: path.read_text() for name, path in below(out).items()}
    assert export(inventory, out, Substrate.KUBERNETES, "--secrets") == 0
    assert {name: path.read_text() for name, path in below(out).items()} == before
    inventory.write_text(inventory.read_text().replace('host("box"', 'host("other"'))
    assert export(inventory, out, Substrate.KUBERNETES, "--secrets") == 0
    assert {name for name in below(out) if name.startswith("hive-")} == {"hive-other.yaml"}


def content(where: Path) -> dict[str, str]:
    return {name: path.read_text() for name, path in below(where).items()}


def with_another(inventory: Path) -> Path:
    """Give the fleet a second hive."""
    second = 'host("second", address="192.0.2.2", advertise="192.0.2.2"), host("box", advertise="192.0.2.1", '
    inventory.write_text(inventory.read_text().replace('host("box", ', second))
    return inventory


def without_another(inventory: Path) -> Path:
    inventory.write_text(re.sub(r'host\("second".*?\), ', "", inventory.read_text()))
    return inventory


STALE = {
    Substrate.COMPOSE: "secrets/rbee-hive-second/ca.pem",
    Substrate.KUBERNETES: "secrets/secrets.yaml",
}


@pytest.mark.parametrize("substrate", STALE)
def test_keys_of_what_has_gone_do_not_stay(inventory: Path, tmp_path: Path, substrate: Substrate) -> None:
    """With --secrets they go, without it they are refused; a file that somebody put beside them stays."""
    out = tmp_path / "out"
    assert export(with_another(inventory), out, substrate, "--secrets") == 0
    (out / "secrets" / "mine").write_text("mine")
    before = content(out)
    assert any("second" in text for name, text in before.items() if name.startswith("secrets/"))
    without_another(inventory)
    with pytest.raises(SystemExit) as refused:
        export(inventory, out, substrate)
    assert refused.value.code == (
        f"{out / STALE[substrate]} holds rbee-hive-second/ca.pem of an earlier export, which this one does not name: "
        f"add --secrets, which takes it away, or remove {out / 'secrets'}"
    )
    assert content(out) == before
    assert export(inventory, out, substrate, "--secrets") == 0
    after = content(out)
    assert not [name for name, text in after.items() if "second" in name + text and name.startswith("secrets/")]
    assert not list(out.rglob("*second*"))
    assert after["secrets/mine"] == "mine"
    assert export(inventory, out, substrate) == 0
    assert content(out) == after


def test_secrets_that_somebody_took_away_are_in_nobody_s_way(inventory: Path, tmp_path: Path) -> None:
    """Removing the folder is the other way out that the sentence names, and so is another substrate's export."""
    out = tmp_path / "out"
    assert export(inventory, out, Substrate.COMPOSE, "--secrets") == 0
    assert export(inventory, out, Substrate.KUBERNETES, "--secrets") == 0
    assert {name for name in below(out) if name.startswith("secrets/") and "/." not in name} == {"secrets/secrets.yaml"}
    shutil.rmtree(out / "secrets")
    assert export(inventory, out, Substrate.COMPOSE) == 0
    assert not (out / "secrets").exists()


def in_the_way(out: Path, name: str) -> None:
    """Have a folder where the export has a file."""
    (out / name).unlink()
    (out / name).mkdir()


REFUSED: Mapping[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "a secret that cannot be read": lambda _out, patch: patch.delenv("EXPORT_HF_TOKEN"),
    "somebody else's folder": lambda out, _patch: (out / folder.MARK).unlink(),
    "a folder in place of settings": lambda out, _patch: in_the_way(out, "compose.yaml"),
    "a folder in place of a key": lambda out, _patch: in_the_way(out, "secrets/rbee-hive-box/hive.key"),
    "a folder that may not be written to": lambda _out, patch: patch.setattr(os, "access", lambda *_: False),
    "a list that is not text": lambda out, _patch: (out / "secrets" / folder.MARK).write_bytes(b"\xff"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_refused_before_anything_is_written(
    what: str, inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the folder nor the fleet's own secrets have another file than before, and no certificate was issued."""
    out = tmp_path / "out"
    assert export(inventory, out, Substrate.COMPOSE, "--secrets") == 0
    shutil.rmtree(tmp_path / "fleet-secrets")
    REFUSED[what](out, monkeypatch)
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(SystemExit) as refused:
        export(inventory, out, Substrate.COMPOSE, "--secrets")
    assert isinstance(refused.value.code, str)
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("again", [False, True], ids=["a new folder", "one of before"])
@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_disk_that_takes_no_more_leaves_all_as_it_was(
    at: int, again: bool, inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, no file of the export is a new one, and no folder or draft is left."""
    out = tmp_path / "a" / "out"
    assert export(inventory, out, Substrate.COMPOSE, "--secrets") == 0
    if not again:
        shutil.rmtree(tmp_path / "a")
    inventory.write_text(inventory.read_text().replace('"echo"', '"other"'))
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    left = [at]

    def full(_handle: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as refused:
        export(inventory, out, Substrate.COMPOSE, "--secrets")
    assert refused.value.code == f"cannot write to {out}: No space left on device; choose another folder by -o"
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_somebody_else_s_folder_is_left_alone(inventory: Path, tmp_path: Path) -> None:
    """A folder with files that no export wrote is refused, and an edited list of files reaches nothing outside."""
    with pytest.raises(SystemExit) as refused:
        export(inventory, tmp_path, Substrate.POD)
    first = min(tmp_path.iterdir())
    assert refused.value.code == f"{first} was written by no export: choose an empty folder, or a new one, by -o"
    out = tmp_path / "out"
    assert export(inventory, out, Substrate.POD) == 0
    (out / folder.MARK).write_text("../fleet.py\n")
    assert export(inventory, out, Substrate.POD) == 0
    assert inventory.is_file()


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        (
            "--registry",
            "https://registry.example",
            "--registry 'https://registry.example' is no registry with a path: write it as in registry.example/rbee",
        ),
        (
            "--models-size",
            "much",
            "--models-size 'much': it must be bytes, or a size such as '500 GiB', of at least 1",
        ),
        (
            "--client-name",
            "https://chat.example",
            (
                "--client-name 'https://chat.example' is neither an address nor a name that a certificate can be for; "
                "write it as in chat.example, *.example or 192.0.2.1, without https:// and port"
            ),
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(
    inventory: Path, tmp_path: Path, option: str, value: str, sentence: str
) -> None:
    """What cannot be meant is refused before a file is written."""
    with pytest.raises(SystemExit) as refused:
        export(inventory, tmp_path / "out", Substrate.KUBERNETES, "--secrets", option, value)
    assert refused.value.code == sentence
    assert not (tmp_path / "out").exists()


LABEL, LONGEST = "a" * 63, ".".join(["a" * 63] * 3 + ["b" * 61])
CLIENT_NAMES = {
    **dict.fromkeys(
        ["chat.example", "box", "*.example", "*.chat.example", "a-b.example", "1.example", "3com.com"], True
    ),
    **dict.fromkeys(["192.0.2.1", "fd00::1", "::1", "xn--bcher-kva.example", f"{LABEL}.example", LONGEST], True),
    **dict.fromkeys(["chat.example:8500", "[::1]", "[::1]:8500", "192.0.2.1:8500", "192.0.2.300", "1.2.3"], False),
    **dict.fromkeys(["https://chat.example", "chat.example/v1", "chat..example", ".example", "chat.example."], False),
    **dict.fromkeys(["*", "*.", "**.example", "chat.*.example", "*chat.example", "chat.*", "fd00:::1"], False),
    **dict.fromkeys(["-a.example", "a-.example", "a_b.example", "bücher.example", "", " ", "box\n"], False),
    **dict.fromkeys([f"{LABEL}a.example", f"{LONGEST}b", f"*.{LONGEST}", "fe80::1%eth0", "192.0.2.0/24"], False),
}
"""Names, and whether a client that asks for one can be given a certificate for it."""


@pytest.mark.parametrize("name", CLIENT_NAMES)
def test_only_names_that_a_client_can_match_get_a_certificate(name: str, inventory: Path, tmp_path: Path) -> None:
    """An address or a DNS name, perhaps of all hosts in a domain, is in the certificate; the rest is refused."""
    out = tmp_path / "out"
    words = ("--secrets", f"--client-name={name}")
    if not CLIENT_NAMES[name]:
        with pytest.raises(SystemExit, match="is neither an address nor a name that a certificate can be for"):
            export(inventory, out, Substrate.COMPOSE, *words)
        assert not (tmp_path / "fleet-secrets").exists()
        return
    assert export(inventory, out, Substrate.COMPOSE, *words) == 0
    certificate = x509.load_pem_x509_certificate((out / "secrets" / "rbee-queen" / "client.pem").read_bytes())
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name in {str(each.value) for each in held}


@pytest.mark.parametrize(("substrate", "told"), [(Substrate.COMPOSE, True), (Substrate.KUBERNETES, False)])
def test_networks_that_nothing_holds_clients_to_are_said(
    substrate: Substrate, told: bool, inventory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no policy keeps other networks out, the operator hears which port to close."""
    inventory = written(tmp_path, ", firewall='nftables'", "clients=['10.0.0.0/8'],")
    assert export(inventory, tmp_path / "out", substrate, "--json") == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    expected = (
        "compose does not keep clients of other networks out: close port 8500 of its machine to all but 10.0.0.0/8"
    )
    assert said["advice"] == (expected if told else None)
    assert [part["name"] for part in said["result"]["parts"]] == ["rbee-queen", "rbee-hive-box"]
