"""The wheel of rbee itself: the same bytes from a checkout, a clone of it, or an installed copy."""

import base64
import hashlib
import importlib.metadata
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import rbee_runtime
from rbee_deploy.artefacts import Say, cache_root, cached_dir, digest_of, say_to_stderr, tree_digest
from rbee_deploy.commands import run
from rbee_deploy.errors import ArtefactError
from rbee_deploy.wheels import tool_environment, toolbox

SOURCES = ("pyproject.toml", "LICENSE", "rbee_deploy", "rbee_runtime", "templates", "requirements", "containerfiles")
_INSTALLERS_OWN = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"}
_EPOCH = (2020, 1, 1, 0, 0, 0)


def own_wheel(version: str | None, cache: Path | None = None, *, say: Say = say_to_stderr) -> Path:
    """Return the wheel of the rbee that runs; a `version` other than its own raises ArtefactError."""
    mine = rbee_runtime.__version__
    if version is not None and version != mine:
        raise ArtefactError(
            f"the inventory asks for rbee {version} but this is {mine}: "
            f"use the checkout or package of {version}, or drop version= from fleet()"
        )
    root = Path(__file__).parent.parent
    folder = cache or cache_root()
    if (root / "pyproject.toml").is_file():
        return _from_checkout(root, mine, folder, say)
    return _from_installed(mine, folder)


def _from_checkout(root: Path, version: str, cache: Path, say: Say) -> Path:
    key = tree_digest(root, source_files(root))[:16]
    final = cache / "own-wheels" / key

    def build(draft: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            built = _built(_copied(root, Path(scratch) / "tree"), Path(scratch) / "dist", cache, say)
            _canonical(_members(built), draft / f"rbee-{version}-py3-none-any.whl")

    return next(cached_dir(final, build).glob("*.whl"))


def source_files(root: Path) -> list[Path]:
    """Return every file of a checkout that ends up in the wheel or decides how it is built."""
    candidates = [path for name in SOURCES for path in [root / name, *(root / name).rglob("*")]]
    return sorted(p for p in candidates if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc")


def _copied(root: Path, tree: Path) -> Path:
    for path in source_files(root):
        copy = tree / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return tree


def _built(tree: Path, dist: Path, cache: Path, say: Say) -> Path:
    environment = tool_environment(toolbox("build.txt", cache, say=say))
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(dist))
    run(command, title="build the wheel of rbee", say=say, environment=environment, cwd=tree)
    return next(dist.glob("*.whl"))


def _members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def _from_installed(version: str, cache: Path) -> Path:
    distribution = importlib.metadata.distribution("rbee")
    members = {
        file.as_posix(): Path(str(distribution.locate_file(file))).read_bytes()
        for file in distribution.files or ()
        if ".." not in file.parts and "__pycache__" not in file.parts
    }
    if not any(name.startswith("rbee_runtime/") for name in members):
        raise ArtefactError(
            "this rbee is installed without a list of its files, so it cannot be copied to hosts: "
            "install its wheel with pip or uv, or run from a checkout"
        )
    key = digest_of(*(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(members.items())))[:16]
    wheel = f"rbee-{version}-py3-none-any.whl"
    return cached_dir(cache / "own-wheels" / key, lambda draft: _canonical(members, draft / wheel)) / wheel


def _canonical(members: Mapping[str, bytes], wheel: Path) -> None:
    """Write a wheel whose bytes depend on `members` alone: sorted, undated, stored (zlibs differ between machines)."""
    kept = {name: data for name, data in sorted(members.items()) if name.rsplit("/", 1)[-1] not in _INSTALLERS_OWN}
    record = f"{next(name for name in kept if name.endswith('.dist-info/METADATA')).rsplit('/', 1)[0]}/RECORD"
    lines = [f"{name},sha256={_record_digest(data)},{len(data)}" for name, data in kept.items()]
    kept[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, data in kept.items():
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)


def _record_digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
