"""`rbee-queen`: its imports take a second, and Ctrl-C in that second ends it as quietly as later."""

from __future__ import annotations

import sys

from rbee_runtime import early_interrupt

if early_interrupt.TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run the command line and leave."""
    sys.exit(early_interrupt.run(_load))


def _load() -> Callable[[], int]:
    from rbee_runtime.queen.command import run  # noqa: PLC0415 - see above

    return run


if __name__ == "__main__":
    main()
