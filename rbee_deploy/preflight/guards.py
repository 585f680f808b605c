"""Whether the firewall that the inventory asks for can do what it is to do."""

from collections.abc import Iterator

from rbee_deploy.activator.firewall.rules import Kind
from rbee_deploy.packages import FIREWALL_TOOLS
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity

_SAFE = "allow SSH in it first, or it locks you out"


def _it_is_there(case: Case) -> Iterator[Finding]:
    kind, found = case.host.firewall, case.facts.firewall
    if not found or kind is None:
        return
    if kind == Kind.NFTABLES:
        if not found["tool"] and case.installs is None:
            yield Finding("nft is missing, which firewall='nftables' needs", "install the package nftables")
        elif found["tool"] and found["broken"]:
            yield Finding(
                f"its kernel takes no rules of nftables (nft says {found['broken']!r})",
                "boot a kernel with nf_tables, or drop firewall='nftables'",
            )
    elif not found["tool"]:
        yield Finding(f"{kind} is missing", f"install the package {kind} and switch it on by hand; {_SAFE}")
    elif not found["active"]:
        yield Finding(f"{kind} is not active", f"switch it on by {_SWITCH[Kind(kind)]}; {_SAFE}")


_SWITCH = {Kind.UFW: "ufw enable", Kind.FIREWALLD: "systemctl enable --now firewalld"}


def _it_is_the_only_one(case: Case) -> Iterator[Finding]:
    for other in case.facts.firewall.get("also", ()):
        yield Finding(
            f"{other} is active on it and keeps the ports of rbee closed, whatever firewall='nftables' lets in",
            f"write firewall={other!r}",
        )


THERE = Check(
    id="firewall",
    title="The firewall of the inventory works",
    looks_at="`nft list tables`, `ufw status` or `firewall-cmd --state`, whichever `firewall` names",
    fails_when="the tool is missing and setup does not install it, its kernel does not take rules of nftables, or ufw "
    "or firewalld is not active",
    why="the ports of rbee would stay open; ufw and firewalld close other ports too once they are on, SSH among them, "
    f"so only you switch those on, and setup installs {FIREWALL_TOOLS} alone",
    fix="install it, allow SSH and switch it on, or name another kind",
    find=_it_is_there,
    scope=Scope.FIREWALL,
)
ALONE = Check(
    id="firewall-alone",
    title="No other firewall is in force",
    looks_at="whether ufw or firewalld is active where the inventory says `nftables`",
    fails_when="one is",
    why="a packet has to pass all of them, and theirs knows nothing of the fleet",
    fix="name that one in `firewall`",
    find=_it_is_the_only_one,
    severity=Severity.HINT,
    scope=Scope.FIREWALL,
)
