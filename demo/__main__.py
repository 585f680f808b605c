"""`python -m demo`: Ctrl-C while it imports ends it as quietly as later."""

import sys

from rbee_runtime import early_interrupt

INTERRUPTED = "\ndemo: interrupted; make demo goes on from here, make demo-down removes it"


def main() -> int:
    """Run one command and return the exit status."""
    try:
        with early_interrupt.ends_at_once(INTERRUPTED):
            from demo.cli import run  # noqa: PLC0415 - see above
        return run()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return early_interrupt.STATUS


if __name__ == "__main__":
    sys.exit(main())
