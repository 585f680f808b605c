"""The folder that an export is written to: what an earlier one left there goes, and nothing else is touched.

All of it is drafted before any of it is put in place, so that what cannot be written leaves what was there.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.errors import ExportError

MARK = ".rbee-export"
"""Names the files that an export wrote, one a line; in the folder of secrets what is in each, by a tab."""

SECRETS = "secrets"
_IGNORED = {".gitignore": "*\n"}


@dataclass(frozen=True, order=True)
class Held:
    """A secret of an export: its file below the folder of secrets, and what it is, as `part/name`."""

    file: str
    item: str


@dataclass(frozen=True)
class Access:
    """The modes of a file and of the folders that it is in."""

    file: int
    folder: int


OPEN = Access(0o644, 0o755)
"""Whatever the umask says: containers see these, and are somebody else."""

PRIVATE = Access(0o600, 0o700)


def check(folder: Path, files: Collection[str], held: Collection[Held], *, anew: bool) -> None:
    """Raise ExportError where an export cannot be written; `anew` says that its secrets are written as well.

    Without them, what an earlier export left of secrets has to be what this one names.
    """
    with _told(folder):
        foreigner = min(folder.iterdir(), default=None) if folder.is_dir() and not (folder / MARK).is_file() else None
        if foreigner is not None:
            raise ExportError(f"{foreigner} was written by no export: choose an empty folder, or a new one, by -o")
        earlier = _held(folder)
        foreign = [] if anew else sorted({*earlier} - {*held})
        if foreign:
            raise ExportError(
                f"{folder / SECRETS / foreign[0].file} holds {foreign[0].item} of an earlier export, which this one "
                f"does not name: add --secrets, which takes it away, or remove {folder / SECRETS}"
            )
        ours = {*files, *_written(folder)}
        if anew:
            ours |= {f"{SECRETS}/{each.file}" for each in (*held, *earlier)}
        for name in sorted(ours):
            _check_place(folder, name)


def _check_place(folder: Path, name: str) -> None:
    """Raise ExportError where a file cannot be put in its place, or be taken away."""
    path = folder / name
    if path.is_dir():
        raise ExportError(f"{path} is a folder where an export has a file: move it away, or choose another one by -o")
    above = next(each for each in path.parents if os.path.lexists(each))
    if not above.is_dir():
        raise ExportError(f"{above} is a file where an export has a folder: move it away, or choose another one by -o")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ExportError(f"cannot write to {above}: correct its owner or its mode, or choose another folder by -o")


def write(folder: Path, files: Mapping[str, str], secrets: Mapping[str, str], held: Collection[Held] = ()) -> None:
    """Write files by their names below a folder that `check` let pass, or raise ExportError and leave it as it was.

    `secrets` go below the folder for them, where nobody else reads them and git does not see them; those of an earlier
    export that are not among them go, unless there are none at all.
    """
    mark = "".join(f"{name}\n" for name in files)
    wanted = {name: (text, OPEN) for name, text in {MARK: mark, **files}.items()}
    with _told(folder):
        gone = _written(folder) - files.keys()
        if secrets:
            said = {MARK: "".join(f"{each.file}\t{each.item}\n" for each in sorted(held))}
            wanted |= {f"{SECRETS}/{name}": (text, PRIVATE) for name, text in (_IGNORED | said | dict(secrets)).items()}
            gone |= {f"{SECRETS}/{each.file}" for each in _held(folder)} - wanted.keys()
        _put(folder, wanted)
        for name in gone:
            _remove(folder, name)


def _put(folder: Path, wanted: Mapping[str, tuple[str, Access]]) -> None:
    made: list[Path] = []
    drafts: list[tuple[Path, Path]] = []
    try:
        _make(folder, None, made)
        for name, (text, access) in wanted.items():
            for parent in _parents(name):
                _make(folder / parent, access.folder, made)
            drafts.append((_draft(folder / name, text, access.file), folder / name))
        for draft, path in drafts:
            draft.replace(path)
    except BaseException:
        for draft, _ in drafts:
            draft.unlink(missing_ok=True)
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def _make(folder: Path, mode: int | None, made: list[Path]) -> None:
    """Make a folder, and note what was made for it; None is the mode that the umask gives."""
    for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        # Closed before anything is in it.
        each.mkdir(0o777 if mode is None else mode)
        made.append(each)
    if mode is not None and stat.S_IMODE(folder.stat().st_mode) != mode:
        folder.chmod(mode)


def _draft(path: Path, text: str, mode: int) -> Path:
    """Return a file beside a path that is whole and on the disk; mkstemp makes it 0600 before a byte is in it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _remove(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    for parent in reversed(_parents(name)):
        with contextlib.suppress(OSError):
            (folder / parent).rmdir()


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"cannot write to {folder}: {error.strerror}; choose another folder by -o") from error


def _written(folder: Path) -> set[str]:
    return {name for name in _lines(folder / MARK) if _is_below(folder, name)}


def _held(folder: Path) -> set[Held]:
    """Return the secrets that an earlier export wrote and nobody has taken away since."""
    below = folder / SECRETS
    known = (Held(*line.split("\t")) for line in _lines(below / MARK) if line.count("\t") == 1)
    return {each for each in known if _is_below(below, each.file) and _may_be_there(below / each.file)}


def _may_be_there(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        # The folder was given to the user that containers run as.
        return True


def _lines(mark: Path) -> list[str]:
    try:
        return mark.read_text(encoding="utf-8").splitlines() if mark.is_file() else []
    except UnicodeDecodeError as error:
        raise ExportError(f"{mark} is not the list that an export wrote: choose another folder by -o") from error


def _is_below(folder: Path, name: str) -> bool:
    """Say whether a name is one below a folder: somebody may have edited a list, and nothing outside is removed."""
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _parents(name: str) -> list[Path]:
    """Return the folders above a file, from the top down and without the one that everything is in."""
    return list(reversed(Path(name).parents))[1:]
