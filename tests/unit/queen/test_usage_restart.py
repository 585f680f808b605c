"""What keys use is counted over restarts and deaths of a real queen."""

import signal
import sqlite3

import pytest

from tests.unit.queen.test_restart import Streaming, running, served
from tests.unit.queen.units import PATIENCE, Unit, alive, wait_until

__all__ = ["running", "served"]

pytestmark = pytest.mark.slow


def requests(u: Unit) -> int:
    """Return how many requests the queen says there were."""
    return sum(row["requests"] for row in u.get("/api/v1/usage").json())


def test_an_answer_that_outlasts_its_queen_is_counted_once(served: Unit) -> None:
    """The queen that leaves hands on what her last answers used, also to one that serves already."""
    before, old = requests(served), served.mains[-1]
    stream = Streaming(served, tokens=60)
    old.signal(signal.SIGTERM)
    assert old.process.wait(PATIENCE) == 0
    served.start()
    assert Streaming(served).finish()[-1] == "data: [DONE]"
    assert stream.finish()[-1] == "data: [DONE]"
    wait_until(lambda: not alive(old.child))
    wait_until(lambda: requests(served) == before + 2)
    assert not list((served.directory / "state").glob("usage-*"))


def written(u: Unit) -> int:
    """Return how many requests are in her database."""
    db = sqlite3.connect(f"file:{u.directory / 'state' / 'queen.db'}?mode=ro", uri=True)
    (found,) = db.execute("SELECT coalesce(sum(requests), 0) FROM usage").fetchone()
    db.close()
    return int(found)


def test_what_was_written_outlives_a_kill(served: Unit) -> None:
    """A queen that is killed some seconds later has lost nothing, and nothing is there twice."""
    before, old = requests(served), served.mains[-1]
    assert Streaming(served).finish()[-1] == "data: [DONE]"
    wait_until(lambda: written(served) == before + 1)
    old.signal(signal.SIGKILL)
    old.process.wait(PATIENCE)
    wait_until(lambda: not alive(old.child))
    served.start()
    assert requests(served) == before + 1
