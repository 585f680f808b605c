"""`rbee-keeper`: Ctrl-C while it imports ends it as quietly as later."""

import sys
from collections.abc import Callable
from functools import partial

from rbee_runtime import early_interrupt


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence and exit status 1."""
    sys.exit(early_interrupt.run(_load))


def _load() -> Callable[[], int]:
    from rbee_runtime.keeper.cli import run  # noqa: PLC0415 - see above

    return partial(run, sys.argv[1:])


if __name__ == "__main__":
    main()
