"""Kinds of host that a bundle is made for, which cannot be asked when it is made on another network."""

import platform
import re
from collections.abc import Sequence

from rbee_deploy import packages
from rbee_deploy.artefacts import Target
from rbee_deploy.errors import BundleError

_GLIBC = {
    "debian-12": ("debian", "12", "2.36"),
    "debian-13": ("debian", "13", "2.41"),
    "ubuntu-24.04": ("ubuntu", "24", "2.39"),
    "fedora-42": ("fedora", "42", "2.41"),
    "el9": ("rhel", "9", "2.34"),
    "el10": ("rhel", "10", "2.39"),
}
"""ID and first number of VERSION_ID in /etc/os-release, and glibc, of each name."""

DISTRIBUTIONS = {
    name: (packages.DISTRIBUTIONS[os_id, number].python, glibc) for name, (os_id, number, glibc) in _GLIBC.items()
}
"""Python and glibc of each; the Python is the one that setup installs there."""

DEFAULT = ("debian-12", "debian-13", "ubuntu-24.04")

_FORMS = {
    "python": re.compile(r"3\.\d{1,2}"),
    "arch": re.compile(r"[a-z0-9_]{1,20}"),
    "glibc": re.compile(r"2\.\d{1,3}"),
}


def parse(text: str) -> Target:
    """Return the target that a name such as `debian-13`, or `python=3.13,arch=x86_64,glibc=2.41`, stands for.

    The processor is this machine's where none is given; `debian-13,arch=aarch64` gives another one.
    """
    words = text.split(",")
    known = DISTRIBUTIONS.get(words[0])
    given = {"python": known[0], "glibc": known[1]} if known else {}
    for word in words[1:] if known else words:
        name, _, value = word.partition("=")
        form = _FORMS.get(name)
        if form is None or not form.fullmatch(value):
            raise BundleError(f"{word!r} in the target {text!r} is not understood: {_usage()}")
        given[name] = value
    missing = {"python", "glibc"} - given.keys()
    if missing:
        raise BundleError(f"the target {text!r} does not say its {' and '.join(sorted(missing))}: {_usage()}")
    return Target(python=given["python"], arch=given.get("arch", platform.machine()), glibc=given["glibc"])


def usual() -> tuple[Target, ...]:
    """Return the targets of a bundle for which none is named."""
    return tuple(parse(name) for name in DEFAULT)


def _usage() -> str:
    return f"write one of {', '.join(DISTRIBUTIONS)}, or python=3.13,arch=x86_64,glibc=2.41"


def described(targets: Sequence[Target]) -> str:
    """Return targets for a sentence."""
    return ", ".join(f"Python {each.python} {each.arch} glibc {each.glibc}" for each in targets)
