"""A model of several files: all its content first, then names for it, then the manifest."""

import json
import subprocess
from pathlib import Path

import pytest
from pyinfra.context import ctx_host, ctx_state
from pyinfra_testing.util import FakeState, create_host

import tests.unpatched  # noqa: F401 - before pyinfra's own test tools
from rbee_deploy.operations import models, root
from rbee_deploy.operations.models import Seed
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelSpec

FILES = (
    ModelFile(name="m-00001-of-00002.gguf", sha256="ab" * 32, size=4),
    ModelFile(name="parts/m-00002-of-00002.gguf", sha256="cd" * 32, size=4),
)


def seeds_of(store: Path) -> list[Seed]:
    return [Seed("org/m", Path("LICENSE"), f.name, f.sha256, f.size, str(store), FILES) for f in FILES]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the scripts that bring the model to a host which has nothing."""
    monkeypatch.setattr(root, "as_root", lambda script, **_: script)
    state = FakeState()
    host = create_host(state, facts={"state.RbeeState": {"asked=this host": {"sudo": "ok"}}})
    with ctx_state.use(state), ctx_host.use(host):
        return [str(command) for command in models.seeded._inner(seeds=seeds_of(Path("/srv/m")))]


def test_the_manifest_comes_once_and_last(sent: list[str]) -> None:
    """What has a manifest is complete, so it waits for the last file."""
    assert ["manifests/" in script for script in sent] == [False] * (len(sent) - 1) + [True]
    assert all(any(f"blobs/sha256-{file.sha256}" in script for script in sent[:-1]) for file in FILES)


def test_a_store_finds_the_model_under_its_names(tmp_path: Path) -> None:
    """The script leaves what a hive's own pull would: a manifest that names all, and links that lead to the content."""
    store = ModelStore(tmp_path)
    store.layout.prepare()
    for file in FILES:
        store.path_of(file).write_bytes(b"GGUF")
    first = seeds_of(tmp_path)[0]
    script, text = models.describe(first), models.manifest(first)
    subprocess.run(["sh", "-c", script], cwd=tmp_path, input=text + "\n", text=True, check=True)
    found = store.find(ModelSpec(name="org/m", source="hf:org/m", files=FILES))
    assert found is not None
    assert found.size == json.loads(text)["size"] == 8
    assert store.engine_path(found).resolve() == store.path_of(FILES[0])
    assert (store.layout.view("org/m") / FILES[1].name).resolve() == store.path_of(FILES[1])
