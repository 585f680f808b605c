"""Who a worker in a container is on this host: an account without rights, and the groups that models are for."""

import grp
import pwd
from dataclasses import dataclass

from rbee_runtime.errors import ConfigError
from rbee_runtime.guard.config import GuardConfig


@dataclass(frozen=True)
class Account:
    """User and group ids of every worker, whatever a hive asks for."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @property
    def user(self) -> str:
        """Return the ids as engines take them."""
        return f"{self.uid}:{self.gid}"


def account(config: GuardConfig) -> Account:
    """Return the ids of the settings' user and of those of its groups that exist here; ConfigError."""
    try:
        found = pwd.getpwnam(config.user)
    except KeyError:
        raise ConfigError(f"user {config.user} does not exist on this host: make it, or name another one") from None
    groups = {each.gr_gid for each in grp.getgrall() if each.gr_name in config.groups}
    if found.pw_uid == 0 or 0 in {found.pw_gid, *groups}:
        raise ConfigError(f"user {config.user} or one of its groups is root's: name others that have no rights")
    return Account(found.pw_uid, found.pw_gid, tuple(sorted(groups)))
