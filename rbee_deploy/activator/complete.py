"""Whether all of a generation is on this host, before anything is changed for it."""

from rbee_deploy.activator import blobs, files, images, quadlets, records
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports


def load(generation: str) -> Generation:
    """Return a generation all of which is here, or raise ActivationError before anything is changed."""
    try:
        wanted = records.load(generation)
        for file in wanted.files:
            blobs.read(file.sha256, secret=file.secret)
            files.ids(file)
    except ValueError as error:
        raise ActivationError(str(error)) from error
    if not (ports.RELEASES / wanted.release / "release.json").is_file():
        raise ActivationError(f"release {wanted.release} is not installed here; run the deploy")
    if lacking := images.missing(wanted):
        raise ActivationError(f"the image {lacking[0]} is not on this host any more; run the deploy")
    quadlets.check(wanted)
    return wanted
