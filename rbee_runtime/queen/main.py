"""`rbee-queen`: its imports take a second, and Ctrl-C in that second ends it as quietly as later."""

import sys

from rbee_runtime import early_interrupt


def main() -> None:
    """Run the command line and leave."""
    try:
        with early_interrupt.ends_at_once():
            from rbee_runtime.queen.command import run  # noqa: PLC0415 - see above
        status = run()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        status = early_interrupt.STATUS
    sys.exit(status)


if __name__ == "__main__":
    main()
