"""`rbee-worker`: its imports take half a second, and Ctrl-C in that time ends it as quietly as later."""

from __future__ import annotations

import os
import sys

from rbee_runtime import early_interrupt

if early_interrupt.TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run the command line and leave."""
    status = early_interrupt.run(_load)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: whatever still hangs in a thread would keep the process.
    os._exit(status)


def _load() -> Callable[[], int]:
    from rbee_runtime.worker.command import program  # noqa: PLC0415 - see above

    return program


if __name__ == "__main__":
    main()
