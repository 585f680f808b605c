"""A worker that fetches its own model at its start, as the environment names it."""

import asyncio
from pathlib import Path

import pytest

from rbee_runtime.errors import ConfigError, ReferenceFormError
from rbee_runtime.models import registry
from rbee_runtime.models.references import Scheme, parse_source
from rbee_runtime.models.registry import from_environment
from rbee_runtime.worker.launch import parse_arguments

from .faulty_server import faulty_server
from .gguf_builder import gguf


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("s3://models", "s3://models/m"),
        ("https://h.example/a/", "https://h.example/a/m"),
        ("oci://r.example/space", "oci://r.example/space/m"),
        ("r.example:5000/space", "oci://r.example:5000/space/m"),
        ("hf:org", "hf:org/m"),
        ("file:/models", "file:/models/m"),
        (" hf:org\n", "hf:org/m"),
    ],
)
def test_registry_and_name_make_a_source(place: str, source: str) -> None:
    """Every kind of registry and a name give one source of the grammar."""
    found = registry.wanted({"MODEL_REGISTRY": place, "MODEL_NAME": "m"})
    assert found is not None
    assert (found.name, found.source) == ("m", source)


@pytest.mark.parametrize(
    "environment", [{"MODEL_REGISTRY": "s3://b"}, {"MODEL_REGISTRY": "s3://b", "MODEL_NAME": "../m"}]
)
def test_half_a_registry_is_refused(environment: dict[str, str]) -> None:
    """A missing or hostile name is one sentence that names both variables."""
    with pytest.raises(ConfigError, match="MODEL_REGISTRY and MODEL_NAME"):
        registry.wanted(environment)


def test_a_model_baked_into_an_image_is_served_from_there(tmp_path: Path) -> None:
    """With a plain path nothing is fetched and nothing is written."""
    model = tmp_path / "m.gguf"
    model.write_bytes(gguf())
    launch = parse_arguments(["--model", str(model)], {})
    assert (launch.model_path, list(tmp_path.iterdir())) == (str(model), [model])


async def test_a_worker_by_hand_fetches_from_a_registry(tmp_path: Path) -> None:
    """The model comes from the registry once, and from the folder at the second start."""
    async with faulty_server(gguf()) as server:
        environment = {
            "MODEL_REGISTRY": server.url("/models"),
            "MODEL_NAME": "m.gguf",
            "MODELS_DIR": str(tmp_path / "models"),
        }
        for _ in range(2):
            launch = await asyncio.to_thread(parse_arguments, [], environment)
            assert launch.worker.model == "m.gguf"
    assert (Path(launch.model_path).read_bytes(), server.gets) == (gguf(), 1)  # noqa: ASYNC240 - a test folder


@pytest.mark.parametrize(
    ("given", "name", "scheme", "place", "path"),
    [
        ("registry.example/models", "bee:v1", Scheme.OCI, "registry.example", "models/bee"),
        ("registry.example:5000/", "acme/bee", Scheme.OCI, "registry.example:5000", "acme/bee"),
        ("s3://models", "llama-3-70b", Scheme.S3, "models", "llama-3-70b"),
        ("https://files.example/m", "bee.gguf", Scheme.HTTPS, "files.example", "/m/bee.gguf"),
    ],
)
def test_the_environment_names_a_source(given: str, name: str, scheme: Scheme, place: str, path: str) -> None:
    """Both variables together are a reference that the store understands."""
    source = from_environment({"MODEL_REGISTRY": given, "MODEL_NAME": name})
    parsed = parse_source(source or "")
    assert (parsed.scheme, parsed.place, parsed.path) == (scheme, place, path)


@pytest.mark.parametrize("env", [{}, {"MODEL_NAME": "bee"}, {"MODEL_REGISTRY": " ", "MODEL_NAME": "bee"}])
def test_without_a_registry_there_is_no_source(env: dict[str, str]) -> None:
    """A model's name alone means a model of this host."""
    assert from_environment(env) is None


def test_a_registry_without_a_name_is_said() -> None:
    """Half a reference is refused in one sentence."""
    with pytest.raises(ReferenceFormError, match="MODEL_NAME is not"):
        from_environment({"MODEL_REGISTRY": "registry.example"})
