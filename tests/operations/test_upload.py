"""How a file travels: in blocks, from any offset, as bytes."""

from pathlib import Path

import pytest

from rbee_deploy.elevation import stdin
from rbee_deploy.operations.upload import Slice
from rbee_deploy.secrets import Secret

CONTENT = bytes(range(256)) * 9000


@pytest.mark.parametrize(("offset", "length"), [(0, len(CONTENT)), (0, 1), (1_500_000, 700_000), (100, 0)])
def test_a_slice_is_the_bytes_of_the_file(tmp_path: Path, offset: int, length: int) -> None:
    """Blocks joined are the file from `offset` on, whatever bytes it holds."""
    source = tmp_path / "model.gguf"
    source.write_bytes(CONTENT)
    blocks = [block.encode() for block in Slice(source, offset, length)]
    assert b"".join(blocks) == CONTENT[offset : offset + length]


def test_a_file_that_became_shorter_ends_early(tmp_path: Path) -> None:
    """A file cut short during the upload sends what there is, which the host's size check then refuses."""
    source = tmp_path / "model.gguf"
    source.write_bytes(b"abc")
    assert b"".join(block.encode() for block in Slice(source, 0, 10)) == b"abc"


def test_standard_input_shows_nothing() -> None:
    """Neither password nor content appears in anything that prints an input."""
    given = stdin(["canary-content"], password=Secret("canary-password"))
    assert "canary" not in f"{given} {given!r} {given!s}"
    assert given is not None
    assert list(given.readlines())[0::2] == ["canary-password", "canary-content"]
