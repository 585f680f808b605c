"""Servers that are there already, in the inventory and on the queen's host."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rbee_deploy import externals
from rbee_deploy.errors import InventoryError, RenderError, SecretError
from rbee_deploy.inventory import External, external, host, secret_command, secret_env
from rbee_deploy.plan import Workshop
from rbee_deploy.render import OwnedFile, owned_files, unwanted_paths
from rbee_deploy.secrets import Secret
from rbee_deploy.site import Site
from rbee_runtime import config
from tests.unit.certificates import issue_fleet
from tests.unit.deploy.sites import site_of, state_of

CANARY = "canary-3141592653"
KEYS = "/etc/rbee/credentials/external-keys"


def ollama(**fields: object) -> External:
    return external("ollama", **{"url": "http://192.0.2.11:11434/v1/", "models": ["llama3"], **fields})


def fleet_of(*servers: External) -> Site:
    return site_of(host("box1", address="192.0.2.10", queen=True, hive=False), external=list(servers))


def files(site: Site, keys: Secret | None = None) -> dict[str, OwnedFile]:
    state = replace(state_of(site), external_keys=keys)
    return {file.path: file for file in owned_files(site, site.queen, state)}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "192.0.2.11:11434"}, "external 'ollama': url is '192.0.2.11:11434': it must be http:// or https://"),
        ({"models": []}, "external 'ollama': models is []: it must be a list of different models"),
        ({"models": ["a", "a"]}, "external 'ollama': models is ['a', 'a']: it must be a list of different models"),
        ({"models": ["hf.co/org/tiny:Q4"]}, "external 'ollama': models is ['hf.co/org/tiny:Q4']: model name"),
        ({"models": {"a": ""}}, "external 'ollama': models is {'a': ''}: it must be a string that is not empty"),
        ({"slots": 0}, "external 'ollama': slots is 0: it must be a whole number in 1-1024"),
        ({"key": CANARY}, "external 'ollama': key is given as plain text: use secret_env"),
        ({"ca_file": "/nowhere/ca.pem"}, "external 'ollama': ca_file is '/nowhere/ca.pem': there is no such file"),
        ({"modles": ["a"]}, "external 'ollama': unknown field 'modles'; did you mean 'models'"),
    ],
)
def test_a_mistake_is_one_sentence(fields: dict[str, object], said: str) -> None:
    """What is wrong names the server and the field, and never a secret."""
    with pytest.raises(InventoryError) as refused:
        ollama(**fields)
    assert str(refused.value.code).startswith(said)
    assert CANARY not in str(refused.value.code)


def test_two_servers_have_two_names() -> None:
    """Names tell keys apart, so no two are the same."""
    with pytest.raises(InventoryError) as refused:
        fleet_of(ollama(), ollama())
    assert "external 'ollama': declared twice" in str(refused.value.code)


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    """An authority is read when the inventory is, and not first by the queen."""
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(InventoryError) as refused:
        ollama(ca_file=tmp_path / "ca.pem")
    assert "it holds no certificate in PEM" in str(refused.value.code)


def test_the_queen_reads_what_is_rendered(tmp_path: Path) -> None:
    """Address, names, slots, key and authority arrive in the fleet file as its own schema takes them."""
    ca = issue_fleet(tmp_path, "x") / "ca.pem"
    made = fleet_of(ollama(models={"llama": "llama3:latest"}, slots=2, key=secret_env("X"), ca_file=ca))
    text = files(made, Secret("ollama=x\n"))["/etc/rbee/fleet.yaml"].text()
    (server,) = config.FleetFile.model_validate(yaml.safe_load(text)).external
    assert (server.name, server.url, server.models) == ("ollama", "http://192.0.2.11:11434", {"llama": "llama3:latest"})
    assert (server.slots, server.ca) == (2, ca.read_text())
    assert str(server.key_file) == "/run/credentials/rbee-queen.service/external-keys"


def test_without_a_key_the_queen_is_not_restarted() -> None:
    """A server without a key changes the fleet file alone, which she reads while she runs."""
    before, after = files(fleet_of()), files(fleet_of(ollama()))
    assert {path for path in after if after[path] != before[path]} == {"/etc/rbee/fleet.yaml"}
    assert after["/etc/rbee/fleet.yaml"].affects == frozenset()
    assert "external" not in before["/etc/rbee/fleet.yaml"].text()
    assert KEYS in unwanted_paths(after.values())


def test_keys_are_the_queens_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They lie in one credential of the queen, in no other file, and on no other host."""
    monkeypatch.setenv("OLLAMA_KEY", CANARY)
    queen, gpu = host("box1", queen=True, hive=False), host("gpu1")
    site = site_of(queen, gpu, external=[ollama(key=secret_env("OLLAMA_KEY"))], secrets_dir=str(tmp_path))
    found = files(site, Workshop(site)._state(queen, "").external_keys)
    assert [path for path, file in found.items() if CANARY in file.text()] == [KEYS]
    assert (found[KEYS].text(), found[KEYS].mode, found[KEYS].secret) == (f"ollama={CANARY}\n", "0600", True)
    unit = found["/etc/systemd/system/rbee-queen.service"].text()
    assert f"LoadCredential=external-keys:{KEYS}\n" in unit
    assert KEYS not in Workshop(site)._state(gpu, "").model_credentials
    assert Workshop(site)._state(gpu, "").external_keys is None
    with pytest.raises(RenderError, match="it must be read first"):
        files(site)


@pytest.mark.parametrize("key", ["two words \\n", "über", "a\\tb"])
def test_a_key_that_is_no_header_is_refused(key: str) -> None:
    """What no server could have given stops the deploy, and is not repeated."""
    with pytest.raises(SecretError, match="external 'ollama': key: a key is one line of plain letters") as refused:
        externals.keys([ollama(key=secret_command(["printf", key]))])
    assert key not in str(refused.value)
