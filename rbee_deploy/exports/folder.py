"""The folder that an export is written to: what an earlier one left there goes, and nothing else is touched."""

from collections.abc import Mapping
from pathlib import Path

from rbee_deploy.errors import ExportError
from rbee_deploy.private_files import make_private_folder, write_private
from rbee_runtime import durable
from rbee_runtime.errors import StateError

MARK = ".rbee-export"
"""Names the files that an export wrote, one a line."""

SECRETS = "secrets"


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files by their names below a folder, or raise ExportError."""
    try:
        _make(folder)
        for name in _written(folder) - files.keys():
            (folder / name).unlink(missing_ok=True)
        (folder / MARK).write_text("".join(f"{name}\n" for name in files), encoding="utf-8")
        for name, text in files.items():
            for parent in _parents(name):
                (folder / parent).mkdir(exist_ok=True)
                # Whatever the umask says: containers see these folders, and are somebody else.
                (folder / parent).chmod(0o755)
            durable.write(folder / name, text.encode(), mode=0o644)
    except OSError as error:
        raise ExportError(f"cannot write to {folder}: {error.strerror}; choose another folder by -o") from error
    except StateError as error:
        raise ExportError(str(error)) from error


def write_secrets(folder: Path, files: Mapping[str, str]) -> None:
    """Write secrets by their names below the folder for them; nobody else reads them, and git does not see them."""
    for name, text in {".gitignore": "*\n", **files}.items():
        path = folder / SECRETS / name
        for parent in _parents(f"{SECRETS}/{name}"):
            make_private_folder(folder / parent)
        write_private(path, text)


def _make(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise ExportError(f"{folder} holds what no export wrote: choose an empty folder, or a new one, by -o")
    folder.mkdir(parents=True, exist_ok=True)


def _written(folder: Path) -> set[str]:
    mark = folder / MARK
    lines = mark.read_text(encoding="utf-8").splitlines() if mark.is_file() else []
    # Somebody may have edited the list; nothing outside the folder is ever removed.
    return {name for name in lines if (folder / name).resolve().is_relative_to(folder.resolve())}


def _parents(name: str) -> list[Path]:
    """Return the folders above a file, from the top down and without the one that everything is in."""
    return list(reversed(Path(name).parents))[1:]
