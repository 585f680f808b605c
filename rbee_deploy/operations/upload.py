"""Bring a large file to a host: in pieces, going on where an interrupted upload stopped."""

import functools
import hashlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import gevent
from pyinfra import host
from pyinfra.api import FactBase, FunctionCommand, StringCommand

from rbee_deploy.connection import keep_keys
from rbee_deploy.elevation import Block, as_root, stdin
from rbee_deploy.facts.memo import PASSWORD
from rbee_deploy.observed import Observed
from rbee_deploy.operations.root import as_root_command
from rbee_deploy.uploads import gate

PIECE = 64 << 20
"""Bytes per command: a broken connection loses at most what is under way, and a gigabyte is 16 commands."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Upload:
    """A file of the operator and the folder on the host where it arrives as `<sha256>.part`.

    `within` makes the scripts run elsewhere than as root at `/`; `folder` is then relative to `base`.
    """

    source: Path
    sha256: str
    size: int
    folder: str
    base: str = "/"
    within: Callable[[str], str] = str

    @property
    def part(self) -> str:
        """Return the path on the host, as the scripts use it."""
        return f"{self.folder}/{self.sha256}.part"


class PartHash(FactBase[str]):
    """Return the sha256 of the first bytes of a file."""

    def command(self, part: str, count: int, password: bool) -> str:  # noqa: D102 - the class says it
        return as_root(f"head -c {count:d} -- {shlex.quote(part)} | sha256sum", password=password)

    def process(self, output: list[str]) -> str:
        """Return the hash alone."""
        return output[0].split()[0] if output else ""


def commands(upload: Upload, facts: Observed) -> Iterator[StringCommand | FunctionCommand]:
    """Yield one command per piece that the host does not have."""
    start = _kept(upload, facts)
    if start == upload.size:
        return
    yield FunctionCommand(enter, (), {})
    for offset in range(start, upload.size, PIECE):
        length = min(PIECE, upload.size - offset)
        yield as_root_command(
            upload.within(_script(upload, offset, length)), Slice(Path(upload.source), offset, length)
        )
    yield FunctionCommand(leave, (), {})


def leave(state: Any, host: Any) -> bool:
    """Let the next host receive something large."""
    gate(state, host.data.rbee.site.uploads).leave(host)
    return True


def enter(state: Any, host: Any) -> bool:
    """Wait until the host may receive something large, over a connection that can carry it."""
    keep_keys(host)
    gate(state, host.data.rbee.site.uploads).enter(host)
    return True


def arrived(upload: Upload) -> str:
    """Return the script that goes on only if the whole file is there and undamaged."""
    part = shlex.quote(upload.part)
    return (
        f'[ "$(sha256sum <{part})" = "{upload.sha256}  -" ] || '
        f"{{ rm -f {part}; echo 'the upload arrived damaged; run the same command again' >&2; exit 1; }}"
    )


class Slice:
    """A part of a local file, read in blocks while it is sent."""

    def __init__(self, source: Path, offset: int, length: int) -> None:
        self._source, self._offset, self._length = source, offset, length

    def __iter__(self) -> Iterator[Block]:
        left = self._length
        with self._source.open("rb") as stream:
            stream.seek(self._offset)
            while left > 0 and (content := stream.read(min(left, _BLOCK))):
                left -= len(content)
                yield Block(content)


def _kept(upload: Upload, facts: Observed) -> int:
    """Return how many bytes on the host are a true beginning of the file; a check reads both sides once."""
    there = facts.incoming(Path(upload.part).name)
    if not 0 < there <= upload.size:
        return 0
    password: Any = host.connector_data.get(PASSWORD)
    asked = {"part": str(Path(upload.base, upload.part)), "count": there, "password": password is not None}
    found = host.get_fact(PartHash, **asked, _sudo=False, _stdin=stdin(password=password))
    return there if found == _prefix_hash(Path(upload.source), there) else 0


def _prefix_hash(source: Path, count: int) -> str:
    """Return the hash of a file's first bytes; in a thread, as the run has signs of life to give meanwhile."""
    found: str = gevent.get_hub().threadpool.apply(_hashed, (source, count))
    return found


@functools.lru_cache(maxsize=64)
def _hashed(source: Path, count: int) -> str:
    digest = hashlib.sha256()
    for block in Slice(source, 0, count):
        digest.update(block.encode())
    return digest.hexdigest()


def _script(upload: Upload, offset: int, length: int) -> str:
    folder, part = shlex.quote(upload.folder), shlex.quote(upload.part)
    where = str(PurePosixPath(upload.base, upload.folder))
    said = f"{where} could not be written; make room or put its disk right, and run the same command again"
    written = f"{{ cat >>{part} || {{ echo {shlex.quote(said)} >&2; exit 1; }}; }}"
    begin = f"rm -f {part} && {written}" if offset == 0 else f'[ "$(stat -c %s {part})" = {offset} ] && {written}'
    return f'umask 077 && mkdir -p {folder} && {begin} && [ "$(stat -c %s {part})" = {offset + length} ]'
