"""By what the host's rules know a worker's network and its containers."""

import re

import pytest

from rbee_runtime.worker_bridge import MAC_PREFIX, bridge_of, mac_of


@pytest.mark.parametrize(
    ("network", "bridge"),
    [
        ("rbee-workers", "rbee-workers"),
        ("fifteen-letters", "fifteen-letters"),
        ("rbee-workers-of-two", "rbee-wo-b2f265d"),
        ("rbee-workers-of-three", "rbee-wo-ec7f198"),
    ],
)
def test_a_bridge_has_a_name_that_linux_takes(network: str, bridge: str) -> None:
    """It is the network's where that has at most 15 characters, else one of its own that never changes."""
    assert bridge_of(network) == bridge
    assert len(bridge) <= 15


def test_every_worker_has_its_own_address_of_our_kind() -> None:
    """It is a local one of a single card, always the same for a worker, and begins as the rules expect."""
    found = {worker: mac_of(worker) for worker in ("smol-0a1b2c", "smol-0a1b2d", "w")}
    assert len(set(found.values())) == len(found)
    assert all(re.fullmatch(f"{MAC_PREFIX}(:[0-9a-f]{{2}}){{3}}", each) for each in found.values())
    assert int(MAC_PREFIX[:2], 16) & 0b11 == 0b10
    assert found["w"] == mac_of("w") == "02:72:62:50:e7:21"
