"""Servers that workers can have as engines, made into the cache; `python -m tests.served_engines` makes them all."""

import sys

from rbee_deploy.artefacts import Target
from rbee_deploy.engine_builds import BUILDS
from rbee_deploy.engines import build_engine
from rbee_deploy.errors import ArtefactError
from rbee_deploy.local import DEFAULT_VARIANT
from tests.safetensors_model import safetensors_model

SERVED = ("llama-server", "vllm")
_NO_TORCH = "No matching distribution found for torch"


def missing(name: str) -> str:
    """Return why an engine cannot be had on this machine, or "" once it is in the cache.

    Of PyTorch for processors there is one wheel, for one Python, which not every index has.
    """
    build, here = BUILDS[name, DEFAULT_VARIANT], Target.this_machine()
    if build.python not in {"", here.python}:
        return f"{name} is there for Python {build.python}, and this is {here.python}"
    try:
        build_engine(name, DEFAULT_VARIANT, here)
    except ArtefactError as error:
        if _NO_TORCH not in str(error):
            raise
        return f"{name} needs a wheel of PyTorch for processors, and pip finds none here"
    return ""


if __name__ == "__main__":
    safetensors_model()
    for each in SERVED:
        sys.stdout.write(f"engine {each}: {missing(each) or 'in the cache'}\n")
