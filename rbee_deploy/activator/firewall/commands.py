"""Running the tool of a firewall."""

import os
import subprocess

SECONDS = 60.0
"""ufw and firewall-cmd wait for each other and for the kernel, a second or two at most."""


class FirewallError(Exception):
    """A firewall's tool is not there or did not do what it was told; the text says which, and why."""


def run(*words: str, given: str = "") -> str:
    """Run a tool, with text on its standard input, and return what it prints; raise FirewallError if it fails."""
    try:
        done = subprocess.run(
            words,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise FirewallError(f"{words[0]} is not there; install it, or drop firewall= from the inventory") from error
    except subprocess.TimeoutExpired as error:
        raise FirewallError(f"{words[0]} did not end within {SECONDS:.0f} s") from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FirewallError(f"{words[0]} failed: {' / '.join(lines[:3]) or done.returncode}")
    return done.stdout
