"""`rbee-deploy`: Ctrl-C while it imports, or reads the inventory, is one line as well."""

from __future__ import annotations

import sys

from rbee_runtime import early_interrupt

if early_interrupt.TYPE_CHECKING:
    from collections.abc import Callable

SENTENCE = "interrupted before any host was asked"


def main() -> None:
    """Run the command line."""
    sys.exit(early_interrupt.run(_load, SENTENCE, status=1))


def _load() -> Callable[[], int]:
    from rbee_deploy.cli import main as program  # noqa: PLC0415 - see above

    return program


if __name__ == "__main__":
    main()
