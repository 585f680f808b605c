"""A worker that fetches its own model at its start, as the environment names it."""

import asyncio
from pathlib import Path

import pytest

from rbee_runtime.errors import ConfigError
from rbee_runtime.models import registry
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
