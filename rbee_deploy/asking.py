"""Asking a person before something goes that cannot be brought back."""

import sys


def agreed(question: str) -> bool:
    """Ask on the terminal; only `yes` agrees, and where nobody can be asked, nobody does."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} Type yes: ").strip() == "yes"
    except (EOFError, KeyboardInterrupt):
        # The end of the question's line.
        print(file=sys.stderr)  # noqa: T201
        return False
