"""Engine artefacts that somebody else has built: read, and judged, before anything is made with them."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

from rbee_deploy.artefacts import Artefact, Target, file_sha256
from rbee_deploy.engines import SITE
from rbee_deploy.errors import ArtefactError

MANIFEST = "engine.json"
_MOST_BYTES = 1 << 16
_SOME_FOLDER = "/opt/rbee/engine"
_WORD = re.compile(r"[a-z0-9][A-Za-z0-9._+-]{0,63}")


def given_engine(archive: Path, name: str, target: Target, *, variant: str = "") -> Artefact:
    """Return the artefact in a tar that is laid out as ours are; ArtefactError where it is not the one that is needed.

    `variant` is what its own has to be or begin with, as `cuda12` is for `cuda12-x86_64_v3`; "" takes any. The id ends
    in the hash of the file, since what it was built from is not known.
    """
    facts = _facts(archive)
    wanted = {"name": name, "python": target.python, "arch": target.arch, "site": SITE}
    for field, value in wanted.items():
        if facts.get(field) != value:
            raise _unfit(archive, f"its {MANIFEST} says {field} {facts.get(field)!r}, and {value!r} is needed")
    version, built = str(facts.get("version")), str(facts.get("variant"))
    if not (_WORD.fullmatch(version) and _WORD.fullmatch(built)):
        raise _unfit(archive, f"its {MANIFEST} has no plain version and variant, as in '0.3.36' and 'cuda12-x86_64_v3'")
    if variant and built.partition("-")[0] != variant:
        raise _unfit(archive, f"its {MANIFEST} says variant {built!r}, and one of {variant!r} is needed")
    digest = file_sha256(archive)
    return Artefact(
        id=f"{name}-{version}-{built}-{digest[:8]}",
        archive=archive,
        sha256=digest,
        size=archive.stat().st_size,
        glibc=str(facts.get("glibc") or ""),
    )


def _facts(archive: Path) -> dict[str, Any]:
    try:
        with tarfile.open(archive) as tar:
            found: object = None
            for member in tar:
                # Raises for what would land outside the folder that it is unpacked into.
                tarfile.data_filter(member, _SOME_FOLDER)
                if member.isfile() and member.name.removeprefix("./") == MANIFEST:
                    stream = tar.extractfile(member)
                    found = json.loads(stream.read(_MOST_BYTES)) if stream is not None else None
    except OSError as error:
        raise ArtefactError(f"cannot read the engine {archive}: {error.strerror or error}; correct the path") from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _unfit(archive, str(error)) from error
    if not isinstance(found, dict):
        raise _unfit(archive, f"it has no {MANIFEST}")
    return found


def _unfit(archive: Path, why: str) -> ArtefactError:
    return ArtefactError(
        f"{archive} is not the engine that is needed: {why}; give a tar of {MANIFEST} and {SITE}/ for this Python and "
        "processor"
    )
