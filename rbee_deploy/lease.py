"""Who is at work on a host: a lease that heals by itself, and a freeze that a person sets; scripts only, pure.

no lease      a deploy may take it
ours          renewed by every command that changes something, and every RENEW_SECONDS while one takes long
another's     refused, with who and since when; after STALE_SECONDS without a sign of life it is nobody's, and so is one
              from that far in the future: the host's clock was wrong when it was taken
"""

import getpass
import hashlib
import os
import secrets
import shlex
import socket
import uuid
from pathlib import Path

from rbee_deploy import advised
from rbee_deploy.activator import places

RENEW_SECONDS = 10.0
STALE_SECONDS = 45
"""Four signs of life missed: the deploy that held it is gone, or its machine sleeps."""

LOST = 75
"""Exit status of a command whose lease another deploy has taken meanwhile (EX_TEMPFAIL)."""

FROZEN = "frozen already"
"""What the script prints that would freeze a host on which deploys are forbidden already."""

WAIT_SECONDS = 10

_TAB = "\\t"
_LEASE, _FREEZE, _RUN = (shlex.quote(str(path)) for path in (places.LEASE, places.FREEZE, places.RUN))


def new_id() -> str:
    """Return the id of one run: the machine since its boot, the process, and a random part."""
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def has_ended(run: str) -> bool:
    """Say whether a run was of this machine and its process is gone: nobody has to wait for it to grow stale."""
    machine, _, rest = run.partition("-")
    process = rest.partition("-")[0]
    return machine == _machine() and process.isascii() and process.isdecimal() and not _lives(int(process))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        # Somebody else's; /proc may hide it.
        return True
    return True


def _machine() -> str:
    """Return what has one meaning for a process id: this boot of this machine, and the namespace of the ids."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    text = boot.read_text(encoding="ascii") if boot.is_file() else str(uuid.getnode())
    text += str(namespace.readlink()) if namespace.is_symlink() else ""
    return hashlib.sha256(f"{text}{socket.gethostname()}".encode()).hexdigest()[:12]


def is_stale(age: float) -> bool:
    """Say whether a lease is nobody's any more, by the seconds since its last sign of life."""
    return abs(age) >= STALE_SECONDS


def operator() -> str:
    """Return who deploys, as others will read it: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}".replace("\t", " ")


def take(run: str, by: str, *, ended: str = "") -> str:
    """Return the script that takes the lease, or fails with a sentence that says who has it.

    `ended` is the id of a run that is known to be over.
    """
    mine, who = shlex.quote(run), shlex.quote(by)
    thawed = shlex.quote(f"; {advised.command('lock --release')} ends that")
    lines = (
        f"mkdir -p -m 0700 {_RUN}; exec 9>>{_RUN}/lease.lock; flock -w {WAIT_SECONDS} 9 || exit 1",
        f"if [ -f {_FREEZE} ]; then IFS='{chr(9)}' read -r by since why <{_FREEZE}",
        '  echo "deploys are frozen here by $by since $since${why:+: $why}"' + f"{thawed} >&2",
        "  exit 1",
        "fi",
        f"if [ -f {_LEASE} ]; then IFS='{chr(9)}' read -r id by since <{_LEASE}",
        f"  age=$(($(date +%s) - $(stat -c %Y {_LEASE})))",
        f'  if [ "$id" != {mine} ] && [ "$id" != {shlex.quote(ended)} ] && [ "${{age#-}}" -lt {STALE_SECONDS} ]; then',
        '    echo "$by deploys to this host since $since; run the same command again when that has ended" >&2',
        "    exit 1",
        "  fi",
        "fi",
        f"umask 077; printf '%s{_TAB}%s{_TAB}%s\\n' {mine} {who} \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\" >{_LEASE}.new",
        f"mv -f {_LEASE}.new {_LEASE}",
    )
    return "\n".join(lines)


def held(run: str) -> str:
    """Return the line that renews the lease, or ends the script if another deploy has it."""
    check = f'[ "$(cut -f 1 {_LEASE} 2>/dev/null)" = {shlex.quote(run)} ] && touch {_LEASE}'
    said = "another deploy took this host over while this one was silent; run the same command again"
    return f"{check} || {{ echo {shlex.quote(said)} >&2; exit {LOST}; }}"


def give_back(run: str) -> str:
    """Return the script that ends the lease if it is ours."""
    return f'[ "$(cut -f 1 {_LEASE} 2>/dev/null)" != {shlex.quote(run)} ] || rm -f {_LEASE}'


def freeze(by: str, why: str) -> str:
    """Return the script that forbids deploys until further notice; an earlier freeze stays, and FROZEN is printed."""
    text = f'{shlex.quote(by)} "$(date -u +%Y-%m-%dT%H:%M:%SZ)" {shlex.quote(" ".join(why.split()))}'
    folder = shlex.quote(str(places.HOME))
    made = f"umask 077; mkdir -p -m 0700 {folder} && printf '%s{_TAB}%s{_TAB}%s\\n' {text} >{_FREEZE}"
    return f"if [ -f {_FREEZE} ]; then echo {shlex.quote(FROZEN)}; else {made}; fi"


def thaw() -> str:
    """Return the script that ends a freeze."""
    return f"rm -f {_FREEZE}"
