"""The source of a worker that is started by hand from a registry: `MODEL_REGISTRY` and `MODEL_NAME`."""

from collections.abc import Mapping

from rbee_runtime.errors import ReferenceFormError

REGISTRY = "MODEL_REGISTRY"
NAME = "MODEL_NAME"


def from_environment(env: Mapping[str, str]) -> str | None:
    """Return the model source that the environment names, or None where it names none.

    `MODEL_REGISTRY=host/path` is an OCI registry; with a scheme (`s3://bucket`) it is a place of that kind.
    Raises ReferenceFormError when one of the two is missing.
    """
    registry = env.get(REGISTRY, "").strip().rstrip("/")
    name = env.get(NAME, "").strip().strip("/")
    if not registry:
        return None
    if not name:
        raise ReferenceFormError(f"{REGISTRY} is set but {NAME} is not: say which model of {registry} to take")
    prefix = registry if "://" in registry else f"oci://{registry}"
    return f"{prefix}/{name}"
