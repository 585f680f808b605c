"""The pinned requirement files: reading them and choosing what applies to a target."""

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker

from rbee_deploy.artefacts import Target
from rbee_deploy.errors import ArtefactError

_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?:\s*;\s*(?P<marker>.*?))?(?P<hashes>(?:\s+--hash=\S+)+)"
)


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One distribution at one version; `hashes` are `sha256:…` of every file that may be used for it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str | None = None

    def line(self) -> str:
        """Return the requirement line without its marker."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash={digest}" for digest in self.hashes)])


def folder() -> Path:
    """Return where the requirement files are: in the checkout, or beside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent / "requirements"
    return checkout if checkout.is_dir() else package / "requirements"


def read(name: str, target: Target | None = None) -> tuple[Pin, ...]:
    """Return the pins of the requirement file `name`, only those that apply to `target` if one is given."""
    path = folder() / name
    try:
        pins = parse(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise ArtefactError(f"cannot read {path}: {error.strerror}; reinstall rbee or use a checkout") from error
    return pins if target is None else tuple(pin for pin in pins if applies(pin, target))


def parse(text: str, *, where: str) -> tuple[Pin, ...]:
    """Return the pins in `text`; a line that is not pinned by version and hash raises ArtefactError."""
    lines = text.replace("\\\n", " ").splitlines()
    return tuple(_parsed(line, where) for line in map(str.strip, lines) if line and not line.startswith("#"))


def _parsed(line: str, where: str) -> Pin:
    match = _PIN.fullmatch(line)
    if match is None:
        raise ArtefactError(f"{where}: {line[:60]!r} is not pinned by version and hash; run scripts/refresh-pins")
    hashes = tuple(word.removeprefix("--hash=") for word in match["hashes"].split())
    return Pin(name=match["name"], version=match["version"], hashes=hashes, marker=match["marker"])


def applies(pin: Pin, target: Target) -> bool:
    """Say whether the pin's marker holds on a Linux host of this target."""
    return pin.marker is None or Marker(pin.marker).evaluate(
        {
            "implementation_name": "cpython",
            "implementation_version": f"{target.python}.0",
            "os_name": "posix",
            "platform_machine": target.arch,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{target.python}.0",
            "python_version": target.python,
            "sys_platform": "linux",
        }
    )


def only(pins: tuple[Pin, ...], name: str) -> Pin:
    """Return the pin of distribution `name`, which must be there once."""
    found = [pin for pin in pins if pin.name == name]
    if len(found) != 1:
        raise ArtefactError(f"the requirement files pin {name} {len(found)} times; run scripts/refresh-pins")
    return found[0]
