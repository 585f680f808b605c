"""Bring images of containers to a host: each is known by its id, whatever brought it."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyinfra import host
from pyinfra.api import StringCommand, operation

from rbee_deploy.activator.engines import in_shell
from rbee_deploy.facts.memo import observe
from rbee_deploy.images import pulling
from rbee_deploy.images.manifest import Image
from rbee_deploy.modes import ContainerEngine
from rbee_deploy.operations import upload
from rbee_deploy.operations.activate import activator
from rbee_deploy.operations.later import now
from rbee_deploy.operations.release import INCOMING
from rbee_deploy.operations.root import as_root_command
from rbee_deploy.operations.upload import Upload
from rbee_deploy.secrets import Secret

NO_CREDENTIALS = "{}"


@dataclass(frozen=True)
class Wanted:
    """An image, and its file on this machine; None where the host pulls it, from a mirror if one has it.

    `auth` is the file that `podman login` writes, as one line.
    """

    image: Image
    path: Path | None
    mirrors: tuple[str, ...] = ()
    auth: Secret | None = None


@operation()
def loaded(
    wanted: list[Wanted] | Callable[[], list[Wanted]],
    engine: ContainerEngine | None,
    release: str | Callable[[], str] = "",
) -> Iterator[StringCommand]:
    """Have the engine of containers load or pull the images that it has not; the activator of `release` prepares it."""
    facts = observe(host)
    missing = [each for each in now(wanted) if each.image.id not in facts.names("images")]
    if engine is None or not missing:
        host.noop("every image is there")
        return
    if engine is ContainerEngine.ROOTLESS:
        yield as_root_command(activator(now(release), "rootless", "prepare"))
    for each in missing:
        if each.path is None:
            auth = each.auth.reveal() if each.auth is not None else NO_CREDENTIALS
            yield as_root_command(pulling.pull(each.image, engine, each.mirrors), (auth,))
            continue
        image, path = each.image, each.path
        sending = Upload(path, image.sha256, image.size, INCOMING)
        yield from upload.commands(sending, facts)
        yield as_root_command(load(image, sending, engine))


def load(image: Image, sending: Upload, engine: ContainerEngine) -> str:
    """Return the script that has an engine load an uploaded image, and looks whether it is the one that was meant."""
    name, command, part = engine.program, in_shell(engine), shlex.quote(sending.part)
    broken = f"{name} could not load the image {image.tag}; make room or put {name} right there, and run it again"
    other = f"what {name} loaded is not the image {image.tag} ({image.id}); build the images again"
    return "\n".join(
        (
            "set -e",
            upload.arrived(sending),
            pulling.noted(image),
            # Not by its name: the engine's user may not read it.
            f"{command} load --quiet <{part} >/dev/null || {{ echo {shlex.quote(broken)} >&2; exit 1; }}",
            f"rm -f {part}",
            f"{command} image inspect {image.id} >/dev/null 2>&1 || {{ echo {shlex.quote(other)} >&2; exit 1; }}",
        )
    )
