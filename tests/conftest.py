"""What every test may ask for: the real engine and the real small model, made once into the cache."""

from pathlib import Path

import pytest

from rbee_deploy.local import install_engine
from rbee_deploy.model_files import lab_model


@pytest.fixture(scope="session")
def llama_engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the llama-cpp engine's folder for the running Python (compiled at first, minutes; then unpacked)."""
    return install_engine(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def smol_model() -> Path:
    """Return SmolLM2-135M-Instruct as a GGUF file."""
    return lab_model()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share an expensive fixture on one process, and begin with those that take longest.

    Runs after the shuffle, so that order within a group stays random.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(
        key=lambda item: (not _shares_fleet(item), item.get_closest_marker("lab") is None, not _starts_much(item))
    )


def _group(item: pytest.Item) -> str:
    return "deployed" if _shares_fleet(item) else item.nodeid.partition("::")[0]


def _shares_fleet(item: pytest.Item) -> bool:
    return "deployed" in getattr(item, "fixturenames", ())


def _starts_much(item: pytest.Item) -> bool:
    return item.nodeid.startswith(
        ("tests/fleet/", "tests/unit/queen/test_restart", "tests/unit/hive/test_hive_program")
    )
