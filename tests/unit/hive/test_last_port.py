"""A range of ports without a free one, until there is one again."""

import socket
from pathlib import Path

from rbee_runtime.states import Observed
from tests.faults.rig import Clock, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_port


async def test_a_worker_whose_only_port_was_taken_starts_once_it_is_free(tmp_path: Path) -> None:
    """It says which range has no free port, is tried by the schedule, and gets the port that it had before."""
    clock, port = Clock(), free_port()
    launcher = ScriptedLauncher(clock)
    hive = rig(settings(tmp_path, (port, port)), launcher, clock)
    await hive.follow(document(1, worker("a")))
    with socket.create_server(("127.0.0.1", port)):
        await launcher.kill("a")
        await hive.simulate(10)
        waiting = hive.report("a")
    assert waiting is not None
    assert (waiting.state, waiting.last_exit, len(launcher.starts)) == (Observed.BACKOFF, "port_taken", 1)
    assert f"no free port for a worker in {port}-{port}" in waiting.detail
    assert 0 < waiting.next_try < 60
    await hive.simulate(60)
    await hive.close()
    assert len(launcher.starts) == 2
