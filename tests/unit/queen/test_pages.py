"""What pages of docs/ tell people to type does what they say, with the queen of a laptop."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pages import Block, read, said
from tests.ports import free_ports
from tests.unit.queen.test_laptop import Queen, root
from tests.unit.queen.units import PATIENCE, ROOT

__all__ = ["root"]

pytestmark = pytest.mark.slow
PAGES = ("keys.md", "routing.md")


@pytest.fixture
def queen(root: Path) -> Iterator[Queen]:
    """Give a queen that serves the model of the page."""
    made = Queen(root, free_ports(2)[0], model="echo=fake:tokens=3")
    yield made
    made.end(signal.SIGINT)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_true(queen: Queen, tmp_path: Path, page: str) -> None:
    """Every command ends with the stated status and prints what the page says."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RBEE_URL": queen.url,
        "RBEE_API_KEY": queen.key,
    }
    for block in read(ROOT / "docs" / page):
        assert isinstance(block, Block)
        done = subprocess.run(
            ["sh", "-e", "-c", block.script],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            timeout=PATIENCE,
        )
        output = said(done.stdout)
        assert done.returncode == block.status, output
        assert block.expected.fullmatch(output), output
