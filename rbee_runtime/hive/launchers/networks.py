"""The network that the containers of workers share: whether one that is there already may be used. Pure."""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rbee_runtime.errors import LauncherError

MARK = "rbee.fleet"
"""The label of a network that a hive made, of whichever fleet: hives of one host share it."""


@dataclass(frozen=True)
class Network:
    """A network as its engine describes it, beside one that this hive would make.

    `wrong` are the settings that are otherwise and let somebody out, `routed` says whether it leads to our callers and
    to no others, `users` are the containers in it, those that have ended included.
    """

    labels: Mapping[str, str]
    wrong: tuple[str, ...] = ()
    routed: bool = True
    users: tuple[str, ...] = ()


def usable(engine: str, name: str, found: Network) -> bool:
    """Say whether workers may start in a network; one of ours may not until it is made again; LauncherError."""
    # Wide routes are named once: they are among what is wrong already.
    wrong = tuple(dict.fromkeys((*found.wrong, *(() if found.routed else ("routes",)))))
    if not wrong:
        # Whoever made it: there is no way out of it.
        return True
    if MARK not in found.labels:
        raise LauncherError(
            f"{engine} has a network called {name} that no hive made, and workers may reach the internet or this host "
            f"from it ({', '.join(wrong)} not as wanted): remove it with `{engine} network rm {name}`, or set "
            "containers.network in the hive's settings to another name; the worker starts at the next try"
        )
    if found.users and found.wrong:
        raise LauncherError(
            f"network {name} of {engine} may let workers reach the internet or this host ({', '.join(wrong)} not "
            f"as wanted) and is in use: remove the containers {', '.join(found.users)}, and the next start makes it "
            "again"
        )
    # Routes to other single callers are no reason to start nothing: they may be those of another hive.
    return bool(found.users)


def wide(routes: Iterable[str], wanted: Collection[str]) -> bool:
    """Say whether these routes lead to more than the wanted ones and single addresses."""
    networks = (ipaddress.ip_network(each, strict=False) for each in set(routes).difference(wanted))
    return any(network.num_addresses > 1 for network in networks)


def differing(wanted: Mapping[str, object], found: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of settings that are not as wanted; engines add some of their own, which do not matter."""
    return tuple(name for name, value in wanted.items() if found.get(name) != value)
