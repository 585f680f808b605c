"""`rbee-keeper`: Ctrl-C while it imports ends it as quietly as later."""

from __future__ import annotations

import sys

from rbee_runtime import early_interrupt

if early_interrupt.TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence and a status of `exits.py`."""
    sys.exit(early_interrupt.run(_load))


def _load() -> Callable[[], int]:
    from functools import partial  # noqa: PLC0415 - see above

    from rbee_runtime.keeper.cli import run  # noqa: PLC0415 - see above

    return partial(run, sys.argv[1:])


if __name__ == "__main__":
    main()
