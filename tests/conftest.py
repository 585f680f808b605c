"""What every test may ask for: the real engine and the real small model, made once into the cache."""

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from rbee_deploy.local import install_engine
from rbee_deploy.model_files import lab_model
from rbee_runtime import logs
from tests.failures import AtOnce
from tests.faults.rows import FULL
from tests.sampling import left_out
from tests.scheduling import SHARED, ByFleet


def pytest_configure(config: pytest.Config) -> None:
    """Hear Ctrl-C, for the tests of it: what a shell starts in the background ignores it, and so would its children."""
    config.pluginmanager.register(AtOnce(config.pluginmanager))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def libraries_log_as_before() -> Iterator[None]:
    """Take back what a program did in this process to the logs of libraries: the next test reads standard error."""
    yield
    for handler in logging.getLogger().handlers[:]:
        if type(handler).__module__ == logs.__name__:
            logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="session")
def llama_engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the llama-cpp engine's folder for the running Python (compiled at first, minutes; then unpacked)."""
    return install_engine(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def smol_model() -> Path:
    """Return SmolLM2-135M-Instruct as a GGUF file."""
    return lab_model()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Give files to processes as a whole, and files that share one deployed fleet together."""
    return ByFleet(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; this runs after the shuffle, so order within a file stays random."""
    if not FULL:
        left = left_out(config, items)
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    items.sort(
        key=lambda item: (not _shares_fleet(item), item.get_closest_marker("lab") is None, not _starts_much(item))
    )


def _shares_fleet(item: pytest.Item) -> bool:
    return "deployed" in getattr(item, "fixturenames", ()) or item.nodeid.partition("::")[0] in SHARED


def _starts_much(item: pytest.Item) -> bool:
    return item.nodeid.startswith(
        ("tests/fleet/", "tests/unit/queen/test_restart", "tests/unit/hive/test_hive_program")
    )
