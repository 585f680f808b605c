"""Large files go to few hosts at a time."""

from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from rbee_deploy.uploads import UploadGate


@pytest.fixture(autouse=True)
def the_time() -> None:
    """Tell gevent how late it is: it last looked when it last ran, and counts time limits from then on."""
    gevent.get_hub().loop.update_now()


def host() -> Any:
    """Return a host as far as the gate knows it."""
    return SimpleNamespace(connector_data={})


def test_no_more_than_that_many_at_a_time() -> None:
    """With six hosts and room for two, two upload at once, and all get their turn."""
    gate, inside, most = UploadGate(2), [0], [0]

    def upload() -> None:
        mine = host()
        gate.enter(mine)
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        gevent.sleep(0.01)
        inside[0] -= 1
        gate.leave(mine)

    runs = [gevent.spawn(upload) for _ in range(6)]
    gevent.joinall(runs, timeout=5)
    assert (most, [run.successful() for run in runs]) == ([2], [True] * 6)


def test_a_host_that_fails_half_way_lets_the_next_in() -> None:
    """A broken connection does not keep its place; a host that never had one changes nothing."""
    gate, first, second = UploadGate(1), host(), host()
    gate.enter(first)
    gate.operation_host_error(None, second, "op")
    gate.operation_host_error(None, first, "op")
    with gevent.Timeout(1):
        gate.enter(second)
        gate.enter(second)
    gate.operation_host_success(None, second, "op")
    with gevent.Timeout(1):
        gate.enter(first)
