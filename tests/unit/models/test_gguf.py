"""The first look at a model file."""

import struct
from pathlib import Path

import pytest

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.gguf import GgufHeader, read_header


def header(*, magic: bytes = b"GGUF", version: int = 3, tensors: int = 1, metadata: int = 1, order: str = "<") -> bytes:
    return struct.pack(f"{order}4sIQQ", magic, version, tensors, metadata)


def test_a_header_is_read(tmp_path: Path) -> None:
    """Version and counts of a file that is long enough come back."""
    path = tmp_path / "model"
    path.write_bytes(header(tensors=2, metadata=3) + b"\0" * 200)
    assert read_header(path) == GgufHeader(version=3, tensors=2, metadata=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a GGUF model: it starts with b''"),
        (b"PK\x03\x04" + b"\0" * 100, "is not a GGUF model: it starts with b'PK"),
        (b"GGUF\x03\0\0", "is cut off after 7 bytes"),
        (header()[:-1], "is cut off after 23 bytes"),
        (header(), "is cut off: 24 bytes, but its header alone needs 61"),
        (header(order=">") + b"\0" * 100, "is a big-endian GGUF"),
        (header(version=1) + b"\0" * 100, "is GGUF version 1"),
        (header(version=4) + b"\0" * 100, "is GGUF version 4"),
        (header(tensors=0) + b"\0" * 100, "is damaged: its header names 0 tensors"),
        (header(tensors=2**63) + b"\0" * 100, "is damaged"),
        (header(metadata=2**64 - 1) + b"\0" * 100, "is damaged"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Each way of not being a GGUF gets a sentence with the file's name."""
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ModelStoreError, match=message) as refusal:
        read_header(path)
    assert str(path) in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No file, and a folder in its place, are errors with the path."""
    with pytest.raises(ModelStoreError, match=r"cannot read the model file .*gone: No such file"):
        read_header(tmp_path / "gone")
    with pytest.raises(ModelStoreError, match="Is a directory"):
        read_header(tmp_path)
