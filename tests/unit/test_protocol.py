"""Messages as they are read."""

import msgspec
import pytest

from rbee_runtime.protocol import ModelFile, decode
from tests.unit.damage import UNREADABLE


@pytest.mark.parametrize("data", UNREADABLE)
def test_whatever_is_wrong_with_a_message_is_one_error(data: bytes) -> None:
    """Callers that know of `msgspec.DecodeError` know of everything."""
    with pytest.raises(msgspec.DecodeError):
        decode(data, ModelFile)


def test_a_sound_message_is_read() -> None:
    """Whatever else it says."""
    found = decode(b'{"name": "n", "sha256": "s", "size": 1, "mood": "good"}', ModelFile)
    assert found == ModelFile(name="n", sha256="s", size=1)
