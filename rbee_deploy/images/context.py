"""The folder that images are built from: a release, an engine and the scripts that install them."""

import hashlib
import shlex
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy import engines, releases
from rbee_deploy.artefacts import Artefact, file_sha256
from rbee_deploy.images import of_base
from rbee_deploy.images.kinds import ENGINE_OF_BASE
from rbee_runtime import ports

CONTAINERFILE = "Containerfile"
INSIDE = "/context"
"""Where a build sees the folder."""

_FINDER = "of_base.py"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What goes into the images of one release; `engine` None is the one that comes with the base."""

    release: Artefact
    uv: Artefact
    engine: Artefact | None

    @property
    def engine_id(self) -> str:
        """Return the folder of the engine."""
        return self.engine.id if self.engine is not None else ENGINE_OF_BASE


def containerfile(name: str = CONTAINERFILE) -> Path:
    """Return a Containerfile: a wheel carries them inside the package, a checkout beside it."""
    inside = Path(__file__).parent.parent / "containerfiles"
    root = inside if inside.is_dir() else inside.parent.parent / "containerfiles"
    return root / name


def write(folder: Path, parts: Parts) -> None:
    """Fill an empty folder."""
    _unpack(parts.release.archive, folder / "release")
    _unpack(parts.uv.archive, folder / "tools")
    if parts.engine is not None:
        shutil.copyfile(parts.engine.archive, folder / "engine.tar")
    else:
        shutil.copyfile(of_base.__file__, folder / _FINDER)
    shutil.copyfile(containerfile(), folder / CONTAINERFILE)
    (folder / "install-release").write_text(release_script(parts.release.id), encoding="utf-8")
    (folder / "install-engine").write_text(engine_script(parts), encoding="utf-8")


def release_script(release: str) -> str:
    """Return the script that installs the release as hosts do."""
    final = str(ports.RELEASES / release)
    steps = releases.install_script(f"{INSIDE}/release", final, uv=f"{INSIDE}/tools/uv", python="python3")
    # An engine gives a new volume the owner of the folder that it covers, where there is such a folder.
    covered = ("mkdir", "-p", str(ports.QUEEN_STATE), str(ports.HIVE_STATE), str(ports.MODELS))
    link = ("ln", "-s", f"releases/{release}", str(ports.CURRENT))
    return _script([("mkdir", "-p", str(ports.RELEASES)), *steps, link, covered])


def engine_script(parts: Parts) -> str:
    """Return the script that unpacks the engine as hosts do, or shows workers the one of the base."""
    folder = str(ports.ENGINES / parts.engine_id)
    if parts.engine is None:
        return _script([("python3", f"{INSIDE}/{_FINDER}", folder)])
    return _script([("mkdir", "-p", str(ports.ENGINES)), *engines.install_script(f"{INSIDE}/engine.tar", folder)])


def release_digest(parts: Parts) -> str:
    """Return the sha256 of all that the layer of the release is made from, but for the base."""
    return _digest(parts.release.sha256, parts.uv.sha256, release_script(parts.release.id))


def engine_digest(parts: Parts) -> str:
    """Return the sha256 of all that the layer of the engine is made from, but for the base."""
    inside = parts.engine.sha256 if parts.engine is not None else file_sha256(Path(of_base.__file__))
    return _digest(inside, engine_script(parts))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _script(steps: Iterable[tuple[str, ...]]) -> str:
    # The times of files in an image are all the same, so that equal contents are equal images: bytecode must not look
    # at them, or each start would compile everything anew.
    return "\n".join(("umask 022", "export PYC_INVALIDATION_MODE=UNCHECKED_HASH", *map(shlex.join, steps), ""))


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
