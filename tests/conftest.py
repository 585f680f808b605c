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


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep tests that share something expensive on one process: a deployed fleet, or what their file sets up."""
    item.add_marker(pytest.mark.xdist_group(_group(item)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that take longest; this runs after the shuffle, so order within a group stays random."""
    items.sort(
        key=lambda item: (not _shares_fleet(item), item.get_closest_marker("lab") is None, not _starts_much(item))
    )


def _group(item: pytest.Item) -> str:
    return "deployed" if _shares_fleet(item) else item.nodeid.partition("::")[0].replace("/", ".")


def _shares_fleet(item: pytest.Item) -> bool:
    return "deployed" in getattr(item, "fixturenames", ())


def _starts_much(item: pytest.Item) -> bool:
    return item.nodeid.startswith(
        ("tests/fleet/", "tests/unit/queen/test_restart", "tests/unit/hive/test_hive_program")
    )
