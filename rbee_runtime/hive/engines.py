"""Engines that can be started: artefacts on this host, or those in the images of workers.

An artefact is a folder `<engines_dir>/<name>-…` with `engine.json`. The newest version of a name that fits wins, among
those that the settings name where they name any of that engine.
"""

import importlib.util
import os
import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rbee_runtime.config import WorkerImage
from rbee_runtime.devices import Scan
from rbee_runtime.protocol import Message, decode

BUILT_IN = "fake"
"""Comes with the release and needs no artefact."""

_PACKAGES = {"llama-cpp": "llama_cpp"}
"""What `pip install 'rbee[llama-cpp]'` brings, by engine."""

_LEVEL = re.compile(r"x86[-_]64[-_]v([1-4])")
_CUDA = re.compile(r"cuda-?([0-9]+)")
_NAME = re.compile(r"-(?=[0-9])")
"""Ends the name of an engine in the name of its folder, which goes on with the version."""


class EngineManifest(Message, frozen=True, kw_only=True):
    """What the hive reads of `engine.json`; the rest is the worker's.

    `variant` says what it was built for, such as `cpu-x86_64_v3`; `glibc` the least that it needs.
    """

    name: str
    version: str
    variant: str = ""
    arch: str = ""
    glibc: str = ""


@dataclass(frozen=True)
class HostFacts:
    """What engines are built for; what is None is not known and not judged.

    `level` is the x86-64 micro-architecture level, `cuda` the newest CUDA that the driver serves (0: no NVIDIA GPU).
    """

    arch: str
    glibc: str
    level: int | None = None
    cuda: int | None = None


@dataclass(frozen=True)
class Engines:
    """The folder of each engine that can be started here (None for a built-in one), and why others cannot."""

    usable: Mapping[str, Path | None]
    unfit: Mapping[str, str]


def this_host(scan: Scan | None) -> HostFacts:
    """Return the facts of this host as far as its devices have been looked at."""
    glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    devices = scan.devices if scan is not None else ()
    levels = (_LEVEL.search(device.attributes.get("baseline", "")) for device in devices if device.kind == "cpu")
    level = next((int(found[1]) for found in levels if found is not None), None)
    drivers = [device.attributes.get("cuda", "") for device in devices if device.kind == "nvidia"]
    cuda = max((_version(text)[:1] for text in drivers if text), default=(0,))[0] if devices else None
    silent = bool(drivers) and not any(drivers)
    complains = scan is not None and any(kind == "nvidia" for kind, _ in scan.problems)
    return HostFacts(platform.machine(), glibc, level, None if silent or (complains and not cuda) else cuda)


def in_images(images: Mapping[str, WorkerImage]) -> Engines:
    """Return the engines that images hold; what an image needs of a host was judged before it came here."""
    return Engines({name: Path(image.engine_dir) if image.engine_dir else None for name, image in images.items()}, {})


def installed(engines_dir: Path, host: HostFacts, chosen: Collection[str] = ()) -> Engines:
    """Return the engines in a folder, judged by a host's facts; of those in `chosen` (folder names) no others."""
    found: dict[str, tuple[tuple[int, ...], str, Path]] = {}
    unfit = {_engine_of(folder): _missing(engines_dir / folder) for folder in sorted(chosen)}
    held_to = frozenset(unfit)
    for path in sorted(engines_dir.glob("*/engine.json")):
        manifest, folder = _read(path), path.parent.name
        name = _engine_of(folder) if isinstance(manifest, str) else manifest.name
        if name in held_to and folder not in chosen:
            continue
        if isinstance(manifest, str):
            unfit[name] = manifest
            continue
        said = misfit(manifest, host)
        if said:
            unfit[name] = said
            continue
        rank = (_version(manifest.version), folder, path.parent)
        found[name] = max(rank, found.get(name, rank))
    beside = {name: None for name in _beside() if name not in unfit}
    usable = {BUILT_IN: None, **beside, **{name: rank[2] for name, rank in sorted(found.items())}}
    return Engines(usable, {name: said for name, said in unfit.items() if name not in usable})


def _beside() -> list[str]:
    """Return the engines that are installed beside rbee itself, as on a laptop; a release of the deployer has none."""
    return [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is not None]


def misfit(engine: EngineManifest, host: HostFacts) -> str:
    """Return why an engine cannot run on a host, or ""."""
    what = f"engine {engine.name} {engine.version} {engine.variant}".rstrip()
    if engine.arch and engine.arch != host.arch:
        return f"{what} is built for {engine.arch}, this host is {host.arch}; run the deploy again"
    level, cuda = _LEVEL.search(engine.variant), _CUDA.search(engine.variant)
    if level is not None and host.level is not None and int(level[1]) > host.level:
        return f"{what} needs a processor of level x86-64-v{level[1]}, this is x86-64-v{host.level}; use another host"
    if engine.glibc and _version(engine.glibc) > _version(host.glibc):
        return (
            f"{what} needs glibc {engine.glibc}, this host has {host.glibc}; upgrade its system or run the deploy again"
        )
    if cuda is not None and host.cuda is not None and int(cuda[1]) > host.cuda:
        return f"{what} needs CUDA {cuda[1]}, the driver here serves {host.cuda or 'none'}; upgrade the NVIDIA driver"
    return ""


def _engine_of(folder: str) -> str:
    return _NAME.split(folder, maxsplit=1)[0]


def _missing(folder: Path) -> str:
    return f"engine_builds names {folder}, which is no engine artefact here; run the deploy again"


def _read(path: Path) -> EngineManifest | str:
    try:
        return decode(path.read_bytes(), EngineManifest)
    except (OSError, msgspec.MsgspecError) as error:
        return f"{path} cannot be used ({error}); run the deploy again"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
