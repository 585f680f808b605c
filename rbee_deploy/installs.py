"""How what is installed on a host gets its name there, and how it is seen that somebody has damaged it since.

It is made beside its place and exchanged by two renames: what runs from there finds a whole one, but for the moment
between them, also while a damaged one is installed anew. LISTING in it has a hash over what `find` says of every file
and folder: to compare it takes a host some 20 ms for a release, and reads no file. Without one it was installed by an
older rbee, and is whole.
"""

import shlex

Commands = tuple[tuple[str, ...], ...]

LISTING = "listing.sha256"

# Python may write bytecode at any time. The size of a folder depends on the file system, its time on its content.
_FIND = (
    rf"find . \( -name __pycache__ -o -path ./{LISTING} \) -prune"
    r" -o -type d -printf '%p %m %U:%G\n' -o -printf '%p %y %m %U:%G %s %T@ %l\n'"
)
_LIST = f'cd -- "$1" && {_FIND} | LC_ALL=C sort | sha256sum'

FUNCTIONS = f"""\
listed() {{ ({_LIST}); }}
is_whole() {{ [ ! -f "$1/{LISTING}" ] || [ "$(listed "$1")" = "$(cat -- "$1/{LISTING}")" ]; }}"""
"""Shell functions; `is_whole FOLDER` says whether what is installed there is as it was put there."""

# Whatever was cut off between the two renames of an exchange left the old one beside, and nothing in its place.
_CLEAR = '[ -e "$2" ] || [ ! -e "$1/old" ] || mv -T -- "$1/old" "$2"; rm -rf -- "$1"'
_EXCHANGE = '[ ! -e "$2" ] || mv -T -- "$2" "$1/old"; mv -T -- "$1/new" "$2"; rm -rf -- "$1"'


def made_in(destination: str) -> str:
    """Return the folder in which that is made which goes to `destination`, on the same file system."""
    return f"{_work(destination)}/new"


def begin(destination: str) -> Commands:
    """Return the commands before anything is made; they clear what an install that was cut off has left."""
    work = _work(destination)
    return (("sh", "-ec", _CLEAR, "sh", work, destination), ("install", "-d", "-m", "0755", work))


def finish(destination: str) -> Commands:
    """Return the commands that put what was made in its place, whole, in whose stead whatever is there goes.

    All of it is on the disk before it has its name: power may go at any moment.
    """
    made = made_in(destination)
    return (
        ("sh", "-ec", f"{_LIST} >{LISTING}", "sh", made),
        ("sync", "-f", made),
        ("sh", "-ec", _EXCHANGE, "sh", _work(destination), destination),
    )


def unless_whole(folder: str, marker: str) -> str:
    """Return the beginning of a shell line: what follows `||` runs if an install is there and whole."""
    quoted = shlex.quote(folder)
    return f"{FUNCTIONS}\n[ ! -e {quoted}/{marker} ] || ! is_whole {quoted}"


def _work(destination: str) -> str:
    """Return the folder beside; no pattern of the shell for installs matches it."""
    parent, _, name = destination.rpartition("/")
    return f"{parent}/.{name}"
