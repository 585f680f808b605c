"""Run rbee-deploy, and when a step begins be killed with all processes, or wait.

Arguments: FILE STEP COMMAND…. A FILE other than "" is waited for instead, while the lease is kept alive. What runs is
the rbee that is on PYTHONPATH.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from rbee_deploy.cli import main  # first, because it patches the standard library for gevent

import gevent  # isort: skip

from rbee_deploy.recorder import Recorder

file, wanted, *words = sys.argv[1:]
begin = Recorder.operation_start


def operation_start(self: Recorder, state: Any, op_hash: str) -> None:
    """Do it when the step's turn has come."""
    if wanted in state.op_meta[op_hash].names:
        if not file:
            os.killpg(0, signal.SIGKILL)
        Path(f"{file}.reached").touch()
        while not Path(file).exists():
            gevent.sleep(0.1)
    begin(self, state, op_hash)


Recorder.operation_start = operation_start  # type: ignore[method-assign]
sys.exit(main(words))
