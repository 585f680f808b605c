"""What a queen.yaml may say of time."""

import pytest

from rbee_runtime import config
from rbee_runtime.config import QueenConfig
from rbee_runtime.errors import ConfigError
from rbee_runtime.gateway.seam import Limits


def test_limits_that_nobody_set_are_those_of_the_relay() -> None:
    """A queen whose file names no limit gives workers the time that the relay gives by itself."""
    settings, limits = QueenConfig(), Limits()
    assert (settings.first_byte_seconds, settings.silence_seconds) == (limits.first_byte, limits.idle)


@pytest.mark.parametrize(
    ("field", "value"),
    [("first_byte_seconds", 0), ("silence_seconds", -1), ("queue_wait_seconds", -0.5), ("first_byte_seconds", "soon")],
)
def test_a_time_that_is_none_is_refused(field: str, value: object) -> None:
    """The sentence names the file and the setting."""
    with pytest.raises(ConfigError, match=rf"queen\.yaml: {field}: Input should be"):
        config.parse({field: value}, QueenConfig, where="queen.yaml")
