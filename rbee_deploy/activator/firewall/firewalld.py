"""Rich rules for firewalld, in what runs and in what lasts; which are ours is on record.

They are in the default zone and in those that are in use: a packet meets one zone only. Their priorities put them
before all that a person added, what is accepted before what is dropped.
"""

from collections.abc import Iterable, Iterator, Sequence

from rbee_deploy.activator.firewall.commands import run
from rbee_deploy.activator.firewall.rules import Rule, Rules, is_ipv6

RUNS_AND_LASTS: tuple[tuple[str, ...], ...] = ((), ("--permanent",))
ACCEPT, DROP = -110, -105


def planned(rules: Rules) -> Sequence[str]:
    """Return zone and rule of each, by a tab, as firewalld lists them."""
    return [f"{zone}\t{line}" for zone in _zones() for rule in rules.rules for line in _lines(rule)]


def _lines(rule: Rule) -> Iterator[str]:
    port = f'port port="{rule.span("-")}" protocol="tcp"'
    if rule.sources is None:
        yield f'rule priority="{ACCEPT}" {port} accept'
        return
    for source in rule.sources:
        family = "ipv6" if is_ipv6(source) else "ipv4"
        yield f'rule priority="{ACCEPT}" family="{family}" source address="{source}" {port} accept'
    yield f'rule priority="{DROP}" {port} drop'


def _zones() -> list[str]:
    """Return the default zone and those of interfaces and sources, which newer versions name with remarks."""
    default = run("firewall-cmd", "--get-default-zone").strip()
    active = run("firewall-cmd", "--get-active-zones").splitlines()
    return list(dict.fromkeys([default, *(line.split()[0] for line in active if line.strip() and line[0] != " ")]))


def apply(rules: Rules, held: Sequence[str]) -> Sequence[str]:
    """Add what is missing and then take away what is ours and not wanted any more."""
    wanted = planned(rules)
    for lasting in RUNS_AND_LASTS:
        there = _there(lasting, [*wanted, *held])
        _change("add", lasting, (entry for entry in wanted if entry not in there))
        _change("remove", lasting, (entry for entry in _drops_first(held) if entry in there and entry not in wanted))
    return wanted


def differences(rules: Rules, held: Sequence[str]) -> list[str]:
    """Return which rules are not there, and which are too many."""
    wanted = planned(rules)
    stale = [entry for entry in held if entry not in wanted]
    found: list[str] = []
    for lasting in RUNS_AND_LASTS:
        there, kind = _there(lasting, [*wanted, *stale]), "lasting" if lasting else "running"
        found += [f"firewalld lacks the {kind} {_said(entry)}" for entry in wanted if entry not in there]
        found += [f"firewalld still has the {kind} {_said(entry)}" for entry in stale if entry in there]
    return found


def _said(entry: str) -> str:
    zone, _, rule = entry.partition("\t")
    return f"{rule} in zone {zone}"


def remove(held: Sequence[str]) -> None:
    """Take every rule of ours away, first those that drop."""
    for lasting in RUNS_AND_LASTS:
        there = _there(lasting, held)
        _change("remove", lasting, (entry for entry in _drops_first(held) if entry in there))


def _drops_first(held: Sequence[str]) -> list[str]:
    return sorted(held, key=lambda entry: entry.endswith("accept"))


def _there(lasting: tuple[str, ...], entries: Iterable[str]) -> set[str]:
    """Return the rules in the zones of these."""
    zones = dict.fromkeys(entry.partition("\t")[0] for entry in entries)
    known = set(run("firewall-cmd", *lasting, "--get-zones").split())
    return {
        f"{zone}\t{line}"
        for zone in zones
        if zone in known
        for line in run("firewall-cmd", *lasting, f"--zone={zone}", "--list-rich-rules").splitlines()
    }


def _change(verb: str, lasting: tuple[str, ...], entries: Iterable[str]) -> None:
    rules: dict[str, list[str]] = {}
    for zone, _, rule in (entry.partition("\t") for entry in entries):
        rules.setdefault(zone, []).append(f"--{verb}-rich-rule={rule}")
    for zone, options in rules.items():
        run("firewall-cmd", *lasting, f"--zone={zone}", *options)
