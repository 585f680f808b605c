"""Who a worker in a container is on this host: an account without rights, and the groups that models are for."""

import grp
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rbee_runtime import ports, subordinate
from rbee_runtime.errors import ConfigError
from rbee_runtime.guard.config import GuardConfig


@dataclass(frozen=True)
class Account:
    """User and group ids of every worker, whatever a hive asks for; `inside` are those that a rootless engine knows."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    inside: "Account | None" = None

    @property
    def user(self) -> str:
        """Return the ids as engines take them."""
        known = self.inside or self
        return f"{known.uid}:{known.gid}"

    @property
    def group_names(self) -> list[str]:
        """Return the groups as engines take them."""
        return [str(group) for group in (self.inside or self).groups]


def account(config: GuardConfig) -> Account:
    """Return the ids of the settings' user and of those of its groups that exist here; ConfigError."""
    try:
        found = pwd.getpwnam(config.user)
    except KeyError:
        raise ConfigError(f"user {config.user} does not exist on this host: make it, or name another one") from None
    groups = {each.gr_gid for each in grp.getgrall() if each.gr_name in config.groups}
    if found.pw_uid == 0 or 0 in {found.pw_gid, *groups}:
        raise ConfigError(f"user {config.user} or one of its groups is root's: name others that have no rights")
    on_host = Account(found.pw_uid, found.pw_gid, tuple(sorted(groups)))
    if config.engine_user is None:
        return on_host
    return Account(on_host.uid, on_host.gid, on_host.groups, _inside(on_host, config.user, config.engine_user))


def _inside(on_host: Account, user: str, engine_user: str) -> Account:
    """Return the account as it is called in the user namespace of an engine; groups that it was not lent are away."""
    uids = _lent(subordinate.SUBUID, engine_user)
    gids = _lent(subordinate.SUBGID, engine_user)
    uid, gid = subordinate.inside(on_host.uid, uids), subordinate.inside(on_host.gid, gids)
    if uid is None or gid is None:
        raise ConfigError(
            f"{subordinate.SUBUID} and {subordinate.SUBGID} lend no {user} to {engine_user}: run `systemctl restart "
            f"{ports.PODMAN_UNIT}` on this host, which puts that right"
        )
    groups = (subordinate.inside(group, gids) for group in on_host.groups)
    return Account(uid, gid, tuple(group for group in groups if group is not None))


def _lent(path: str, user: str) -> Iterable[subordinate.Span]:
    try:
        return subordinate.lent(Path(path).read_text(), user)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; install the package uidmap") from error


def door(config: GuardConfig) -> int | None:
    """Return the group of a rootless engine, which has to get to what workers are handed; None for other engines."""
    if config.engine_user is None:
        return None
    try:
        return pwd.getpwnam(config.engine_user).pw_gid
    except KeyError:
        raise ConfigError(f"user {config.engine_user} does not exist on this host: run the deploy again") from None
