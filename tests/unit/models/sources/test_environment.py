import pytest

from rbee_runtime.errors import ReferenceFormError
from rbee_runtime.models.references import Scheme, parse_source
from rbee_runtime.models.sources.environment import from_environment


@pytest.mark.parametrize(
    ("registry", "name", "scheme", "place", "path"),
    [
        ("registry.example/models", "bee:v1", Scheme.OCI, "registry.example", "models/bee"),
        ("registry.example:5000/", "acme/bee", Scheme.OCI, "registry.example:5000", "acme/bee"),
        ("s3://models", "llama-3-70b", Scheme.S3, "models", "llama-3-70b"),
        ("https://files.example/m", "bee.gguf", Scheme.HTTPS, "files.example", "/m/bee.gguf"),
    ],
)
def test_the_environment_names_a_source(registry: str, name: str, scheme: Scheme, place: str, path: str) -> None:
    """Both variables together are a reference that the store understands."""
    source = from_environment({"MODEL_REGISTRY": registry, "MODEL_NAME": name})
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
