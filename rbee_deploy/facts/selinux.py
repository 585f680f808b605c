"""How SELinux labels what workers in containers are to read, as the state fact asks and reads it."""

import re
import shlex
from pathlib import Path
from typing import Any

from rbee_runtime.guard.labels import SWITCHES

FOLDER = Path("/sys/fs/selinux")
"""Is there where the kernel has a policy; `enforce` has 1 where that is not just tried out."""

# Only where it says something: without a policy stat knows no label, says so in an error and writes a question mark.
_ASKED = r"""
echo @selinux
if [ -r FOLDER/enforce ] && [ "$(cat FOLDER/enforce)" = 1 ]; then
  echo enforcing
  for asked in MADE SEEN; do
    there=$asked
    if [ "$asked" = MADE ]; then while [ ! -e "$there" ]; do there=${there%/*}; there=${there:-/}; done; fi
    [ -e "$there" ] && printf "label\t%s\t%s\n" "$(stat -L -c %C -- "$there" | tr -dc "A-Za-z0-9_:,.-")" "$asked"
  done
  for name in SWITCHES; do
    [ -r "FOLDER/booleans/$name" ] || continue
    case $(cat "FOLDER/booleans/$name") in "1 "*) printf "switch\t%s\n" "$name";; esac
  done
fi
"""


def script(engine: str | None, models_dir: str, caches: tuple[str, ...]) -> str:
    """Return the part of the script that asks; setup makes `models_dir`, with the label of the folder it is in."""
    if engine is None:
        return ""
    words = {
        "FOLDER": str(FOLDER),
        "SWITCHES": " ".join(sorted(set(SWITCHES.values()))),
        "MADE": shlex.quote(models_dir),
        "SEEN": shlex.join(caches),
    }
    return re.sub("|".join(words), lambda found: words[found[0]], _ASKED.strip())


def selinux(lines: list[str]) -> dict[str, Any]:
    """Return whether a policy is in force, the labels of folders that are there, and the switches that are on."""
    rows = [line.split("\t") for line in lines]
    return {
        "selinux": {
            "enforcing": ["enforcing"] in rows,
            "labels": {row[2]: row[1] for row in rows if row[0] == "label" and len(row) == 3 and row[1]},
            "switches": [row[1] for row in rows if row[0] == "switch" and len(row) == 2],
        }
    }
