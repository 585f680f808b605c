"""Commands as sentences advise them: whole, with the inventory of the run at hand, to be typed as printed."""

import shlex

inventory = ""
"""What the command line was given by -i, set by it; "" where pyinfra itself runs the deploy."""


def command(words: str) -> str:
    """Return a command of rbee-deploy by its words, such as `lock --release`."""
    return f"rbee-deploy {words} -i {shlex.quote(inventory) if inventory else 'INVENTORY'}"
