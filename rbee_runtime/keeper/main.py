"""`rbee-keeper`: Ctrl-C while it imports ends it as quietly as later."""

import sys

from rbee_runtime import early_interrupt


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence and exit status 1."""
    try:
        with early_interrupt.ends_at_once():
            from rbee_runtime.keeper.cli import run  # noqa: PLC0415 - see above
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        status = early_interrupt.STATUS
    sys.exit(status)


if __name__ == "__main__":
    main()
