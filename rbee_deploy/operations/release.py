"""Install releases, engines and uv; what is whole is never touched, what is half-made or damaged is redone."""

import shlex
from collections.abc import Callable, Iterator, Sequence

from pyinfra import host
from pyinfra.api import StringCommand, operation

from rbee_deploy import engines as engine_builds
from rbee_deploy import installs
from rbee_deploy.artefacts import Artefact
from rbee_deploy.facts.memo import observe
from rbee_deploy.operations import upload
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import as_root_command
from rbee_deploy.operations.upload import Upload
from rbee_deploy.releases import install_script
from rbee_runtime import ports

INCOMING = str(ports.PREFIX / "incoming")
TOOLS = str(ports.PREFIX / "tools")

LOCK_SECONDS = 300
"""An install takes seconds; this is for a host that swaps."""


@operation()
def installed(
    release: Artefact | Callable[[], Artefact | None] | None, uv: Artefact | Callable[[], Artefact | None] | None
) -> Iterator[StringCommand]:
    """Install a release offline into its own folder, which has its name when it is complete."""
    facts, wanted = observe(host), now(release)
    if wanted is None or wanted.id in facts.names("releases"):
        host.noop("the release is installed")
        return
    tool = now(uv)
    if tool is not None and tool.id not in facts.names("tools"):
        fetching = _upload(tool)
        yield from upload.commands(fetching, facts)
        yield as_root_command(unpack(tool, fetching, TOOLS))
    sending = _upload(wanted)
    yield from upload.commands(sending, facts)
    python = str(facts.raw.get("python_path") or "python3")
    yield as_root_command(install(wanted, sending, uv=f"{TOOLS}/{tool.id}/uv" if tool else "uv", python=python))


@operation()
def engines(artefacts: list[Artefact] | Callable[[], list[Artefact]]) -> Iterator[StringCommand]:
    """Unpack engine builds, each into its own folder, which has its name when it is complete."""
    facts = observe(host)
    missing = [artefact for artefact in now(artefacts) if artefact.id not in facts.names("engines")]
    python = str(facts.raw.get("python_path") or "python3")
    for artefact in missing:
        sending = _upload(artefact)
        yield from upload.commands(sending, facts)
        yield as_root_command(install_engine(artefact, sending, python=python))
    if not missing:
        host.noop("every engine is there")


def install(release: Artefact, sending: Upload, *, uv: str, python: str) -> str:
    """Return the script that installs an uploaded release."""
    unpacked, final = f"{INCOMING}/{release.id}.unpacked", str(ports.RELEASES / release.id)
    steps = install_script(unpacked, final, uv=uv, python=python)
    return _lines(
        _unless(installs.unless_whole(final, "release.json"), sending),
        upload.arrived(sending),
        *_untar(sending.part, unpacked),
        *(shlex.join(step) for step in steps),
        shlex.join(("rm", "-rf", unpacked, sending.part)),
    )


def install_engine(artefact: Artefact, sending: Upload, *, python: str) -> str:
    """Return the script that installs an uploaded engine build."""
    final = str(ports.ENGINES / artefact.id)
    steps = engine_builds.install_script(sending.part, final, python=python)
    return _lines(
        _unless(installs.unless_whole(final, "engine.json"), sending),
        upload.arrived(sending),
        *(shlex.join(step) for step in steps),
        shlex.join(("rm", "-f", sending.part)),
    )


def unpack(artefact: Artefact, sending: Upload, parent: str) -> str:
    """Return the script that unpacks an uploaded tar; its folder has its name only when it is complete."""
    draft, final = f"{parent}/.{artefact.id}.new", f"{parent}/{artefact.id}"
    return _lines(
        _unless(f"[ ! -e {shlex.quote(final)} ]", sending),
        upload.arrived(sending),
        *_untar(sending.part, draft),
        shlex.join(("sync", "-f", draft)),
        shlex.join(("mv", "-T", draft, final)),
        shlex.join(("rm", "-f", sending.part)),
    )


def _upload(artefact: Artefact) -> Upload:
    return Upload(artefact.archive, artefact.sha256, artefact.size, INCOMING)


def _untar(archive: str, folder: str) -> Sequence[str]:
    return (
        shlex.join(("rm", "-rf", folder)),
        shlex.join(("mkdir", "-p", "-m", "0755", folder)),
        shlex.join(("tar", "--no-same-owner", "-xf", archive, "-C", folder)),
    )


def _unless(lacking: str, sending: Upload) -> str:
    """Return the lines that wait for an install that an interrupted run left behind, and end if nothing is lacking."""
    done = f"{lacking} || {{ {shlex.join(('rm', '-f', sending.part))}; exit 0; }}"
    return f"exec 9>>{shlex.quote(f'{INCOMING}/.lock')}; flock -w {LOCK_SECONDS} 9\n{done}"


def _lines(*lines: str) -> str:
    """Return a script that stops at the first failure; the service users have to read what root installs."""
    return "\n".join(("set -e; umask 022", *lines))
