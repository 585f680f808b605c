"""The images that there are; pure."""

from enum import StrEnum

from rbee_deploy.site import BUILT_IN_ENGINE
from rbee_runtime import ports


class Kind(StrEnum):
    """An image, by its name without `rbee-`; each is a target of `containerfiles/Containerfile`."""

    QUEEN = "queen"
    HIVE = "hive"
    WORKER_LLAMA_CPP = "worker-llama-cpp"

    @property
    def engine(self) -> str:
        """Return the model engine that is in it, "" in those without one."""
        return _ENGINES.get(self, "")

    def tag(self, version: str) -> str:
        """Return the name under which people see it in lists of images."""
        return f"localhost/rbee-{self.value}:{version}"


ROLE_IMAGES = {"queen": Kind.QUEEN, "hive": Kind.HIVE}
"""What a role runs from on a host where it is in a container."""

_ENGINES = {Kind.WORKER_LLAMA_CPP: "llama-cpp"}
ENGINES_INSIDE = ports.ENGINES
"""Where an image has its engine; as hosts have theirs."""


def served_by(kind: Kind) -> tuple[str, ...]:
    """Return the model engines for which workers are started from an image; the built-in one is in each."""
    return (BUILT_IN_ENGINE, kind.engine) if kind.engine else ()
