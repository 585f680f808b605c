"""The images that there are; pure."""

from dataclasses import dataclass
from enum import StrEnum

from rbee_deploy.site import BUILT_IN_ENGINE
from rbee_runtime import ports


class Variant(StrEnum):
    """What a worker of llama.cpp computes on; `engine.json` begins its own `variant` with this."""

    CPU = "cpu"
    CUDA12 = "cuda12"
    CUDA13 = "cuda13"
    ROCM = "rocm"
    VULKAN = "vulkan"


class Kind(StrEnum):
    """An image, by its name without `rbee-`; each is a target of `containerfiles/Containerfile`."""

    QUEEN = "queen"
    HIVE = "hive"
    WORKER_LLAMA_CPP = "worker-llama-cpp"
    WORKER_VLLM = "worker-vllm"

    @property
    def engine(self) -> str:
        """Return the model engine that is in it, "" in those without one."""
        return _ENGINES.get(self, "")

    @property
    def varied(self) -> bool:
        """Say whether it comes in variants; the others are what their base makes of them."""
        return self is Kind.WORKER_LLAMA_CPP

    def label(self, version: str, variant: str = "", model: str = "") -> str:
        """Return what tells images of a kind apart: the version, another variant than the usual one, a model inside."""
        return "-".join(filter(None, (version, "" if variant in USUAL_VARIANTS else variant, model)))

    def tag(self, version: str, variant: str = "", model: str = "") -> str:
        """Return the name under which people see it in lists of images."""
        return f"localhost/rbee-{self.value}:{self.label(version, variant, model)}"


@dataclass(frozen=True)
class Base:
    """What an image is built on where nobody names another, and the Python and C library in that."""

    image: str
    python: str
    glibc: str


USUAL = (Kind.QUEEN, Kind.HIVE, Kind.WORKER_LLAMA_CPP)
"""What is built where nobody says what."""

USUAL_VARIANTS = ("", Variant.CPU)
"""Those that a host gets where its folder of images has several."""

PLAIN = Base("python:3.13-slim-trixie", python="3.13", glibc="2.36")
VLLM = Base("vllm/vllm-openai:v0.32.0", python="3.12", glibc="2.35")

ROLE_IMAGES = {"queen": Kind.QUEEN, "hive": Kind.HIVE}
"""What a role runs from on a host where it is in a container."""

USER = 65532
"""Whose processes and volumes are those of images, by number, where nobody says otherwise."""

_ENGINES = {Kind.WORKER_LLAMA_CPP: "llama-cpp", Kind.WORKER_VLLM: "vllm"}
ENGINES_INSIDE = ports.ENGINES
"""Where an image has its engine; as hosts have theirs."""

ENGINE_OF_BASE = "vllm-of-base"
"""The folder there of an engine that came with the base."""


def base_of(kind: Kind) -> Base:
    """Return what an image is built on where nobody names another."""
    return VLLM if kind is Kind.WORKER_VLLM else PLAIN


def served_by(kind: Kind) -> tuple[str, ...]:
    """Return the model engines for which workers are started from an image; the built-in one is in each."""
    return (BUILT_IN_ENGINE, kind.engine) if kind.engine else ()
