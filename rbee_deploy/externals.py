"""Servers that are not the fleet's own and speak OpenAI's API: as the inventory declares them, and their keys."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy import _fields as check
from rbee_deploy.errors import SecretError
from rbee_deploy.secrets import Secret, SecretSource, asked_for
from rbee_runtime import endpoints
from rbee_runtime.models import references

KEYS = "external-keys"
"""The credential of the queen that holds the servers' keys: a line `<name>=<key>` for each."""


def _models(value: object) -> dict[str, str]:
    given = endpoints.names(value)
    if not isinstance(given, dict) or not given:
        raise check.UnfitError("it must be a list of different models, or a dict of the server's names by yours")
    return {references.check_name(check.text(name)): check.text(own) for name, own in given.items()}


def _authority(value: object) -> str:
    path = check.operator_file(value)
    try:
        endpoints.authority(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise check.UnfitError("it is not text") from error
    return path


@dataclass(frozen=True)
class External:
    """One server, such as an Ollama that is there already; the queen sends it requests as she does to workers.

    `url` is where the queen reaches it. `models` are its names of its models by the names that clients ask for, or a
    list where both are the same. `slots` requests are there at a time. `key` is what it wants as API key. `ca_file` is
    on the operator's machine and holds the authority of its certificate, if that is none that the queen's host trusts.
    """

    name: str = check.setting(check.host_name)
    url: str = check.setting(lambda value: endpoints.address(check.text(value)))
    models: Mapping[str, str] = check.setting(_models)
    slots: int = check.setting(check.whole(1, 1024), default=4)
    key: SecretSource | None = check.setting(check.secret, default=None)
    ca_file: str | None = check.setting(_authority, default=None)

    @property
    def authority(self) -> str:
        """Return the text of `ca_file`, "" without one."""
        return Path(self.ca_file).read_text(encoding="utf-8") if self.ca_file is not None else ""


def keys(servers: Iterable[External]) -> Secret:
    """Return the queen's credential with the key of every server that has one, or raise SecretError."""
    return Secret("".join(f"{server.name}={_key(server)}\n" for server in servers if server.key is not None))


def _key(server: External) -> str:
    with asked_for(f"external {server.name!r}: key"):
        key = server.key.read().reveal() if server.key is not None else ""
        if not key.isascii() or not key.isprintable() or key.strip() != key:
            raise SecretError("a key is one line of plain letters; correct what the inventory takes it from")
        return key
