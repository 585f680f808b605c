"""A table of our own for nftables, replaced as a whole in one transaction.

What it drops is the first packet of a connection to one of our ports, so that no stream is cut when rules change, and
neither tracking nor answers to connections of the host's own matter.

What a container engine publishes is no input of the host: it is sent on to the bridge of the workers, with the caller's
address as it came. There the same rules hold, before those of the engine (priority 0), which would let it through.
"""

from collections.abc import Iterator, Sequence

from rbee_deploy.activator.firewall.commands import FirewallError, run
from rbee_deploy.activator.firewall.rules import Rule, Rules, is_ipv6
from rbee_runtime import worker_bridge

TABLE = ("inet", "rbee")
_NAME = " ".join(TABLE)
BEGINS = "tcp flags & (syn | ack) == syn"


def script(rules: Rules) -> str:
    """Return the transaction."""
    lines = [line for rule in rules.rules for line in _lines(rule)]
    bridge = worker_bridge.bridge_of(worker_bridge.NETWORK)
    chains = _chain("input", ['iifname "lo" accept', *lines])
    chains += _chain("forward", [f'oifname "{bridge}" {line}' for line in lines])
    # A table has to be there to be deleted.
    return f"add table {_NAME}\ndelete table {_NAME}\ntable {_NAME} {{\n{chains}}}\n"


def _chain(hook: str, lines: Sequence[str]) -> str:
    rules = "".join(f"\t\t{line}\n" for line in lines)
    return f"\tchain {hook} {{\n\t\ttype filter hook {hook} priority filter - 10; policy accept;\n{rules}\t}}\n"


def _lines(rule: Rule) -> Iterator[str]:
    if rule.sources is None:
        return
    ports = f"tcp dport {rule.span('-')}"
    families = (("ip", [one for one in rule.sources if not is_ipv6(one)]), ("ip6", list(filter(is_ipv6, rule.sources))))
    yield from (f"{ports} {family} saddr {{ {', '.join(there)} }} accept" for family, there in families if there)
    yield f"{ports} {BEGINS} drop"


def planned(_rules: Rules) -> Sequence[str]:
    """Return what will be held: the kernel's own words, which are not known before."""
    return ()


def apply(rules: Rules, _held: Sequence[str]) -> Sequence[str]:
    """Put the table in force and return how the kernel lists it."""
    run("nft", "-f", "-", given=script(rules))
    return _listed()


def differences(_rules: Rules, held: Sequence[str]) -> list[str]:
    """Return how the table differs from the one that was put in force."""
    try:
        listed = _listed()
    except FirewallError as error:
        return [f"table {_NAME} is not in force: {error}"]
    return [] if listed == list(held) else [f"table {_NAME} was changed"]


def _listed() -> list[str]:
    return run("nft", "--stateless", "list", "table", *TABLE).splitlines()


def remove(_held: Sequence[str]) -> None:
    """Take the table away, unless somebody flushed it already."""
    try:
        _listed()
    except FirewallError:
        return
    run("nft", "delete", "table", *TABLE)
