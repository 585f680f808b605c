"""What the options of `rbee-deploy images` ask for, and what of them does not go together."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import pytest

from rbee_deploy.artefacts import Target
from rbee_deploy.cli import imaging, parser
from rbee_deploy.cli.imaging import Order
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images.kinds import USUAL, Kind, Variant

LLAMA, VLLM = (Kind.WORKER_LLAMA_CPP,), (Kind.WORKER_VLLM,)
PLAIN = "python:3.13-slim-trixie"
CUDA = "--variant cuda12 --engine e.tar --base cuda"


def order(words: str) -> Order:
    """Return what a command line asks for."""
    return imaging.order(parser().parse_args(["images", "--out", "x", *words.split()]))


@pytest.mark.parametrize(
    ("words", "kinds", "variant", "base", "python"),
    [
        ("", USUAL, Variant.CPU, PLAIN, "3.13"),
        ("--base mine --python 3.12", USUAL, Variant.CPU, "mine", "3.12"),
        ("--only queen --only queen", (Kind.QUEEN,), Variant.CPU, PLAIN, "3.13"),
        (CUDA, LLAMA, Variant.CUDA12, "cuda", "3.13"),
        (f"{CUDA} --only worker-llama-cpp --python 3.12", LLAMA, Variant.CUDA12, "cuda", "3.12"),
        ("--only worker-vllm", VLLM, Variant.CPU, "vllm/vllm-openai:v0.32.0", "3.12"),
        ("--only worker-vllm --base cuda --engine e.tar", VLLM, Variant.CPU, "cuda", "3.12"),
    ],
)
def test_options_say_what_is_built_on_what(
    words: str, kinds: tuple[Kind, ...], variant: Variant, base: str, python: str
) -> None:
    """Without any it is queen, hive and the worker for processors; each base has its Python."""
    made = order(words)
    assert (made.kinds, made.variant, made.base, made.target.python) == (kinds, variant, base, python)


def test_a_base_with_an_older_c_library_gets_fitting_wheels() -> None:
    """That of vLLM has an older one than Debian 12."""
    assert order("").target.glibc == Target.glibc
    assert order("--only worker-vllm").target.glibc == "2.35"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--variant rocm", "this version builds no engine for rocm: give one that is built elsewhere by --engine"),
        ("--variant rocm --engine e.tar", "--variant rocm needs --base IMAGE: one with python3"),
        (f"{CUDA} --only hive", "--variant cuda12 is for worker-llama-cpp alone: leave --only out"),
        ("--only hive --only worker-vllm", "worker-vllm has a base of its own: build it by a run of its own"),
        ("--only hive --engine e.tar", "--engine is for images of workers, and --only names none"),
        ("--only worker-vllm --bake a=b", "--bake puts a model into worker-llama-cpp: name that by --only as well"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(words: str, said: str) -> None:
    """It is said before anything is built."""
    with pytest.raises(ArtefactError, match=said):
        order(words)
