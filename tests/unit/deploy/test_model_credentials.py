"""Secrets that hives fetch models with: read whole, checked before they are placed, rendered for root and hive only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy import model_credentials
from rbee_deploy.activator.activation import STEPS
from rbee_deploy.errors import RenderError, SecretError
from rbee_deploy.inventory import host, secret_command, secret_env, secret_file
from rbee_deploy.plan import Workshop
from rbee_deploy.render import OwnedFile, owned_files, unwanted_paths
from rbee_deploy.secrets import Secret, SecretSource
from rbee_deploy.site import Site
from rbee_runtime.models.sources.credentials import HF_TOKEN, OBJECT_STORE, REGISTRIES, Credentials
from tests.unit.deploy.sites import site_of, state_of

CANARY = "canary-2718281828"
KEYS = f"# of the bucket\nAWS_ACCESS_KEY_ID=me\nAWS_SECRET_ACCESS_KEY={CANARY}"
AUTHS = f'{{\n  "auths": {{"registry.example": {{"auth": "{CANARY}"}}}}\n}}'
TEXTS = {HF_TOKEN: CANARY, OBJECT_STORE: KEYS, REGISTRIES: AUTHS}
FOLDER = "/etc/rbee/credentials"


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", ["file", "command", "environment"])
def test_a_credential_arrives_whole(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of it reaches the hive, wherever the operator keeps it."""
    path = tmp_path / "secret"
    path.write_text(TEXTS[name] + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("RBEE_TEST_SECRET", TEXTS[name])
    sources: dict[str, SecretSource] = {
        "file": secret_file(path),
        "command": secret_command(["cat", str(path)]),
        "environment": secret_env("RBEE_TEST_SECRET"),
    }
    (tmp_path / name).write_text(model_credentials.read(name, sources[kind]).reveal())
    assert (tmp_path / name).read_text() == TEXTS[name] + "\n"
    found = Credentials.read(tmp_path)
    assert CANARY in (found.hf_token, found.objects.get("AWS_SECRET_ACCESS_KEY"), *found.registries.values())


def test_a_token_is_the_first_line_of_a_password_manager() -> None:
    """What `pass` keeps below a token, such as a user name, is not part of it."""
    manager = secret_command(["printf", "%s\\n", CANARY, "user: me"])
    assert model_credentials.read(HF_TOKEN, manager).reveal() == CANARY + "\n"


BAD = [
    (HF_TOKEN, f"{CANARY} and more", "the credential hf-token is not one word of plain characters"),
    (HF_TOKEN, f"{CANARY}\nX-Header: 1", "the credential hf-token is not one word"),
    (OBJECT_STORE, f"AWS_REGION=eu\n{CANARY}", "the credential object-store.env, line 2, is not NAME=value"),
    (REGISTRIES, CANARY, "the credential registry-auth.json is not the file that `podman login` writes"),
]


@pytest.mark.parametrize(("name", "text", "sentence"), BAD)
def test_a_damaged_credential_is_refused_here(
    name: str, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a hive could not start with ends the deploy with a sentence, which does not show it."""
    monkeypatch.setenv("RBEE_TEST_SECRET", text)
    with pytest.raises(SecretError) as caught:
        model_credentials.read(name, secret_env("RBEE_TEST_SECRET"))
    assert sentence in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_password_manager_is_asked_once(tmp_path: Path) -> None:
    """Two hosts with the fleet's token cost one run of the command that has it."""
    asked = tmp_path / "asked"
    token = secret_command(["sh", "-c", f"echo x >>{asked}; echo {CANARY}"])
    site = site_of(
        host("q", address="192.0.2.1", queen=True), host("g"), hf_token=token, secrets_dir=str(tmp_path / "secrets")
    )
    workshop = Workshop(site)
    assert all(f"{FOLDER}/hf-token" in workshop.paths(item) for item in site.hosts)
    assert asked.read_text() == "x\n"


def site(**fields: Any) -> Site:
    return site_of(host("box", address="192.0.2.1", queen=True), **fields)


def rendered(site: Site, **credentials: str) -> dict[str, OwnedFile]:
    secrets = {name.replace("_", "-"): Secret(text) for name, text in credentials.items()}
    state = replace(state_of(site), model_credentials=secrets)
    return {file.path: file for file in owned_files(site, site.queen, state)}


def test_only_the_hive_restarts_for_a_token() -> None:
    """A token, and another one, changes the hive's digest and nothing else that restarts; workers and queen go on."""
    bare, first, second = rendered(site()), *(rendered(site(hf_token=secret_env("X")), hf_token=t) for t in "ab")
    token, unit = first[f"{FOLDER}/hf-token"], "/etc/systemd/system/rbee-hive.service"
    assert (token.mode, token.owner, token.secret, set(token.affects)) == ("0600", "root", True, {"rbee-hive.service"})
    assert f"LoadCredential=hf-token:{FOLDER}/hf-token\n" in first[unit].text()
    assert {path for path in bare if bare[path] != first[path]} == {unit, "/etc/rbee/hive.digest"}
    assert {path for path in first if first[path] != second[path]} == {token.path, "/etc/rbee/hive.digest"}


def test_what_an_inventory_dropped_is_unwanted() -> None:
    """Credentials that are not given are to be removed, and only those."""
    dropped = set(unwanted_paths(rendered(site(hf_token=secret_env("X")), hf_token="a").values()))
    credentials = {f"{FOLDER}/{name}" for name in ("object-store.env", "registry-auth.json", "external-keys")}
    firewall = {"/etc/rbee/firewall.json", "/etc/systemd/system/rbee-firewall.service"}
    beside = {path for path in dropped if "/rbee-queen." in path or "/rbee-hive." in path}
    assert dropped - beside == {*credentials, *firewall, "/etc/rbee/devices.json"}
    assert beside == {
        "/etc/containers/systemd/rbee-queen.container",
        "/etc/containers/systemd/rbee-hive.container",
        "/etc/systemd/system/rbee-queen.service.d/50-rbee.conf",
    }
    assert not dropped & set(rendered(site()))
    plain = set(unwanted_paths(rendered(site(client_endpoint="plain-http")).values()))
    assert {f"{FOLDER}/client.pem", f"{FOLDER}/client.key"} < plain


def test_a_unit_is_placed_after_what_it_names_and_told_before_that_goes() -> None:
    """Whenever a host restarts during a deploy, systemd finds each credential of the unit that it knows."""
    paths = list(rendered(site(hf_token=secret_env("X")), hf_token="a"))
    assert paths.index(f"{FOLDER}/hf-token") < paths.index("/etc/systemd/system/rbee-hive.service")
    steps = [name for name, _ in STEPS]
    assert steps.index("place files") < steps.index("register units") < steps.index("remove old files")
    assert steps.index("remove old files") < steps.index("start roles")


def test_a_token_that_was_not_read_is_named() -> None:
    """Rendering without a secret that the inventory asks for says whose is missing."""
    with pytest.raises(RenderError, match="host 'box' has no credential hf-token"):
        rendered(site(hf_token=secret_env("X")))


@pytest.mark.parametrize(
    ("own", "sentence"),
    [({}, "fleet 'test': hf_token: "), ({"hf_token": secret_env("OWN")}, "host 'box': hf_token: ")],
)
def test_a_secret_that_cannot_be_read_is_named_by_its_field(own: dict[str, SecretSource], sentence: str) -> None:
    """The sentence begins with the field that asks for the secret, of the host if that has its own."""
    box = host("box", address="192.0.2.1", queen=True, **own)
    declared = site_of(box, hf_token=secret_env("FLEETS"))
    with pytest.raises(SecretError) as caught:
        Workshop(declared).paths(box)
    assert str(caught.value).startswith(f"{sentence}environment variable {'OWN' if own else 'FLEETS'} is not set; ")
