"""What every test may ask for: the real engine and the real small model, made once into the cache."""

from pathlib import Path

import pytest

from rbee_deploy.local import install_engine
from rbee_deploy.model_files import lab_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests on lab hosts in one process: their hosts are shared, and their deadlines want the cores."""
    for item in items:
        if item.get_closest_marker("lab") is not None:
            item.add_marker(pytest.mark.xdist_group("lab"))


@pytest.fixture(scope="session")
def llama_engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the llama-cpp engine's folder for the running Python (compiled at first, minutes; then unpacked)."""
    return install_engine(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def smol_model() -> Path:
    """Return SmolLM2-135M-Instruct as a GGUF file."""
    return lab_model()
