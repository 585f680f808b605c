"""`python -m demo`: Ctrl-C while it imports ends it as quietly as later."""

from __future__ import annotations

import sys

from rbee_runtime import early_interrupt

if early_interrupt.TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = "\ndemo: interrupted; make demo goes on from here, make demo-down removes it"


def main() -> int:
    """Run one command and return the exit status."""
    return early_interrupt.run(_load, INTERRUPTED)


def _load() -> Callable[[], int]:
    from demo.cli import run  # noqa: PLC0415 - see above

    return run


if __name__ == "__main__":
    sys.exit(main())
