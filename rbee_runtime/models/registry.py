"""A model named by the environment: a worker in a container of its own fetches it at its start.

`MODEL_REGISTRY` (`s3://bucket/models`, `https://host/path`, `oci://host/space`, `hf:org`, `file:/folder`) and
`MODEL_NAME`; `MODELS_DIR` is where it is kept. Whoever starts the worker names the registry, so that its host and that
of `AWS_ENDPOINT_URL` may be in a private network and without TLS.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from rbee_runtime import logs
from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ConfigError, RbeeError, ReferenceFormError
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.references import check_name, parse_source, shown
from rbee_runtime.models.sources import Credentials
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec

_SPARE = 1024**3
"""A container's disk often is its own: enough for its logs."""


def wanted(environment: Mapping[str, str]) -> ModelSpec | None:
    """Return the model that the environment names, None if it names none, or raise ConfigError."""
    try:
        source = from_environment(environment)
        if source is None:
            return None
        parse_source(source)
        return ModelSpec(name=check_name(environment.get("MODEL_NAME", "")), source=source)
    except RbeeError as error:
        raise ConfigError(f"MODEL_REGISTRY and MODEL_NAME: {error}") from error


def fetch(spec: ModelSpec, environment: Mapping[str, str]) -> Path:
    """Return what an engine is given of the model, fetched now if it is not kept already; RbeeError if that fails."""
    root = Path(environment.get("MODELS_DIR") or Path.home() / ".cache" / "rbee" / "models")
    store = ModelStore(root, _settings(environment))
    puller = Puller(store, credentials=_credentials(environment))
    logs.info("model_fetch", model=spec.name, source=shown(spec.source), folder=root)
    report = asyncio.run(puller.pull(spec))
    logs.info("model_ready", model=spec.name, bytes=report.size)
    return store.engine_path(report)


def from_environment(environment: Mapping[str, str]) -> str | None:
    """Return the model source that the environment names, or None where it names none.

    `MODEL_REGISTRY=host/path` is an OCI registry; with a scheme (`s3://bucket`, `hf:org`) it is a place of that kind.
    Raises ReferenceFormError when the name is missing.
    """
    registry = environment.get("MODEL_REGISTRY", "").strip().rstrip("/")
    name = environment.get("MODEL_NAME", "").strip().strip("/")
    if not registry:
        return None
    if not name:
        raise ReferenceFormError(f"MODEL_REGISTRY is set but MODEL_NAME is not: say which model of {registry} to take")
    if registry.partition(":")[0] in {"hf", "file"}:
        return f"{registry}{'' if registry.endswith(':') else '/'}{name}"
    return f"{registry if '://' in registry else f'oci://{registry}'}/{name}"


def _credentials(environment: Mapping[str, str]) -> Credentials:
    """Return the secrets of the unit or container; what only the environment has counts too."""
    folder = environment.get("CREDENTIALS_DIRECTORY", "")
    found = Credentials.read(Path(folder) if folder else None)
    given = {name: value for name, value in environment.items() if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))}
    return replace(
        found, hf_token=found.hf_token or environment.get("HF_TOKEN", ""), objects={**given, **found.objects}
    )


def _settings(environment: Mapping[str, str]) -> StoreSettings:
    urls = (environment.get(key, "") for key in ("MODEL_REGISTRY", "AWS_ENDPOINT_URL", "HF_ENDPOINT"))
    hosts = tuple(urlsplit(url).hostname or "" for url in urls if "://" in url)
    return StoreSettings(
        spare=_SPARE,
        plain_http_hosts=tuple(host for host in hosts if host),
        hf_endpoint=environment.get("HF_ENDPOINT", ""),
        offline=environment.get("HF_HUB_OFFLINE", "") == "1",
    )
