"""What of ours is in force in which firewall; noted before it is, so that nothing of ours is ever left behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from rbee_deploy.activator import disk, places
from rbee_deploy.activator.firewall.rules import Kind


@dataclass(frozen=True)
class Record:
    """`rules` is the text of the file that was put in force, "" while that is under way; `held` is by kind."""

    rules: str = ""
    held: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def load(cls) -> "Record":
        """Return what is on disk; nothing if that is damaged, and kinds that are not known here stay out."""
        try:
            known = json.loads(places.FIREWALL_HELD.read_text(encoding="utf-8"))
            held: dict[str, Sequence[str]] = {
                kind: tuple(map(str, known["held"][kind])) for kind in Kind if kind in known["held"]
            }
            return cls(str(known["rules"]), held)
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def of(self, kind: Kind) -> Sequence[str]:
        """Return what is held of one kind."""
        return self.held.get(kind, ())

    def holding(self, kind: Kind, entries: Sequence[str], *, rules: str = "") -> "Record":
        """Return it with other entries of one kind."""
        return replace(self, rules=rules, held={**self.held, kind: tuple(entries)})

    def without(self, kind: str) -> "Record":
        """Return it without one kind."""
        return replace(self, held={known: entries for known, entries in self.held.items() if known != kind})

    def save(self) -> None:
        """Put it on the disk in one step; nothing at all where nothing is held."""
        if not self.held:
            places.FIREWALL_HELD.unlink(missing_ok=True)
            return
        disk.private_folder(places.HOME)
        disk.write(places.FIREWALL_HELD, (json.dumps(asdict(self), separators=(",", ":")) + "\n").encode())
