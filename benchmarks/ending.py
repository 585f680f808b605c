"""How a benchmark ends when somebody has seen enough."""

import sys
from collections.abc import Callable

STATUS = 130
"""What a shell reports for a command that SIGINT ended."""


def quietly(main: Callable[[], object], name: str) -> None:
    """Run `main`, whose servers end with it; Ctrl-C is a sentence, and no figure is printed."""
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{name}: interrupted before the last round; it has no figures, run it again\n")
        sys.exit(STATUS)
