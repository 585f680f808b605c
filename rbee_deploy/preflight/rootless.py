"""Whether Podman can run there as a user without rights."""

from collections.abc import Iterator

from rbee_deploy import packages
from rbee_deploy.packages import NETWORK_HELPERS, Need
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity, listed

_WITH_ROOT = "drop rootless"


def _tools_are_there(case: Case) -> Iterator[Finding]:
    lacking = packages.rootless_lacks(case.facts.programs)
    if lacking and (case.installs is None or not case.installs.packages[Need.ROOTLESS]):
        yield Finding(
            f"it has no {listed(lacking)}, without which Podman needs root",
            f"install the packages uidmap and passt there, or {_WITH_ROOT}",
        )


def _users_have_namespaces(case: Case) -> Iterator[Finding]:
    if not case.facts.userns:
        yield Finding(
            "its kernel gives users without rights no user namespaces, without which Podman needs root",
            "set kernel.unprivileged_userns_clone to 1 and user.max_user_namespaces above 0 by sysctl there, or "
            f"{_WITH_ROOT}",
        )


def _users_have_a_bus(case: Case) -> Iterator[Finding]:
    if not case.facts.user_bus:
        yield Finding(
            "its users have no bus to their own service manager, so no limits hold for containers without root",
            "install the package dbus-user-session there (dbus-daemon on Fedora and Enterprise Linux) and reboot it",
        )


TOOLS = Check(
    id="rootless-tools",
    title="Podman can do without root",
    looks_at=f"whether `newuidmap`, `newgidmap` and `{'` or `'.join(NETWORK_HELPERS)}` are there",
    fails_when="one is missing and setup does not install it",
    why="they lend ids to the user that runs the containers, and connect its network",
    fix="install the packages uidmap and passt, or drop `rootless`",
    find=_tools_are_there,
    scope=Scope.ROOTLESS,
)
NAMESPACES = Check(
    id="rootless-namespaces",
    title="Users may have user namespaces",
    looks_at="`kernel.unprivileged_userns_clone` and `user.max_user_namespaces`",
    fails_when="one of them is 0",
    why="a container of a user without rights is one",
    fix="allow them by sysctl, or drop `rootless`",
    find=_users_have_namespaces,
    scope=Scope.ROOTLESS,
)
BUS = Check(
    id="rootless-bus",
    title="Users have a bus to their service manager",
    looks_at="whether there is `dbus.socket` among the units of users",
    fails_when="there is none",
    why="Podman asks that service manager for a control group for each container; without it there are none, and the "
    "limits of workers do not hold",
    fix="install the package dbus-user-session, on Fedora and Enterprise Linux dbus-daemon",
    find=_users_have_a_bus,
    severity=Severity.HINT,
    scope=Scope.ROOTLESS,
)
