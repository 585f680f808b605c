"""Running a shell script as root on a host: as root itself, by sudo, or by sudo with a password on standard input.

pyinfra's own `_sudo_password` is not used: it puts the password into the remote command line, where `ps` shows it.
"""

import itertools
import shlex
from collections.abc import Iterable, Iterator

from rbee_deploy.secrets import Secret

BEGIN = "rbee input begins"
"""First line of a script's own input when a password may stand before it; a sudo that asks nothing leaves both."""

_SKIP_PASSWORD = f"while IFS= read -r line && [ \"$line\" != '{BEGIN}' ]; do :; done; "


class Block:
    """Bytes that pass for a line, so that pyinfra sends them as they are."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def endswith(self, _suffix: str) -> bool:
        """Say that no newline is missing."""
        return True

    def encode(self) -> bytes:
        """Return the bytes."""
        return self._content


Line = str | Block


class _Lazy(list[Line]):
    """A list that makes its items while it is read: a model file never lies in memory."""

    def __init__(self, lines: Iterable[Line]) -> None:
        super().__init__()
        self._lines = lines

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines)


class Input:
    """Lines for a command's standard input; nothing that prints it shows them.

    pyinfra wants an iterable and reads it by `readlines`.
    """

    def __init__(self, head: tuple[str, ...], body: Iterable[Line]) -> None:
        self._head = head
        self._body = body

    def readlines(self) -> list[Line]:
        """Return the lines, read when they are sent."""
        return _Lazy(self)

    def __iter__(self) -> Iterator[Line]:
        return itertools.chain(self._head, self._body)

    def __repr__(self) -> str:
        return "Input(********)"


def as_root(script: str, *, password: bool = False, given: bool = False) -> str:
    """Return the shell line that runs `script` as root, for any login user; its exit status is the script's.

    `given` says that it has a standard input, whose rest is read even when the script fails: whoever still writes would
    find the connection closed and never hear what it said.
    """
    if password:
        script = _SKIP_PASSWORD + script
    asking = ("-S", "-k", "-p", "") if password else ("-n",)
    sudo = ("sudo", *asking, "-H", "--")
    run = '"$@" || { status=$?; cat >/dev/null; exit "$status"; }' if given else 'exec "$@"'
    return f'set -- sh -c {shlex.quote(script)}; [ "$(id -u)" = 0 ] || set -- {shlex.join(sudo)} "$@"; {run}'


def probe_as_root(script: str, *, password: bool = False) -> str:
    """Return the shell line that reads as root, or says `@sudo missing` or `@sudo refused` if it cannot.

    It never fails itself and drops what sudo says, because pyinfra asks for a password on the terminal when it reads
    sudo's own words.
    """
    line = as_root(script, password=password)
    return (
        'if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then echo @sudo missing; '
        f"else ({line}) 2>/dev/null || echo @sudo refused; fi"
    )


def stdin(lines: Iterable[Line] | None = None, *, password: Secret | None) -> Input | None:
    """Return what goes to the standard input of an `as_root` line: the password if there is one, then `lines`."""
    if password is not None:
        return Input((password.reveal(), BEGIN), lines or ())
    return Input((), lines) if lines is not None else None
