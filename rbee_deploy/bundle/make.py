"""Makes a bundle: everything that the hosts of an inventory get, into one folder that exists only when complete."""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import rbee_runtime
from rbee_deploy.artefacts import Artefact, Say, Target, file_sha256, say_to_stderr
from rbee_deploy.bundle import downloads, images, operator
from rbee_deploy.bundle.draft import NO_ROOM, replaced, taken
from rbee_deploy.bundle.folder import Bundle, read, strangers
from rbee_deploy.bundle.manifest import ANY_PYTHON, FOLDERS, MANIFEST, MANIFEST_HASH, Entry, Kind, Manifest, dump, glibc
from rbee_deploy.bundle.parts import Part, written
from rbee_deploy.bundle.targets import usual
from rbee_deploy.errors import ArtefactError, BundleError
from rbee_deploy.local import DEFAULT_VARIANT
from rbee_deploy.site import Model, Site
from rbee_deploy.sources import ArtefactSource, Built, HeldFile
from rbee_runtime.models.references import identity


@dataclass(frozen=True, kw_only=True)
class Makers:
    """What a bundle is made with: artefacts, rbee-deploy's own wheels, and models that hosts would fetch."""

    source: ArtefactSource = field(default_factory=Built)
    packages: Callable[[Target], tuple[Path, ...]] = operator.packages
    download: Callable[[Site, Model], tuple[HeldFile, ...]] = downloads.download


def make(
    site: Site,
    targets: Sequence[Target],
    folder: Path,
    operators: Target,
    makers: Makers | None = None,
    say: Say = say_to_stderr,
    *,
    processors: Mapping[str, str] = MappingProxyType({}),
) -> Bundle:
    """Make the bundle of a fleet for kinds of host in `folder`, and rbee-deploy for an operator's machine.

    A bundle that is there already is replaced in one step and keeps its targets; without one, no targets stand for the
    usual ones. `processors` (`uname -m`) are those of hosts that were asked, by name. Raises DeployError.
    """
    with taken(folder):
        wanted = _wanted(site, targets, folder)
        parts = _parts(site, wanted, processors, operators, makers or Makers(), say)
        with replaced(folder) as draft:
            entries = tuple(_placed(part, draft, folder) for part in parts)
            manifest = Manifest(
                rbee=rbee_runtime.__version__,
                fleet=site.name,
                made=datetime.now(UTC).isoformat(timespec="seconds"),
                targets=wanted,
                entries=entries,
            )
            _seal(draft, dump(manifest))
    return read(folder)


def _wanted(site: Site, targets: Sequence[Target], folder: Path) -> tuple[Target, ...]:
    """Return what the bundle is made for; the caller holds the folder, in which another run may just have put one."""
    before = _existing(folder)
    if before is None:
        return tuple(dict.fromkeys(targets)) or usual()
    if before.manifest.fleet != site.name:
        raise BundleError(
            f"{folder} is the bundle of fleet {before.manifest.fleet}, not of {site.name}: give another folder by -o"
        )
    return tuple(dict.fromkeys((*before.manifest.targets, *targets)))


