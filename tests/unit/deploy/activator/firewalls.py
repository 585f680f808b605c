"""Made-up tools of the three firewalls, and rules for the tests."""

from dataclasses import dataclass, field

from rbee_deploy.activator.firewall import FirewallError
from rbee_deploy.activator.firewall.rules import Rule

OPEN = Rule(8500, 8500, None)
LINK = Rule(8501, 8501, ("10.0.0.2", "fd00::2"))
WORKERS = Rule(9000, 9099, ())


@dataclass
class FakeTools:
    """nft, ufw and firewall-cmd as far as they are used here; `fails` are words at which they do."""

    table: str | None = None
    ufw: list[str] = field(default_factory=list)
    zones: dict[str, dict[str, list[str]]] = field(
        default_factory=lambda: {"--permanent": {"public": []}, "": {"public": []}}
    )
    active: bool = True
    fails: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def run(self, *words: str, given: str = "") -> str:
        self.told.append(" ".join(words))
        if self.fails & {words[0], *words}:
            raise FirewallError(f"{words[0]} failed: it was told to")
        return {"nft": self._nft, "ufw": self._ufw, "firewall-cmd": self._firewalld}[words[0]](words[1:], given)

    def _nft(self, words: tuple[str, ...], given: str) -> str:
        if "-f" in words:
            self.table = given
        elif self.table is None:
            raise FirewallError("nft failed: Error: No such file or directory")
        elif "delete" in words:
            self.table = None
        return self.table or ""

    def _ufw(self, words: tuple[str, ...], _given: str) -> str:
        if words == ("status",):
            return "Status: active\n" if self.active else "Status: inactive\n"
        if words == ("show", "added"):
            return "".join(f"ufw {line}\n" for line in ["", *self.ufw])
        if words[0] == "delete":
            line = " ".join(words[1:])
            self.ufw = [known for known in self.ufw if known.partition(" comment ")[0] != line]
            return ""
        rule = " ".join(word for word in words if word != "prepend").replace("comment rbee", "comment 'rbee'")
        self.ufw = [rule, *self.ufw] if words[0] == "prepend" else [*self.ufw, rule]
        return ""

    def _firewalld(self, words: tuple[str, ...], _given: str) -> str:
        lasting = self.zones["--permanent" if "--permanent" in words else ""]
        answers = {
            "--get-default-zone": "public\n",
            "--get-active-zones": "public (default)\n  interfaces: eth0\nwork\n  sources: 10.0.0.0/8\n",
            "--get-zones": f"{' '.join(lasting)}\n",
        }
        if words[-1] in answers:
            return answers[words[-1]]
        zone = next(word for word in words if word.startswith("--zone=")).removeprefix("--zone=")
        for word in words:
            verb, _, rule = word.partition("-rich-rule=")
            if verb == "--add":
                lasting[zone].append(rule)
            elif verb == "--remove":
                lasting[zone].remove(rule)
        return "".join(f"{rule}\n" for rule in lasting[zone])
