"""Run the activator of the release whose Python this is, and be killed when a step has ended.

Arguments: STEP COMMAND…, with a step of "" for none.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from rbee_deploy.activator import __main__ as program
from rbee_deploy.activator import activation

wanted, *words = sys.argv[1:]


def ending(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return the step with what comes after it."""

    def run(under_way: Any) -> None:
        step(under_way)
        os.kill(os.getpid(), signal.SIGKILL)

    return run


activation.STEPS = tuple((name, ending(step) if name == wanted else step) for name, step in activation.STEPS)
sys.exit(program.main(words))