def _existing(folder: Path) -> Bundle | None:
    """Return the bundle that a new one takes the place of, None for no or an empty folder; raises BundleError."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
    except OSError as error:
        raise BundleError(f"cannot look into {folder}: {error.strerror}; give another folder by -o") from error
    try:
        bundle = read(folder)
    except BundleError as error:
        raise BundleError(f"{folder} is there and is no whole bundle: move it away, or give another by -o") from error
    foreign = strangers(bundle)
    if foreign:
        raise BundleError(f"{folder / foreign[0]} is not of the bundle and would be lost: move it out of {folder}")
    return bundle


def _parts(
    site: Site,
    targets: Sequence[Target],
    processors: Mapping[str, str],
    operators: Target,
    makers: Makers,
    say: Say,
) -> list[Part]:
    # First, as it takes no time to see that one is missing.
    archs = tuple(dict.fromkeys(target.arch for target in targets))
    boxed = list(images.parts(site, archs, processors, makers.source, say))
    parts: dict[tuple[Kind, str], Part] = {}
    for target in targets:
        say(f"for hosts with Python {target.python}, {target.arch}, glibc {target.glibc}")
        for part in _artefacts(site, target, makers.source):
            kept = parts.setdefault((part.entry.kind, part.entry.name), part)
            parts[part.entry.kind, part.entry.name] = min(kept, part, key=_least_glibc)
    return [*parts.values(), *boxed, *_models(site, makers), *_operators(makers.packages(operators), operators)]


def _least_glibc(part: Part) -> tuple[int, ...]:
    return glibc(part.entry.target) if part.entry.target else (0,)


def _artefacts(site: Site, target: Target, source: ArtefactSource) -> Iterator[Part]:
    yield _artefact(Kind.RELEASE, source.release(site.version, target), target)
    yield _artefact(Kind.UV, source.uv(target), replace(target, python=ANY_PYTHON))
    # Where workers are containers, their images have it.
    bare = [host for host in site.hives if host.container_engine is None or host.fallback is not None]
    own = {engine.name for engine in site.command_engines}
    for name in dict.fromkeys(name for host in bare for name in host.engines if name not in own):
        engine = source.engine(name, DEFAULT_VARIANT, target)
        least = _engine_target(engine)
        if glibc(least) > glibc(target):
            raise ArtefactError(
                f"engine {engine.id} built here needs glibc {least.glibc} and the target has {target.glibc}: "
                "make the bundle on a machine with the target's release of its distribution, or an older one"
            )
        yield _artefact(Kind.ENGINE, engine, least, f"{name} {DEFAULT_VARIANT}")


def _artefact(kind: Kind, artefact: Artefact, target: Target, of: str = "") -> Part:
    path = f"{FOLDERS[kind]}/{artefact.archive.name}"
    made = Entry(
        kind=kind, name=artefact.id, path=path, size=artefact.size, sha256=artefact.sha256, of=of, target=target
    )
    return Part(made, artefact.archive)


def _engine_target(engine: Artefact) -> Target:
    """Return the least host that an engine runs on, as it says itself."""
    try:
        with tarfile.open(engine.archive, "r:") as tar:
            stream = tar.extractfile("engine.json")
            facts = json.load(stream) if stream else {}
        return Target(python=facts.get("python", ANY_PYTHON), arch=facts["arch"], glibc=facts["glibc"])
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise ArtefactError(
            f"{engine.archive} is no engine ({error}); remove it and run the same command again"
        ) from error


def _models(site: Site, makers: Makers) -> Iterator[Part]:
    done: set[str] = set()
    for model in site.models:
        source = identity(model.source)
        if source in done or not (model.copied or model.fetched):
            continue
        done.add(source)
        for held in makers.source.model(model) or makers.download(site, model):
            file, path = held.file, f"{FOLDERS[Kind.MODEL]}/sha256-{held.file.sha256}"
            entry = Entry(kind=Kind.MODEL, name=file.name, path=path, size=file.size, sha256=file.sha256, of=source)
            yield Part(entry, held.path)


def _operators(wheels: tuple[Path, ...], target: Target) -> Iterator[Part]:
    folder = FOLDERS[Kind.OPERATOR]
    for path in wheels:
        wheel = f"{folder}/{operator.WHEELS}/{path.name}"
        size, digest = path.stat().st_size, file_sha256(path)
        yield Part(Entry(kind=Kind.OPERATOR, name=path.name, path=wheel, size=size, sha256=digest, target=target), path)
    for name, text in operator.texts(wheels, target).items():
        part = written(Kind.OPERATOR, name, f"{folder}/{name}", text)
        yield replace(part, entry=replace(part.entry, target=target))


def _placed(part: Part, draft: Path, before: Path) -> Entry:
    """Put a part into the draft; what is there must be what was announced, whatever happened meanwhile."""
    entry, final = part.entry, draft / part.entry.path
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() or _kept(entry, before / entry.path, final):
        return entry
    if isinstance(part.content, str):
        final.write_text(part.content, encoding="utf-8")
    else:
        _copied(part.content, final)
    if file_sha256(final) != entry.sha256:
        raise BundleError(f"{part.content} changed while it was copied; run the same command again")
    return entry


def _copied(source: Path, final: Path) -> None:
    """Copy a file; what is wrong with the file itself is a BundleError, what is wrong with the folder an OSError."""
    try:
        # No link: whoever changed the bundle would change the cache.
        shutil.copyfile(source, final)
    except OSError as error:
        # A copy that fails on the way names both files, and only its reason says whose fault it is.
        if error.filename != str(source) or error.errno in NO_ROOM:
            raise
        raise BundleError(
            f"cannot copy {source} into the bundle: {error.strerror}; run the same command again"
        ) from error


def _kept(entry: Entry, old: Path, final: Path) -> bool:
    """Say whether the bundle that is replaced has the same file, and take it from there: models are large."""
    try:
        same = not old.is_symlink() and old.is_file() and old.stat().st_size == entry.size
        if not same or file_sha256(old) != entry.sha256:
            return False
        os.link(old, final)
    except OSError:
        # It cannot be read, or is on a file system without links, as sticks have.
        return False
    return True


def _seal(draft: Path, manifest: bytes) -> None:
    (draft / MANIFEST).write_bytes(manifest)
    text = f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"
    (draft / MANIFEST_HASH).write_text(text, encoding="ascii")
