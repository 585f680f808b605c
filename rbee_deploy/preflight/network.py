"""Whether hosts find each other: ports, advertised addresses, the way to the queen."""

import ipaddress
from collections.abc import Iterator

from rbee_deploy.host_facts import HostFacts
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity
from rbee_runtime import ports

CONSUL_PORTS = frozenset({ports.QUEEN_PORT, ports.HIVE_PORT})
MOST_ADDRESSES = 3
"""In a sentence; a host with containers has dozens."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _ports_are_free(case: Case) -> Iterator[Finding]:
    host = case.host
    queen = (("queen_port", host.queen_port), ("link_port", host.link_port)) if host.queen else ()
    hive = (("hive_port", host.hive_port),) if host.hive else ()
    for field, port in (*queen, *hive):
        owner = case.facts.listeners.get(port)
        if owner is not None and not _is_ours(owner, field, case.facts):
            by = "another process" if owner == "unknown" else owner
            also = " (also a default port of Consul)" if port in CONSUL_PORTS else ""
            yield Finding(f"port {port}{also} is taken by {by}", f"stop it, or write {field}=… with a free port")


def _is_ours(owner: str, field: str, facts: HostFacts) -> bool:
    unit = ports.HIVE_UNIT if field == "hive_port" else ports.QUEEN_SOCKET_UNIT
    # systemd itself holds the queen's sockets, and without ss nobody can say who listens.
    return owner.startswith("rbee-") or (owner in {"systemd", "init", "unknown"} and facts.is_active(unit))


def _others_can_reach_it(case: Case) -> Iterator[Finding]:
    if _stays_inside(case.host.reach):
        yield Finding(
            f"other hosts cannot reach it at {case.host.reach}",
            "write advertise='…' with its address in the network",
        )


def _stays_inside(address: str) -> bool:
    known = _address(address)
    return address.lower() == "localhost" if known is None else known.is_loopback or known.is_unspecified


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _advertises_its_own_address(case: Case) -> Iterator[Finding]:
    reach = case.host.reach
    own = [address for address in map(_address, case.facts.addresses) if address is not None]
    # A name may mean anything; only who asks it from elsewhere knows.
    if own and _address(reach) is not None and not _stays_inside(reach) and _address(reach) not in own:
        shown = ", ".join(map(str, own[:MOST_ADDRESSES])) + (", …" if len(own) > MOST_ADDRESSES else "")
        yield Finding(
            f"other hosts are told to reach it at {reach}, which is none of its own addresses ({shown})",
            "write advertise='…' with one of them, unless address translation leads there",
        )


def _queen_is_reached(case: Case) -> Iterator[Finding]:
    word, _, why = case.facts.queen_link.partition(": ")
    queen = case.site.queen
    if word == "unreachable" and not _may_be_our_own_firewall(case):
        where = f"{queen.reach} port {queen.link_port}"
        yield Finding(
            f"it cannot reach the queen at {where} ({why})",
            f"let it through the firewalls between it and host {queen.name!r}, or write advertise='…' on "
            f"{queen.name!r} with an address that it reaches",
        )


def _may_be_our_own_firewall(case: Case) -> bool:
    """Say whether the host may be new to the firewall of the queen's host, which drops what it does not know."""
    return case.site.queen.firewall is not None and case.facts.queen_link.startswith("unreachable: no answer")


def _queen_lets_it_in(case: Case) -> Iterator[Finding]:
    if _may_be_our_own_firewall(case):
        queen = case.site.queen
        yield Finding(
            f"the queen at {queen.reach} port {queen.link_port} does not answer it yet",
            f"if it is new, a deploy without --limit opens her firewall for it; if this stays, write address='…' or "
            f"advertise='…' with the address that it speaks from, or look for firewalls between it and {queen.name!r}",
        )


def _queen_is_up(case: Case) -> Iterator[Finding]:
    if case.facts.queen_link == "refused" and case.facts.is_active(ports.HIVE_UNIT):
        queen = case.site.queen
        yield Finding(
            f"the queen refuses connections at {queen.reach} port {queen.link_port}, so nobody drains this host's "
            "workers or replaces them",
            f"run systemctl start {ports.QUEEN_UNIT} on {queen.name!r}; until then they stay on the release that "
            "they have",
        )


PORTS = Check(
    id="ports",
    title="Ports are free",
    looks_at="listening TCP sockets and who owns them (`ss`, without it `/proc/net/tcp`)",
    fails_when="another program listens on `queen_port`, `link_port` or `hive_port`",
    why="the service would not start; Consul, for one, has 8500 and 8600 by default",
    fix="stop that program, or give the field another port",
    find=_ports_are_free,
)
LOOPBACK = Check(
    id="advertise",
    title="Other hosts are told an address of the network",
    looks_at="`advertise`, else `address`, else the name of the host",
    fails_when="it is a loopback address or no address at all, and the fleet has other hosts",
    why="queen and hives call each other there, and loopback is whoever asks",
    fix="write `advertise` with the host's address in the network",
    find=_others_can_reach_it,
    scope=Scope.FLEET,
)
OWN_ADDRESS = Check(
    id="advertise-own",
    title="The advertised address is one of the host's own",
    looks_at="the same address, and those of the host's interfaces",
    fails_when="it is none of them; a name is not judged",
    why="a digit may be wrong; behind address translation it may also be right",
    fix="write `advertise` with one of the addresses that the sentence names",
    find=_advertises_its_own_address,
    severity=Severity.HINT,
    scope=Scope.FLEET,
)
QUEEN_LINK = Check(
    id="queen-reachable",
    title="The host reaches the queen",
    looks_at="a connection from the host to the queen's address and `link_port`, 3 s at most",
    fails_when="nothing answers, there is no way there, or the name does not resolve on the host; a refused connection "
    "is fine, since the queen may not run yet",
    why="a hive that the queen never hears of serves nothing",
    fix="open `link_port` for the host in the firewalls between, or correct the queen's `advertise`",
    find=_queen_is_reached,
    scope=Scope.FAR_HIVE,
)
QUEEN_LETS_IN = Check(
    id="queen-firewall",
    title="The firewall of the queen's host lets the host in",
    looks_at="the same connection, where the queen's host has a `firewall` in the inventory",
    fails_when="nothing answers",
    why="a host that was just added is let in during the deploy, before its hive starts; one that is told apart by "
    "another address than it speaks from never is",
    fix="deploy without `--limit`, and write the address that the host speaks from",
    find=_queen_lets_it_in,
    severity=Severity.HINT,
    scope=Scope.FAR_HIVE,
)
QUEEN_UP = Check(
    id="queen-up",
    title="The queen runs while hives are upgraded",
    looks_at="the same connection, from a host whose hive runs",
    fails_when="it is refused",
    why="the hive is upgraded all the same, but it is the queen who drains and replaces workers",
    fix="start the queen; she replaces them by herself",
    find=_queen_is_up,
    severity=Severity.HINT,
    scope=Scope.FAR_HIVE,
)
