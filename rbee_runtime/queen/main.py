"""`rbee-queen`: its imports take a second, and Ctrl-C in that second ends it as quietly as later."""

import sys
from collections.abc import Callable

from rbee_runtime import early_interrupt


def main() -> None:
    """Run the command line and leave."""
    sys.exit(early_interrupt.run(_load))


def _load() -> Callable[[], int]:
    from rbee_runtime.queen.command import run  # noqa: PLC0415 - see above

    return run


if __name__ == "__main__":
    main()
