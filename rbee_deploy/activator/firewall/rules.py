"""Who may connect to the ports of rbee on a host, as it lies in /etc/rbee/firewall.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rbee_deploy.activator import places


class Kind(StrEnum):
    """What holds the rules on a host."""

    NFTABLES = "nftables"
    UFW = "ufw"
    FIREWALLD = "firewalld"


@dataclass(frozen=True)
class Rule:
    """TCP ports `first` to `last` are for `sources` alone, addresses and networks; None means everybody."""

    first: int
    last: int
    sources: tuple[str, ...] | None

    @property
    def entry(self) -> dict[str, Any]:
        """Return it as it is written down."""
        return {"ports": [self.first, self.last], "from": self.sources}

    def span(self, mark: str) -> str:
        """Return the ports as a firewall writes them, with its mark between first and last."""
        return str(self.first) if self.first == self.last else f"{self.first}{mark}{self.last}"


@dataclass(frozen=True)
class Rules:
    """All rules of a host. Loopback is for everybody, other ports are none of ours."""

    kind: Kind
    rules: tuple[Rule, ...]

    def text(self) -> str:
        """Return the file."""
        lines = ",\n".join(f"  {json.dumps(rule.entry)}" for rule in self.rules)
        return f'{{\n "kind": {json.dumps(self.kind)},\n "rules": [\n{lines}\n ]\n}}\n'

    @classmethod
    def parse(cls, text: str) -> "Rules":
        """Return the rules out of the file's text, or raise ValueError."""
        try:
            known: Mapping[str, Any] = json.loads(text)
            return cls(Kind(known["kind"]), tuple(map(_rule, known["rules"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{places.FIREWALL} holds no rules that this release knows ({error})") from error


def _rule(entry: Mapping[str, Any]) -> Rule:
    first, last = entry["ports"]
    sources = entry["from"]
    return Rule(int(first), int(last), None if sources is None else tuple(map(str, sources)))


def is_ipv6(source: str) -> bool:
    """Say whether an address or network is of IPv6."""
    return ":" in source
