"""What an engine calls the users and groups of this host: by their numbers, or by those that it has for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.activator import engines
from rbee_deploy.activator.housed import role as roles
from rbee_deploy.activator.housed.role import HousedRole
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports, subordinate
from rbee_runtime.subordinate import Span


@dataclass(frozen=True)
class Naming:
    """`lent` are the user and group ids that the engine's user was lent, None where the engine is root's."""

    lent: tuple[tuple[Span, ...], tuple[Span, ...]] | None = None

    def ids(self, role: HousedRole) -> tuple[int, int]:
        """Return uid and gid of a role's user; ActivationError."""
        uid, gid = roles.ids(role)
        if self.lent is None:
            return uid, gid
        found = subordinate.inside(uid, self.lent[0]), subordinate.inside(gid, self.lent[1])
        if found[0] is None or found[1] is None:
            raise ActivationError(
                f"{subordinate.SUBUID} and {subordinate.SUBGID} lend no {role.user} to {ports.ENGINE_USER}: run "
                f"`systemctl restart {ports.PODMAN_UNIT}`, which puts that right"
            )
        return found[0], found[1]

    def gids(self, host_ids: Iterable[int]) -> list[int]:
        """Return groups, without those that the engine's user was not lent."""
        if self.lent is None:
            return list(host_ids)
        return [found for each in host_ids if (found := subordinate.inside(each, self.lent[1])) is not None]


def naming(engine: str) -> Naming:
    """Return it for an engine, by what this host's files say now."""
    if engine != engines.ROOTLESS:
        return Naming()
    texts = (_text(path) for path in (subordinate.SUBUID, subordinate.SUBGID))
    uids, gids = (subordinate.lent(text, ports.ENGINE_USER) for text in texts)
    return Naming((uids, gids))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise ActivationError(f"{path} cannot be read ({error.strerror}): install the package uidmap") from error
