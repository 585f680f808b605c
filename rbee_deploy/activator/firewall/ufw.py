"""Rules for ufw, told from a person's by their comment.

What is allowed goes before every other rule and what is denied behind them, so that the order in which ours are added
does not matter, and a deny closes our ports where ufw's default is to accept as well.
"""

from collections.abc import Iterable, Iterator, Sequence

from rbee_deploy.activator.firewall.commands import FirewallError, run
from rbee_deploy.activator.firewall.rules import Rules

MARK = " comment 'rbee'"


def planned(rules: Rules) -> Sequence[str]:
    """Return the rules as ufw lists them, without their comment."""
    return list(dict.fromkeys(_planned(rules)))


def _planned(rules: Rules) -> Iterator[str]:
    for rule in rules.rules:
        ports = rule.span(":")
        if rule.sources is None:
            yield f"allow {ports}/tcp"
        else:
            yield from (f"allow from {source} to any port {ports} proto tcp" for source in rule.sources)
            yield f"deny {ports}/tcp"


def apply(rules: Rules, _held: Sequence[str]) -> Sequence[str]:
    """Add what is missing, then take away what is ours and not wanted any more: meanwhile both are allowed."""
    _require_active()
    there, wanted = _added(), planned(rules)
    for line in (line for line in wanted if line not in there):
        opposite = _opposite(line)
        if opposite in there:
            # ufw would turn that rule into this one, at the place where that one stands.
            _require_ours(opposite, line, ours=there.pop(opposite))
            _delete([opposite])
        verb, *words = line.split()
        before = ("prepend",) if verb == "allow" else ()
        run("ufw", *before, verb, *words, "comment", "rbee")
    _delete(line for line, ours in there.items() if ours and line not in wanted)
    return wanted


def _opposite(line: str) -> str:
    verb, _, rest = line.partition(" ")
    return f"{'deny' if verb == 'allow' else 'allow'} {rest}"


def _require_ours(opposite: str, line: str, *, ours: bool) -> None:
    if not ours:
        raise FirewallError(f"ufw has a rule that stands against {line!r}; run ufw delete {opposite} there")


def differences(rules: Rules, _held: Sequence[str]) -> list[str]:
    """Return which rules are not there, and which are too many."""
    _require_active()
    there, wanted = _added(), planned(rules)
    missing = [f"ufw lacks: {line}" for line in wanted if line not in there]
    return [*missing, *(f"ufw still has: {line}" for line, ours in there.items() if ours and line not in wanted)]


def remove(_held: Sequence[str]) -> None:
    """Delete every rule of ours; one that is switched off forgets them as well."""
    _delete(line for line, ours in _added().items() if ours)


def _delete(lines: Iterable[str]) -> None:
    # First what denies: until all are gone, more is allowed and not less.
    for line in sorted(lines, reverse=True):
        run("ufw", "delete", *line.split())


def _added() -> dict[str, bool]:
    """Return the rules that were added by whomever, and whether each is ours."""
    lines = [line for line in run("ufw", "show", "added").splitlines() if line.startswith("ufw ")]
    return {line.removeprefix("ufw ").partition(" comment ")[0]: line.endswith(MARK) for line in lines}


def _require_active() -> None:
    if "Status: active" not in run("ufw", "status").splitlines():
        raise FirewallError("ufw is not active; allow SSH in it and run ufw enable")
