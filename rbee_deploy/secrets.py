"""Secrets and where they come from; a secret is never part of an inventory, a template or a log."""

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rbee_deploy._fields import plain
from rbee_deploy.errors import SecretError

COMMAND_SECONDS = 60.0
"""A password manager may ask its user for a fingerprint; longer than this nobody is there."""

_MASK = "********"


class Secret:
    """A value that prints as asterisks; `reveal` is the only way to its text.

    `version` changes when the value does and may be shown: an id given by the issuer, else the start of a hash.
    """

    __slots__ = ("_value", "version")

    def __init__(self, value: str, *, version: str | None = None) -> None:
        self._value = value
        self.version = version if version is not None else _fingerprint(value)

    def reveal(self) -> str:
        """Return the plain text."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_MASK})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str) -> str:
        return format(_MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str:
        raise SecretError("a secret is not written to a pickle; pass its source instead")

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def to_json(self) -> str:
        """Return what `pyinfra debug-inventory` and JSON reports show."""
        return _MASK


def _fingerprint(value: str) -> str:
    return hashlib.sha256(b"rbee secret version\0" + value.encode()).hexdigest()[:16]


class SecretSource(Protocol):
    """Where a secret is read from, at the moment it is needed."""

    def read(self, *, whole: bool = False) -> Secret:
        """Return the secret or raise SecretError; `whole` asks for all lines of a secret that has several."""


@dataclass(frozen=True)
class EnvironmentSecret:
    """An environment variable of the operator's shell."""

    variable: str

    def read(self, *, whole: bool = False) -> Secret:  # noqa: ARG002 - a value is always whole
        """Return the variable's value; empty counts as missing."""
        value = os.environ.get(self.variable, "")
        if not value:
            raise SecretError(f"environment variable {self.variable} is not set; export it before the deploy")
        return Secret(value)


@dataclass(frozen=True)
class FileSecret:
    """A file on the operator's machine that only its owner can read."""

    path: Path

    def read(self, *, whole: bool = False) -> Secret:  # noqa: ARG002 - a file is always whole
        """Return the file's text without trailing newlines."""
        try:
            mode = self.path.stat().st_mode
            value = self.path.read_text(encoding="utf-8").rstrip("\n")
        except OSError as error:
            raise SecretError(f"cannot read the secret file {self.path}: {plain(error)}") from error
        except UnicodeDecodeError as error:
            raise SecretError(f"cannot read the secret file {self.path}: it is not UTF-8 text") from error
        if stat.S_IMODE(mode) & 0o077:
            raise SecretError(f"secret file {self.path} is open to others; run chmod 600 {self.path}")
        if not value:
            raise SecretError(f"secret file {self.path} is empty; write the secret into it")
        return Secret(value)


@dataclass(frozen=True)
class CommandSecret:
    """A command of the operator, such as a password manager's; what it prints is the secret."""

    argv: tuple[str, ...]

    def read(self, *, whole: bool = False) -> Secret:
        """Run the command and return its first line, for password managers add others; or all of it if `whole`."""
        shown = self.argv[0]
        try:
            done = subprocess.run(
                self.argv, stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=False, encoding="utf-8"
            )
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
            raise SecretError(f"secret command {shown} failed: {_why(error)}; run it by hand") from error
        lines = done.stdout.splitlines()
        if done.returncode != 0 or not lines or not lines[0]:
            raise SecretError(f"secret command {shown} gave no secret (exit status {done.returncode}); run it by hand")
        return Secret(done.stdout.rstrip("\n") if whole else lines[0])


def _why(error: OSError | subprocess.TimeoutExpired | UnicodeDecodeError) -> str:
    match error:
        case FileNotFoundError():
            return "there is no such program"
        case OSError():
            return plain(error)
        case UnicodeDecodeError():
            return "what it printed is not UTF-8 text"
    return f"it took longer than {COMMAND_SECONDS:.0f} s"


@contextmanager
def asked_for(where: str) -> Iterator[None]:
    """Have what goes wrong with a secret begin with the place in the inventory that asks for it."""
    try:
        yield
    except SecretError as error:
        raise SecretError(f"{where}: {error}") from error


def secret_env(variable: str) -> EnvironmentSecret:
    """Take a secret from an environment variable."""
    return EnvironmentSecret(variable)


def secret_file(path: str | Path) -> FileSecret:
    """Take a secret from a file with mode 0600."""
    return FileSecret(Path(path).expanduser())


def secret_command(argv: Sequence[str]) -> CommandSecret:
    """Take a secret from the first line that a command prints, a secret of several lines from all of them.

    `argv` is a list of words, no shell.
    """
    if isinstance(argv, str) or not argv:
        raise SecretError("secret_command takes a list of words, such as ['pass', 'show', 'gpu1/sudo']")
    return CommandSecret(tuple(argv))
