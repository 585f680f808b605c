"""By which settings a container was made: a label of the guard's own, which no hive can write. Pure.

A container that is made and not started keeps what it may do, whatever the settings say by the time of its start.
"""

import hashlib
import json
from dataclasses import asdict, fields

from rbee_runtime import __version__
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import GuardConfig

LABEL = "rbee.guard"

UNBOUND = frozenset({"engine_socket", "handover", "listen", "rules"})
"""Settings that say how the guard works and nothing about a container; all others count."""


def digest(config: GuardConfig, account: Account) -> str:
    """Return what all settings that bound a container amount to, on this host and in this release.

    The order of a list does not matter, but for the first and last port. The same settings have the same digest after
    each start of the guard, unless a group comes or goes.
    """
    said = {each.name: getattr(config, each.name) for each in fields(config) if each.name not in UNBOUND}
    plain = {name: sorted(map(str, value)) if isinstance(value, tuple) else value for name, value in said.items()}
    text = json.dumps([__version__, asdict(account), plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
